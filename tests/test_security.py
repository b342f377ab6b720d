"""The claims of SECURITY.md that no other test holds the program to."""

import ast
import json
import os
import re
import struct
from pathlib import Path

import pytest

import bidsrep
from bidsrep.bids.discovery import find_sessions
from bidsrep.bids.filters import read_filter_file
from bidsrep.bids.names import output_path, sanitise
from bidsrep.bids.scans import Scan, Session, parse_name
from bidsrep.errors import UsageError, WeightsError
from bidsrep.models.weights import card_path, read_weights
from bidsrep.settings import Settings
from bidsrep.workflows import ledger, workfolder
from bidsrep.workflows.participant import run_wf_name

ROOT = Path(bidsrep.__file__).parents[1]
CODE = [path for folder in ("bidsrep", "workflows") for path in (ROOT / folder).rglob("*.py")]


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """List the calls in a module, by the words that name what is called."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


class TestSource:
    """What is nowhere in the code."""

    @pytest.mark.parametrize("path", CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
    def test_no_shell_no_eval_no_pickle(self, path: Path) -> None:
        for name, call in calls(path):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert given.get("shell") in (None, "False"), name
            assert name not in ("os.system", "os.popen", "eval", "exec", "pickle.load", "pickle.loads"), name
            assert name not in ("yaml.load", "yaml.unsafe_load", "joblib.load"), name
            if name == "torch.load":
                assert given.get("weights_only") == "True"
            if name == "np.load":
                assert given.get("allow_pickle") in (None, "False")

    def test_only_fetching_opens_connections(self) -> None:
        network = re.compile(
            r"^\s*(import|from) (requests|pooch|urllib\.request|http\.client|socket)\b", re.M
        )
        using = {
            p.relative_to(ROOT).as_posix() for p in CODE if network.search(p.read_text(encoding="utf-8"))
        }
        assert using <= {"bidsrep/cli/fetch.py", "bidsrep/imaging/template.py"}


class TestPaths:
    """No name leads out of the output folder."""

    @pytest.mark.parametrize(
        "name",
        [
            "sub-01_acq-../../x_T1w.nii.gz",
            "sub-../etc_T1w.nii.gz",
            "sub-01_acq-a/b_T1w.nii.gz",
            "sub-01_acq-\0_T1w.nii",
        ],
    )
    def test_labels_are_letters_and_digits(self, name: str) -> None:
        assert parse_name(name) is None

    @pytest.mark.parametrize("label", ["../..", "a/b", "a\0b", "a b", "<b>", "=1", "$(id)"])
    def test_labels_of_results_are_reduced(self, label: str) -> None:
        try:
            assert re.fullmatch("[0-9a-zA-Z+]+", sanitise(label))
        except ValueError:
            assert not re.search("[0-9a-zA-Z+]", label)

    def test_results_stay_below_the_output(self, tmp_path: Path) -> None:
        path = output_path(tmp_path, Session("01", "A"), desc="../../x", suffix="T1w", extension=".nii.gz")
        assert path.resolve().is_relative_to(tmp_path.resolve())

    def test_a_filter_file_names_no_paths(self, tmp_path: Path, make_bids) -> None:
        """Its values are compared with labels, never put into a path."""
        raw = make_bids(["sub-01/anat/sub-01_T1w.nii.gz"])
        path = tmp_path / "filter.json"
        path.write_text(
            json.dumps({"t1w": {"subject": "../../etc", "suffix": "T1w", "acquisition": "/etc/passwd"}})
        )
        assert read_filter_file(path)
        with pytest.raises(Exception, match="nothing to process"):
            find_sessions(Settings(bids_dir=raw, out_dir=tmp_path / "out", bids_filter_file=path))

    def test_a_linked_scan_is_read_and_named_where_it_is_seen(self, tmp_path: Path, make_bids) -> None:
        raw = make_bids(["sub-01/anat/sub-01_T1w.nii.gz"])
        seen = raw / "sub-01/anat/sub-01_T1w.nii.gz"
        seen.rename(tmp_path / "elsewhere.nii.gz")
        seen.symlink_to(tmp_path / "elsewhere.nii.gz")
        (session,) = find_sessions(Settings(bids_dir=raw, out_dir=tmp_path / "out"))
        assert [scan.path for scan in session.scans] == [seen]

    @pytest.mark.parametrize("how", ["absolute", "dots", "link"])
    def test_a_foreign_record_deletes_nothing_elsewhere(self, tmp_path: Path, how: str) -> None:
        out, kept = tmp_path / "out", tmp_path / "kept" / "file"
        kept.parent.mkdir()
        kept.write_text("mine")
        out.mkdir()
        (out / "link").symlink_to(kept.parent)
        name = {"absolute": str(kept), "dots": "../kept/file", "link": "link/file"}[how]
        session = Session("01", None)
        record = ledger.ledger_path(out, session, "pepsi")
        record.parent.mkdir(parents=True)
        state = {"size": 4, "sha256": "x", "mtime_ns": 1}
        record.write_text(json.dumps({"fingerprint": {}, "outputs": {name: state}}))
        ledger.record(session, "pepsi", {}, [], out)
        assert kept.read_text() == "mine"


def test_cells_of_tables_do_not_start_like_formulas() -> None:
    """The texts of a dataset that reach a table are the keys of its scans: BIDS labels."""
    scan = Scan(Path("sub-01_acq-a+b_T1w.nii.gz"), "01", None, "T1w", {"acq": "+1"})
    assert scan.key[0] not in "=+-@\t\r"
    for name in ("sub-01_=1_T1w.nii", "sub-01_acq-=1_T1w.nii", "sub-@a_T1w.nii"):
        assert parse_name(name) is None


class TestWeights:
    """Files that ask for more than they hold."""

    @pytest.mark.parametrize(
        "header",
        [
            {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}},
            {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
            {"a": {"dtype": "F32", "shape": [1], "data_offsets": [8, 4]}},
        ],
    )
    def test_tensors_outside_the_file_are_refused(self, tmp_path: Path, header: dict) -> None:
        text = json.dumps(header).encode()
        self.refused(tmp_path, struct.pack("<Q", len(text)) + text + bytes(8))

    def test_a_header_without_end_is_refused(self, tmp_path: Path) -> None:
        self.refused(tmp_path, struct.pack("<Q", 1 << 62) + b"{}")

    def refused(self, folder: Path, content: bytes) -> None:
        import hashlib

        path = folder / "x.safetensors"
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        card_path(path).write_text(
            f'[weights]\nid = "x"\nmodel = "pepsi"\nstatus = "random"\nsha256 = "{digest}"\n[architecture]\nheads = []\n'
        )
        with pytest.raises(WeightsError, match=r"x\.safetensors: not a safetensors file"):
            read_weights(path)


class TestWorkFolder:
    """Pickles are read from a folder of the user alone."""

    def settings(self, root: Path) -> Settings:
        return Settings(bids_dir=root, out_dir=root / "out", work_dir=root)

    def test_a_new_one_is_private(self, tmp_path: Path) -> None:
        with workfolder.WorkFolder.opened(self.settings(tmp_path)) as work:
            assert work.place.stat().st_mode & 0o777 == 0o700

    @pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
    def test_one_that_others_can_write_to_is_refused(self, tmp_path: Path, mode: int) -> None:
        (tmp_path / run_wf_name()).mkdir()
        (tmp_path / run_wf_name()).chmod(mode)
        with (
            pytest.raises(UsageError, match=r"can be written to by other users.*Choose another --work-dir"),
            workfolder.WorkFolder.opened(self.settings(tmp_path)),
        ):
            pass

    def test_another_users_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root can give a folder away")
        (tmp_path / run_wf_name()).mkdir(mode=0o700)
        os.chown(tmp_path / run_wf_name(), 54321, 54321)
        with (
            pytest.raises(UsageError, match="belongs to another user"),
            workfolder.WorkFolder.opened(self.settings(tmp_path)),
        ):
            pass

    def test_a_file_system_without_permissions_is_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / run_wf_name()).mkdir()
        monkeypatch.setattr(workfolder, "_trouble", lambda folder: workfolder.WRITABLE)
        with workfolder.WorkFolder.opened(self.settings(tmp_path)):
            pass
