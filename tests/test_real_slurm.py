"""What only a real Slurm can show: the same bytes as a local run, an account that is true after kills, two ranks.

Skipped where no Slurm answers. Campaigns (``-m campaign``): every job takes seconds to load the libraries.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from faults.lab import Lab, children, contents, write_dataset

from bidsrep.cli.slurm import main as slurm

LIMIT_S = 1800
KILLS = 6
SCANS = tuple(f"sub-0{number}/anat/sub-0{number}_T1w" for number in (1, 2, 3))
PLUGIN = {"plugin": "SLURM", "plugin_args": {"sbatch_args": "--time=30", "poll_s": 1, "max_jobs": 4}}
RECIPE = """
model = "brainid"
name = "tiny"
precision = "32-true"
accumulate = {accumulate}
[architecture]
f_maps = 8
num_levels = 2
heads = {{ image = 1 }}
[[stages]]
iterations = 4
shape = [16, 16, 16]
[optimiser]
lr = 1e-3
warmup = 2
"""


def answers() -> bool:
    """Tell whether a Slurm takes jobs here."""
    try:
        told = subprocess.run(["sinfo", "--noheader"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return told.returncode == 0 and bool(told.stdout.strip())


pytestmark = [
    pytest.mark.campaign,
    pytest.mark.timeout(2 * LIMIT_S),
    pytest.mark.skipif(not answers(), reason="no Slurm answers here"),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Give a place to run bidsrep on three tiny subjects, with one run in it that no Slurm was in."""
    with Lab(tmp_path_factory.mktemp("slurm")) as made:
        write_dataset(made.root / "three", SCANS)
        run = made.run(made.root / "local", raw=made.root / "three")
        assert run.code == 0, run.said
        yield made


def options(lab: Lab, out: Path) -> list[str]:
    """Give the options that the runs of the lab have, for `bidsrep-slurm`."""
    words = lab.arguments(out, raw=lab.root / "three", work=lab.root / f"{out.name}-work")
    for name in ("--nprocs", "--omp-nthreads"):
        place = words.index(name)
        del words[place : place + 2]
    return [*words, "--nprocs", "1", "--mem-gb", "2", "--minutes", "20"]


def submit(lab: Lab, out: Path, *more: str) -> list[int]:
    """Hand an array to Slurm; give the numbers of all jobs of this output folder."""
    place = out / "logs" / "slurm" / "jobs.txt"
    before = place.read_text().split() if place.is_file() else []
    setup = lab.root / "setup.sh"
    variables = {name: lab.environment()[name] for name in ("PYTHONPATH", "HOME", "OMP_NUM_THREADS")}
    lines = [f"export {name}='{value}'" for name, value in variables.items()]
    setup.write_text("\n".join([*lines, f"export PATH='{Path(sys.executable).parent}':$PATH", ""]))
    code = slurm([*options(lab, out), "--setup", str(setup), "--submit", *more])
    assert code == 0
    now = place.read_text().split() if place.is_file() else []
    return [int(job) for job in now[len(before) :]]


def wait_for(jobs: list[int]) -> None:
    """Wait until the queue holds none of the jobs."""
    end = time.monotonic() + LIMIT_S
    while queue() & set(jobs):
        assert time.monotonic() < end, "jobs are still in the queue"
        time.sleep(1)


def queue() -> set[int]:
    """List what is waiting or running, by the number of the array."""
    told = subprocess.run(["squeue", "-h", "-o", "%F"], capture_output=True, text=True, check=True).stdout
    return {int(word) for word in told.split()}


def states(job: int) -> list[str]:
    """List how the tasks of a job ended."""
    told = subprocess.run(["scontrol", "show", "job", str(job)], capture_output=True, text=True, check=True)
    words = told.stdout.split()
    return sorted(word.partition("=")[2] for word in words if word.startswith("JobState="))


def same(out: Path, local: Path) -> None:
    """Compare all results byte by byte."""
    found, wanted = contents(out), contents(local)
    for made in (found, wanted):
        for name in [name for name in made if name.startswith("logs/") or name == "group.html"]:
            del made[name]
    assert sorted(found) == sorted(wanted)
    different = [name for name in wanted if found[name] != wanted[name]]
    assert not different


def test_an_array_gives_the_bytes_of_a_local_run(lab: Lab) -> None:
    out = lab.root / "array"
    jobs = submit(lab, out)
    wait_for(jobs)
    assert states(jobs[0]) == ["COMPLETED"] * len(SCANS)
    same(out, lab.root / "local")


def test_the_plugin_gives_the_bytes_of_a_local_run(lab: Lab) -> None:
    file, out = lab.root / "plugin.json", lab.root / "plugin"
    file.write_text(json.dumps(PLUGIN))
    run = lab.start(out, "--use-plugin", str(file), raw=lab.root / "three")
    assert run.wait(LIMIT_S) == 0, run.said
    same(out, lab.root / "local")


