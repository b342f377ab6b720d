"""What other programs read about bidsrep: container recipes, and descriptors for managers of cohorts."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from bidsrep import __version__
from bidsrep.cli.parser import build_parser, parse_settings
from bidsrep.settings import Settings

ROOT = Path(__file__).parents[1]
NIPOPPY = ROOT / "deploy" / "nipoppy" / f"bidsrep-{__version__}"
SECTIONS = {"arguments", "files", "post", "environment", "runscript", "test", "labels", "help"}
pytestmark = pytest.mark.skipif(not (ROOT / "Dockerfile").exists(), reason="not a source checkout")


def words(descriptor: dict, values: dict) -> list[str]:
    """Put values into the command line of a Boutiques descriptor."""
    found = []
    for given in descriptor["inputs"]:
        value = values.get(given["id"])
        if value is not None:
            found += [given["command-line-flag"]] if "command-line-flag" in given else []
            found += map(str, value if given.get("list") else [value])
    assert set(values) <= {given["id"] for given in descriptor["inputs"]}
    return found


def load(name: str) -> dict:
    return json.loads((NIPOPPY / name).read_text())


def test_the_pipeline_of_nipoppy_is_a_command_line() -> None:
    config = load("config.json")
    assert config["VERSION"] == __version__
    (step,) = config["STEPS"]
    text = (NIPOPPY / step["INVOCATION_FILE"]).read_text()
    values = json.loads(
        text.replace("[[NIPOPPY_PARTICIPANT_ID]]", "01").replace("[[NIPOPPY_SESSION_ID]]", "A")
    )
    settings = parse_settings(words(load(step["DESCRIPTOR_FILE"]), values))
    assert (settings.participant_label, settings.session_label) == (("01",), ("A",))
    assert settings.nprocs == int(load(step["HPC_CONFIG_FILE"])["CORES"])
    assert all((NIPOPPY / value).is_file() for key, value in step.items() if key.endswith("_FILE"))


def test_the_descriptor_knows_only_options_that_exist() -> None:
    descriptor = load("descriptor.json")
    options = {action.dest: action for action in build_parser()._actions}
    for given in descriptor["inputs"]:
        action = options[given["id"]]
        assert given.get("command-line-flag") in (*action.option_strings, None)
        assert given.get("value-choices") == (list(action.choices) if action.choices else None)
        assert given["value-key"] in descriptor["command-line"].split()
    assert descriptor["tool-version"] == __version__


def test_the_arguments_for_babs_parse() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "babs" / "bidsrep.yaml").read_text())
    arguments = ["/in", "/out", "participant"]
    for name, value in config["bids_app_args"].items():
        arguments += [value, "01"] if name.startswith("$") else [name, value]
    assert isinstance(parse_settings([word for word in arguments if word]), Settings)
    assert config["zip_foldernames"] == {"bidsrep": __version__.replace(".", "-")}


def test_recipes_take_files_that_are_there_and_are_let_through() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    copied = [
        name for line in re.findall(r"^COPY (?!--)(.+) \S+$", dockerfile, re.M) for name in line.split()
    ]
    let_through = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.M)
    definition = (ROOT / "singularity" / "bidsrep.def").read_text()
    taken = re.findall(r"^    (\S+) /src/\S+$", definition, re.M)
    assert sorted(copied) == sorted(let_through) == sorted(taken)
    assert all((ROOT / name).exists() for name in copied)
    assert set(re.findall(r"^%(\w+)", definition, re.M)) == SECTIONS


def test_the_smoke_test_is_skipped_where_nothing_runs_images(tmp_path: Path) -> None:
    for name in ("mktemp", "mkdir", "chmod", "rm", "bash"):
        (tmp_path / name).symlink_to(f"/bin/{name}")
    script = str(ROOT / "containers" / "smoke.sh")
    for image in ("image", "image.sif"):
        command = ["/bin/bash", script, image]
        ran = subprocess.run(
            command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
        )
        assert (ran.returncode, "skipped" in ran.stdout) == (77, True), ran.stderr
