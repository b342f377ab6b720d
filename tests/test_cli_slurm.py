"""``bidsrep-slurm``: what the scripts ask for and run, that no path can break out of them, and who is left to do."""

import hashlib
import json
import os
import shlex
import subprocess
import threading
from pathlib import Path

import pytest
from conftest import MakeBids
from fake_slurm import FakeSlurm

from bidsrep.cli.parser import parse_settings
from bidsrep.cli.slurm import main
from bidsrep.settings import Settings
from bidsrep.workflows.usage import Usage, measured, read_usages

HOSTILE = 'it\'s $(touch pwned) "x"; `false` & 100% \\ *'
NAMES = ("sub-01/ses-A/anat/sub-01_ses-A_T1w.nii.gz", "sub-01/ses-B/anat/sub-01_ses-B_T1w.nii.gz",
         "sub-02/anat/sub-02_T1w.nii.gz", "sub-03/anat/sub-03_FLAIR.nii.gz")  # fmt: skip
RECORDER = """#!/bin/bash
printf '%s\\n' "$@" > "$CALLS/$(ls "$CALLS" | wc -l)"
touch "${!#}/scratch" 2>/dev/null
[[ " $* " == *"$FAILS"* ]] && exit 1
exit 0
"""


class Lab:
    """A dataset, an output folder, and programs that write down how they are called."""

    def __init__(self, root: Path, bids: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.bids, self.out, self.work = root, bids, bids.parent / "out", root / "work place"
        self.scripts, self.calls = root / "scripts", root / "calls"
        programs = root / "programs"
        programs.mkdir(exist_ok=True)
        self.calls.mkdir()
        for name in ("bidsrep", "apptainer"):
            (programs / name).write_text(RECORDER)
            (programs / name).chmod(0o755)
        monkeypatch.setenv("CALLS", str(self.calls))
        monkeypatch.setenv("FAILS", "no such label")
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        monkeypatch.delenv("BIDSREP_MODELS_DIR", raising=False)
        monkeypatch.setenv("XDG_DATA_HOME", str(root / "home"))
        monkeypatch.chdir(root)

    def write(self, *options: str, levels: tuple[str, ...] = ("participant", "group")) -> int:
        places = ["--script-dir", str(self.scripts), "--work-dir", str(self.work)]
        return main([str(self.bids), str(self.out), *levels, *places, *options])

    def script(self, name: str = "participant.sh") -> str:
        text = (self.scripts / name).read_text()
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        return text

    def directives(self, name: str = "participant.sh") -> dict[str, str]:
        lines = [
            line.split("=", 1) for line in self.script(name).splitlines() if line.startswith("#SBATCH --")
        ]
        return {key.removeprefix("#SBATCH --"): value for key, value in lines}

    def run(self, name: str = "participant.sh", task: int = 0) -> int:
        environment = os.environ | {"SLURM_ARRAY_TASK_ID": str(task)}
        return subprocess.run(["bash", self.scripts / name], env=environment, check=False).returncode

    def called(self) -> list[list[str]]:
        return [path.read_text().splitlines() for path in sorted(self.calls.iterdir())]


@pytest.fixture
def lab(tmp_path: Path, make_bids: MakeBids, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(tmp_path, make_bids(NAMES), monkeypatch)


@pytest.fixture
def hostile(tmp_path: Path, make_bids: MakeBids, monkeypatch: pytest.MonkeyPatch) -> Lab:
    (tmp_path / HOSTILE).mkdir()
    made = Lab(tmp_path, make_bids(NAMES, root=f"{HOSTILE}/raw"), monkeypatch)
    made.scripts, made.work = tmp_path / HOSTILE / "scripts", tmp_path / HOSTILE / "work"
    return made


def test_the_array_has_a_task_per_participant(lab: Lab) -> None:
    assert lab.write("--nprocs", "6", "--mem-gb", "12", "--minutes", "30", "--max-running", "2") == 0
    asked = lab.directives()
    assert asked["array"] == "0-2%2"
    assert (asked["cpus-per-task"], asked["mem"]) == ("6", "12288M")
    assert int(asked["time"]) == 5 + 2 * 30  # sub-01 has two sessions
    assert "array" not in lab.directives("group.sh")


def test_a_task_runs_what_was_asked_for(lab: Lab) -> None:
    lab.write("--model", "pepsi", "brainid", "--nprocs", "6", "--mem-gb", "10", "--lesion-threshold", "0.4")
    assert lab.run(task=1) == 0
    (call,) = lab.called()
    settings = parse_settings(call)
    assert settings.participant_label == ("02",)
    assert (settings.models, settings.lesion_threshold) == (("pepsi", "brainid"), 0.4)
    assert (settings.nprocs, settings.omp_nthreads, settings.mem_gb) == (6, 6, 9.0)
    assert (settings.bids_dir, settings.out_dir) == (lab.bids, lab.out)
    assert settings.work_dir == lab.work / "sub-02"
    assert settings.analysis_level == ("participant",)


def test_the_group_job_runs_the_group_level(lab: Lab) -> None:
    lab.write()
    assert lab.run("group.sh") == 0
    (call,) = lab.called()
    assert parse_settings(call).analysis_level == ("group",)


def test_without_the_level_group_there_is_no_such_job(lab: Lab) -> None:
    lab.write(levels=("participant",))
    assert not (lab.scripts / "group.sh").exists()


@pytest.mark.parametrize("options", [(), ("--local-work",), ("--image", "image.sif")])
def test_no_path_breaks_out_of_its_quotes(hostile: Lab, options: tuple[str, ...]) -> None:
    (hostile.root / "image.sif").write_bytes(b"image")
    (hostile.root / HOSTILE / "setup.sh").write_text("export WAS_SET_UP=1\n")
    hostile.write("--setup", str(hostile.root / HOSTILE / "setup.sh"), *options)
    assert hostile.run(task=2) == 0
    assert hostile.run("group.sh") == 0
    first, second = hostile.called()
    if "--image" not in options:
        assert [first[0], second[0]] == [str(hostile.bids)] * 2
        assert parse_settings(first).participant_label == ("03",)
    else:
        assert f"{hostile.bids}:{hostile.bids}:ro" in first
    assert not list(hostile.root.rglob("pwned"))


def test_work_is_removed_when_it_is_done_and_kept_when_it_failed(lab: Lab, monkeypatch) -> None:
    monkeypatch.setenv("FAILS", "sub-02")
    lab.write("--max-tasks", "1")
    assert lab.directives()["array"] == "0-0"
    assert lab.run() == 1
    assert len(lab.called()) == 3  # one failure does not end the task
    assert [path.name for path in lab.work.iterdir()] == ["sub-02"]


def test_units_are_shared_out_to_few_tasks(lab: Lab) -> None:
    lab.write("--max-tasks", "2", "--minutes", "10")
    assert (lab.directives()["array"], lab.directives()["time"]) == ("0-1", str(2 * 5 + 10 * 2 * 2))
    lab.run(task=0)
    lab.run(task=1)
    assert [parse_settings(call).participant_label for call in lab.called()] == [("01",), ("02",), ("03",)]


def test_an_array_over_sessions_writes_the_pages_at_the_end(lab: Lab) -> None:
    lab.write("--by", "session")
    assert lab.directives()["array"] == "0-3"
    lab.run(task=1)
    lab.run("group.sh")
    session, pages, group = map(parse_settings, lab.called())
    assert (session.participant_label, session.session_label) == (("01",), ("B",))
    assert pages.reports_only
    assert (pages.analysis_level, pages.participant_label) == (("participant",), ("01", "02", "03"))
    assert (group.analysis_level, group.participant_label) == (("group",), ())


def test_a_bad_session_folder_does_not_become_a_task_of_its_participant(lab: Lab) -> None:
    scan = lab.bids / "sub-01" / "ses-pre_op" / "anat" / "sub-01_T1w.nii.gz"
    scan.parent.mkdir(parents=True)
    scan.write_bytes(b"x")
    lab.write("--by", "session")
    assert "\nsub-01\n" not in lab.script()
    assert lab.directives()["array"] == "0-3"


def test_binding_memory_is_no_amount_of_it(lab: Lab) -> None:
    lab.write("--sbatch", "mem-bind=local")
    assert {"mem", "mem-bind"} <= lab.directives().keys()


def test_what_a_file_of_settings_says_of_resources_counts(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text("nprocs = 8\nmem_gb = 20.0\nomp_nthreads = 2\n")
    lab.write("--config-file", str(tmp_path / "site.toml"), "--sbatch", "mem-per-cpu=4G")
    assert lab.directives()["cpus-per-task"] == "8"
    assert lab.directives()["mem-per-cpu"] == "4G"
    assert "mem" not in lab.directives()
    settings = Settings.from_toml(lab.scripts / "bidsrep.toml")
    assert (settings.nprocs, settings.omp_nthreads, settings.mem_gb) == (8, 2, 18.0)


def test_a_container_sees_its_inputs_only(lab: Lab) -> None:
    masks, weights = lab.root / "masks", lab.root / "mine.safetensors"
    masks.mkdir()
    weights.write_bytes(b"")
    card = weights.with_suffix(".toml")
    card.write_bytes(b"")
    (lab.root / "image.sif").write_bytes(b"image")
    lab.write(
        "--image", "image.sif", "-d", f"m={masks}", "--weights", f"pepsi={weights}", "--sbatch", "gres=gpu:1"
    )
    lab.run(task=0)
    (call,) = lab.called()
    at = call.index(str(lab.root / "image.sif"))
    assert {"--cleanenv", "--containall", "--nv"} <= set(call[:at])
    binds = {call[n + 1] for n, word in enumerate(call[:at]) if word == "--bind"}
    place = lab.work / "sub-01"
    assert binds == {
        f"{lab.bids}:{lab.bids}:ro", f"{lab.out}:{lab.out}:rw", f"{lab.scripts}:/bidsrep/scripts:ro",
        f"{place}:/bidsrep/work", *(f"{path}:{path}:ro" for path in (masks, weights, card)),
    }  # fmt: skip
    assert call[at + 1 : at + 4] == [str(lab.bids), str(lab.out), "participant"]
    assert (
        "BIDSREP_IMAGE_DIGEST=sha256:6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d" in call
    )
    settings = Settings.from_toml(lab.scripts / "bidsrep.toml")
    assert settings.derivatives == {"m": masks}  # so that DatasetLinks lead there from outside, too
    assert settings.work_dir == Path("/bidsrep/work")
    assert "gres" not in lab.directives("group.sh")


def test_a_container_sees_the_folder_of_added_weights(lab: Lab) -> None:
    added = lab.root / "home" / "bidsrep" / "models"
    added.mkdir(parents=True)
    (lab.root / "image.sif").write_bytes(b"image")
    lab.write("--image", "image.sif")
    assert f"--bind {added}:{added}:ro" in lab.script()
    assert Settings.from_toml(lab.scripts / "bidsrep.toml").models_dir == added


def test_a_container_sees_templates(lab: Lab, monkeypatch) -> None:
    home = lab.root / "templates"
    home.mkdir()
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(home))
    (lab.root / "image.sif").write_bytes(b"image")
    lab.write("--image", "image.sif", "--template", "MNI152NLin2009cAsym")
    assert f"--bind {home}:{home}:ro" in lab.script()
    assert f"--env TEMPLATEFLOW_HOME={home}" in lab.script()


def test_outer_folders_are_bound_before_what_lies_in_them(lab: Lab) -> None:
    (lab.root / "image.sif").write_bytes(b"image")
    lab.out = lab.bids / "derivatives" / "bidsrep"
    lab.write("--image", "image.sif")
    script = lab.script()
    assert script.index(f"{lab.bids}:{lab.bids}:ro") < script.index(f"{lab.out}:{lab.out}:rw")


def test_a_path_that_cannot_be_bound_is_refused(lab: Lab, make_bids: MakeBids, capsys) -> None:
    (lab.root / "image.sif").write_bytes(b"image")
    lab.bids = make_bids(NAMES, root="raw:1")
    assert lab.write("--image", "image.sif") == 2
    assert "raw:1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "value", ["account=a b", "mail-user=$(x)", "array=0-9", "comment=a\n#SBATCH", "X=1", "=1"]
)
def test_options_of_sbatch_are_plain_words(lab: Lab, value: str) -> None:
    with pytest.raises(SystemExit) as caught:
        lab.write("--sbatch", value)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    "words", [["group"], ["participant", "--reports-only"], ["participant", "--image", "none"]]
)
def test_what_is_no_job_for_an_array_is_refused(lab: Lab, words: list[str]) -> None:
    assert main([str(lab.bids), str(lab.out), *words]) == 2
    assert not lab.out.exists()