@pytest.mark.parametrize("seed", [1, 2])
def test_what_was_killed_is_told_and_a_rerun_completes_only_that(lab: Lab, seed: int) -> None:
    """Jobs are cancelled and their programs killed at random; then `--resubmit` until nothing is left."""
    out, draw = lab.root / f"killed{seed}", random.Random(seed)
    jobs = submit(lab, out)
    harm = disturb(jobs[0], draw)
    wait_for(jobs)
    assert harm, "nothing was hit: the jobs were faster"
    whole = recorded(out)
    ended = states(jobs[0])
    assert ended.count("COMPLETED") <= len(whole), "a job that says it is done must have left all results"
    before = {name: data for name, data in contents(out).items() if name.split("/")[0] in whole}
    times = {name: (out / name).stat().st_mtime_ns for name in before if name.startswith("sub-")}
    jobs = submit(lab, out, "--resubmit")
    if jobs:
        script = max(out.glob("logs/slurm/*/participant.sh"), key=lambda path: path.stat().st_mtime_ns)
        again = {line for line in script.read_text().splitlines() if line.startswith("sub-")}
        assert again >= {scan.split("/")[0] for scan in SCANS} - whole
        wait_for(jobs)
    same(out, lab.root / "local")
    untouched = [name for name in times if name.split("/")[0] not in (again if jobs else ())]
    assert all((out / name).stat().st_mtime_ns == times[name] for name in untouched)
    assert submit(lab, out, "--resubmit") == [], "nothing is left to do"


def disturb(job: int, draw: random.Random) -> list[str]:
    """Cancel tasks and kill programs at random while the job is in the queue; tell what was done."""
    done: list[str] = []
    while job in queue() and len(done) < KILLS:
        time.sleep(draw.uniform(1, 6))
        if draw.random() < 0.4:
            task = f"{job}_{draw.randrange(len(SCANS))}"
            subprocess.run(["scancel", task], check=False, capture_output=True)
            done.append(f"scancel {task}")
        else:
            programs = running()
            if programs:
                os.kill(draw.choice(programs), signal.SIGKILL)
                done.append("SIGKILL")
    return done


def running() -> list[int]:
    """List the programs that tasks run: those that Slurm's step manager started, and what they started."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            name = (entry / "comm").read_text().strip() if entry.name.isdigit() else ""
        except OSError:
            continue
        if name == "slurmstepd":
            waiting = children(int(entry.name))
            while waiting:
                process = waiting.pop()
                below = children(process)
                found += [process] if not below else []
                waiting += below
    return found


def recorded(out: Path) -> set[str]:
    """List the subjects whose results and page are all there."""
    pages = {path.stem for path in out.glob("sub-*.html")}
    return {path.parts[-3] for path in out.glob("sub-*/log/completed-*.json")} & pages


def test_two_ranks_train_as_one_process_that_accumulates(tmp_path: Path) -> None:
    """``srun --ntasks-per-node=2 bidsrep-train pretrain``: the weights are those of one process with twice the mini-batches."""
    from torch import load
    from torch.testing import assert_close

    data = anatomy(tmp_path / "data")
    made = {}
    for name, accumulate, start in (
        ("one", 2, []),
        ("two", 1, ["srun", "--ntasks-per-node=2", "-n2", "--mem-per-cpu=2000"]),
    ):
        recipe = tmp_path / f"{name}.toml"
        recipe.write_text(RECIPE.format(accumulate=accumulate))
        code = "import sys; from bidsrep.cli.train import main; sys.exit(main())"
        command = [*start, sys.executable, "-c", code, "pretrain", "brainid", "--config", str(recipe)]
        command += ["--data", str(data), "--out", str(tmp_path / name), "--device", "cpu", "--no-tensorboard"]
        command += ["--devices", "2" if start else "1"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        made[name] = load(tmp_path / name / "last.ckpt", weights_only=True)
    assert made["two"]["global_step"] == made["one"]["global_step"] == 4
    for key, value in made["one"]["state_dict"].items():
        assert_close(made["two"]["state_dict"][key], value, rtol=1e-4, atol=1e-6, msg=key)


def anatomy(folder: Path) -> Path:
    """Write a prepared dataset of one T1w: white matter in grey matter."""
    axes = np.meshgrid(*[np.arange(28) - 13.5] * 3, indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    t1w = np.select([radius < 8, radius < 12], [1.0, 0.6]).astype(np.float32)
    anat = folder / "sub-1" / "anat"
    anat.mkdir(parents=True)
    nib.Nifti1Image(t1w, np.eye(4)).to_filename(anat / "sub-1_desc-brain_T1w.nii.gz")
    (anat / "sub-1_desc-brain_T1w.json").write_text('{"TissueMeans": [0.25, 0.6, 1.0]}')
    return folder
