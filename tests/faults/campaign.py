"""The long versions of the fault tests: many random kills, and minutes of damaged inputs; the figures as a table.

    python tests/faults/campaign.py --kills 50 --fuzz-minutes 20 --out figures.md

Every kill is of a run of one or (with ``--whole``) two subjects, at a uniformly random moment: of its main process, or
of one of its workers. The run is then repeated, and what it leaves is compared, byte by byte, with what an undisturbed run left.
The fuzzing damages images, sidecars, tables, filter files and weights, and reads them as a run does; `fuzzing.py` says how.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

if __package__ in (None, ""):  # started as a file
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from tests.faults import fuzzing
from tests.faults.kills import Kill, kill_and_resume, remove, say, undisturbed
from tests.faults.lab import Lab

WORKERS_SHARE = 0.25
"""Of the kills, so many are of a worker."""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; 0 if nothing was torn, lost, different, nameless or dead."""
    options = _parser().parse_args(argv)
    rows: list[tuple[str, object]] = []
    good = True
    if options.kills:
        kills, minutes = kill_many(
            options.kills, options.seed, () if options.whole else ("--participant-label", "02")
        )
        rows += kill_rows(kills, minutes)
        good &= all(kill.survived for kill in kills)
        if options.details:
            lines = [json.dumps(asdict(kill)) for kill in kills]
            options.details.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if options.fuzz_minutes:
        tally = fuzzing.fuzz(60 * options.fuzz_minutes, options.seed)
        rows += tally.rows()
        good &= tally.good
        for finding in tally.findings:
            print(finding, file=sys.stderr)
    table = "\n".join(["| figure | value |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)])
    if options.out:
        options.out.write_text(table + "\n", encoding="utf-8")
    print(table)
    return 0 if good else 1


def kill_many(count: int, seed: int, wanted: Sequence[str]) -> tuple[list[Kill], float]:
    """Kill runs, resume and compare; give what came of each, and how many minutes it took."""
    chance = random.Random(seed)
    started = time.monotonic()
    kills = []
    with tempfile.TemporaryDirectory() as folder, Lab(Path(folder)) as lab:
        expected = undisturbed(lab, Path(folder) / "runs", *wanted)
        for number in range(count):
            victim = "worker" if chance.random() < WORKERS_SHARE else "main"
            out = Path(folder) / "runs" / f"kill{number}"
            kills.append(kill_and_resume(lab, expected, out, victim, chance, *wanted))
            print(f"{number + 1}/{count}: ", end="", file=sys.stderr)
            say(kills[-1])
            remove(out)
    return kills, (time.monotonic() - started) / 60


def kill_rows(kills: Sequence[Kill], minutes: float) -> list[tuple[str, object]]:
    """Sum kills up."""
    victims = Counter(kill.victim for kill in kills)
    return [
        (
            "random kills (SIGKILL)",
            f"{len(kills)}: {victims['main']} of the main process, {victims['worker']} of a worker",
        ),
        ("of these, at a moment when the run was still at work", sum(kill.hit for kill in kills)),
        (
            "survived: resumed to the bytes of an undisturbed run",
            f"{sum(k.survived for k in kills)} of {len(kills)}",
        ),
        ("finished files on disk at the moments of the kills", sum(kill.there for kill in kills)),
        ("torn files among them", sum(len(kill.torn) for kill in kills)),
        ("whole files that resuming wrote again", sum(len(kill.redone) for kill in kills)),
        ("files lost or with other bytes after resuming", sum(len(kill.differing) for kill in kills)),
        (
            "half-written files left in the output after resuming",
            sum(len(kill.left) for kill in kills),
        ),
        ("processes that outlived their run", sum(kill.orphans for kill in kills)),
        ("minutes", f"{minutes:.1f}"),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("campaign.py", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="random kills (default: none)")
    parser.add_argument(
        "--fuzz-minutes", type=float, default=0, metavar="M", help="minutes of damaged inputs (default: none)"
    )
    parser.add_argument(
        "--whole", action="store_true", help="kill runs of the whole cohort (two to three times as long)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of everything random")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table here, too")
    parser.add_argument(
        "--details", type=Path, metavar="FILE", help="write every kill here, as lines of JSON"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