def test_a_dry_run_shows_the_scripts_and_writes_nothing(lab: Lab, capsys) -> None:
    assert lab.write("--dry-run", "--sbatch", "account=lab") == 0
    shown = capsys.readouterr().out
    assert "#SBATCH --account=lab" in shown
    assert shlex.quote(str(lab.work)) in shown
    assert not lab.scripts.exists()
    assert not lab.out.exists()


def test_jobs_are_submitted_and_the_group_waits_for_them(slurm: FakeSlurm, lab: Lab, capsys) -> None:
    slurm.say("hold")
    assert lab.write("--submit") == 0
    assert slurm.arguments(1)[-1] == "participant.sh"
    assert slurm.arguments(2)[-2:] == ["--dependency=afterany:1", "group.sh"]
    assert (slurm.folder / "1.cwd").read_text().strip() == str(lab.scripts)
    assert lab.write("--submit") == 2  # they are still in the queue
    assert "1, 2" in capsys.readouterr().err
    for state in slurm.folder.glob("*.state"):
        state.write_text("COMPLETED 0:0\n")
    assert lab.write("--submit") == 0
    assert len(slurm.jobs) == 4


def test_a_refusal_of_slurm_is_told(slurm: FakeSlurm, lab: Lab, capsys) -> None:
    slurm.say("refuse")
    assert lab.write("--submit") == 70
    assert "Invalid account" in capsys.readouterr().err


def finish(lab: Lab, place: str, **more: object) -> Path:
    """Leave the record of a finished session, and the one file it names."""
    folder = lab.out / place
    (folder / "log").mkdir(parents=True)
    (folder / "result.json").touch()
    (lab.out / f"{place.split('/')[0]}.html").touch()
    state = {"size": 0, "sha256": hashlib.sha256().hexdigest(), "mtime_ns": 0}
    record = {"fingerprint": {}, "outputs": {f"{place}/result.json": state}, **more}
    (folder / "log" / "completed-pepsi.json").write_text(json.dumps(record))
    return folder / "result.json"


def test_only_what_is_not_done_is_submitted_again(lab: Lab, capsys) -> None:
    finish(lab, "sub-01/ses-A")
    finish(lab, "sub-02")
    finish(lab, "sub-03", failed=["FLAIR"])
    lab.write("--resubmit")
    assert "\nsub-01\nsub-03\n" in lab.script()
    lab.write("--resubmit", "--by", "session")
    assert "\nsub-01_ses-B\nsub-03\n" in lab.script()
    lab.write("--resubmit", "--by", "session", "--model", "pepsi", "crl")
    assert "\nsub-02\n" in lab.script()


def test_a_lost_result_is_made_again(lab: Lab, capsys) -> None:
    results = [finish(lab, place) for place in ("sub-01/ses-A", "sub-01/ses-B", "sub-02", "sub-03")]
    assert lab.write("--resubmit") == 0
    assert "Nothing is left" in capsys.readouterr().out
    results[2].unlink()
    (lab.out / "sub-03.html").unlink()
    lab.write("--resubmit")
    assert "(\nsub-02\nsub-03\n)" in lab.script()


def test_resources_are_those_a_trial_needed_and_some_more(lab: Lab) -> None:
    settings = Settings(bids_dir=lab.bids, out_dir=lab.out, nprocs=3, omp_nthreads=2)
    logs = [lab.out / "sub-02" / "log" / "run", lab.out / "sub-01" / "ses-A" / "log" / "run"]
    with measured(logs, settings):
        pass
    for log, peak, wall in zip(logs, (2.5, 1.0), (60.0, 600.0), strict=True):
        content = json.loads((log / "usage.json").read_text())
        assert content["peak_gb"] > 0
        (log / "usage.json").write_text(
            json.dumps(content | {"peak_gb": peak, "wall_s": wall, "sessions": 1})
        )
    (lab.out / "sub-02" / "log" / "older").mkdir()
    (lab.out / "sub-02" / "log" / "older" / "usage.json").write_text("[]")
    assert len(read_usages(lab.out)) == 2
    lab.write()
    asked = lab.directives()
    assert (asked["cpus-per-task"], asked["mem"]) == ("3", f"{1024 * 5}M")
    assert int(asked["time"]) == 5 + 2 * 20
    lab.write("--mem-gb", "2")
    assert lab.directives()["mem"] == "2048M"


def test_an_interrupted_run_leaves_no_measure(lab: Lab) -> None:
    with pytest.raises(KeyboardInterrupt), measured([lab.out], Settings(bids_dir=lab.bids, out_dir=lab.out)):
        raise KeyboardInterrupt
    assert not lab.out.exists()


def test_no_memory_left_to_measure_memory(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[object] = []
    asked = threading.Event()

    def none_left(process: int) -> int:
        if threading.current_thread() is threading.main_thread():
            return 2**30
        asked.set()
        raise MemoryError

    monkeypatch.setattr("bidsrep.workflows.usage.INTERVAL_S", 0.01)
    monkeypatch.setattr("bidsrep.workflows.usage.resident", none_left)
    monkeypatch.setattr(threading, "excepthook", left.append)
    with measured([lab.root], Settings(bids_dir=lab.bids, out_dir=lab.out)):
        assert asked.wait(10)
    usage = Usage.read(lab.root / "usage.json")
    assert usage is not None
    assert usage.peak_gb == 1
    assert not left


def test_memory_of_started_processes_counts(lab: Lab) -> None:
    settings = Settings(bids_dir=lab.bids, out_dir=lab.out)
    with measured([lab.root], settings):
        code = "import time; x = bytearray(300 * 2**20); time.sleep(1.5)"
        subprocess.run(["python3", "-c", code], check=True)
    usage = Usage.read(lab.root / "usage.json")
    assert usage is not None
    assert usage.peak_gb > 0.3
    assert usage.wall_s >= 1.5
