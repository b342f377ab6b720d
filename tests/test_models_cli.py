"""``bidsrep-models``."""

import argparse
import hashlib
import shutil
import subprocess
import sys

import pytest
import torch
from random_weights import random_network, write_random_weights

from bidsrep.cli.models import main
from bidsrep.models import library
from bidsrep.models.registry import load_model
from bidsrep.models.weights import read_card


@pytest.fixture(autouse=True)
def models_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("BIDSREP_MODELS_DIR", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def checkpoint(tmp_path):
    settings = argparse.Namespace(task="uni-feat-anat-flair-aux", unit_feat=True)
    state = random_network("pepsi", f_maps=8, num_levels=2).state_dict()
    torch.save({"model": state, "epoch": 1, "args": settings}, tmp_path / "pepsi_pretrained.pth")
    return tmp_path / "pepsi_pretrained.pth"


def test_add_list_show_verify_path(checkpoint, models_dir, capsys):
    assert main(["add", "pepsi", str(checkpoint)]) == 0
    assert "--weights pepsi=pepsi-official" in capsys.readouterr().out
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert str(models_dir / "pepsi-official.safetensors") in listed
    assert "not here: pepsi_pretrained.pth" not in listed
    assert "not here: brain_id_pretrained.pth" in listed
    assert main(["show", "pepsi-official"]) == 0
    shown = capsys.readouterr().out
    assert 'converted_from = ["pepsi_pretrained.pth"]' in shown
    assert 'license = "not stated for the weights; the authors\' repository is Apache-2.0"' in shown
    assert main(["verify"]) == 0
    assert "ok  pepsi-official" in capsys.readouterr().out
    assert main(["path", "pepsi-official"]) == 0
    assert capsys.readouterr().out.strip() == str(models_dir / "pepsi-official.safetensors")


def test_nothing_is_replaced_unasked(checkpoint, capsys):
    assert main(["add", "pepsi", str(checkpoint)]) == 0
    assert main(["add", "pepsi", str(checkpoint)]) == 2
    assert "there are such weights already" in capsys.readouterr().err
    assert main(["add", "pepsi", str(checkpoint), "--force"]) == 0
    assert main(["add", "pepsi", str(checkpoint), "--id", "other"]) == 0


def test_status_follows_the_name_or_the_option(checkpoint, models_dir, capsys):

    mine = checkpoint.rename(checkpoint.with_name("my net.pth"))
    assert main(["add", "pepsi", str(mine)]) == 0
    assert read_card(models_dir / "pepsi-my-net.safetensors")["weights"]["status"] == "self-trained"
    own = ["--id", "b", "--status", "official", "--license", "CC0-1.0"]
    assert main(["add", "pepsi", str(mine), *own]) == 0
    card = read_card(models_dir / "b.safetensors")["weights"]
    assert (card["status"], card["license"]) == ("official", "CC0-1.0")


def test_the_id_that_is_printed_can_be_used(checkpoint, models_dir, capsys):
    best = checkpoint.rename(checkpoint.with_name("model_best.pth.tar"))
    assert main(["add", "pepsi", str(best)]) == 0
    weights = capsys.readouterr().out.strip().rpartition("=")[2]
    assert weights == "pepsi-model_best"
    assert library.find_weights("pepsi", weights) == models_dir / "pepsi-model_best.safetensors"


def test_a_release_whose_checksum_is_known_is_told_from_its_namesake(test_data, tmp_path, models_dir):
    mine = tmp_path / "seqinv_encoder.pt"
    shutil.copy(test_data / "fixtures" / "seqinv_exported_encoder.pth", mine)
    assert main(["add", "seqinv", str(mine)]) == 0
    assert read_card(models_dir / "seqinv_encoder.safetensors")["weights"]["status"] == "self-trained"


@pytest.mark.parametrize("name", ["../x", ".hidden", "a b", "x.pt", ""])
def test_ids_are_plain_names(checkpoint, name, models_dir):
    if name:
        assert main(["add", "pepsi", str(checkpoint), "--id", name]) == 2
        assert not models_dir.exists()


def test_damaged_weights_are_found(models_dir, capsys):
    path = write_random_weights(models_dir, "pepsi")
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["verify"]) == 69
    assert "cut short" in capsys.readouterr().err


def test_damaged_checkpoint(tmp_path, capsys):
    (tmp_path / "a.pth").write_bytes(b"nothing")
    assert main(["add", "pepsi", str(tmp_path / "a.pth")]) == 69
    assert "a.pth" in capsys.readouterr().err


def test_fetch_tells_where_to_get_what_it_may_not_download(capsys):
    assert main(["fetch", "pepsi-official"]) == 69
    told = capsys.readouterr().err
    assert "github.com/peirong26/PEPSI" in told
    assert "bidsrep-models add pepsi pepsi_pretrained.pth" in told
    assert main(["fetch", "nix"]) == 69
    assert main(["fetch", "bidsrep-pepsi-6"]) == 0


@pytest.fixture
def server(tmp_path):
    """A web server of a folder; counts what it was asked for."""
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            cut, ranges = (folder / "cut", folder / "ranges")
            if not ranges.exists() and not cut.exists():
                return super().do_GET()
            content = (folder / self.path[1:]).read_bytes()
            first = int(self.headers.get("Range", "bytes=0-")[6:-1])
            if first >= len(content):
                self.send_error(416)
                return None
            asked.append(first)
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(content) - first))
            self.end_headers()
            self.wfile.write(content[first : int(cut.read_text()) if cut.exists() else None])
            return None

        def log_message(self, *_):
            pass

    folder = tmp_path / "www"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()


def known(monkeypatch, url, content, **others):
    digest = hashlib.sha256(content).hexdigest()
    fields = {"file": "f.pth", "page": "there", "url": f"{url}/f.pth", "sha256": digest, **others}
    row = library.Published("some", "pepsi", "official", "CC0-1.0", **fields)
    monkeypatch.setattr(library, "published", lambda: (row,))


def test_fetch_downloads_checks_and_converts(checkpoint, models_dir, server, monkeypatch):
    folder, url, asked = server
    (folder / "f.pth").write_bytes(checkpoint.read_bytes())
    known(monkeypatch, url, checkpoint.read_bytes())
    assert main(["fetch", "some"]) == 0
    card = read_card(models_dir / "some.safetensors")
    assert (card["weights"]["id"], card["weights"]["status"]) == ("some", "official")
    assert main(["verify", "some"]) == 0
    assert main(["fetch", "some"]) == 0
    assert asked == ["/f.pth"], "a file that is there and right is not downloaded again"


def test_fetch_throws_another_file_away(checkpoint, models_dir, server, monkeypatch, capsys):
    folder, url, _ = server
    (folder / "f.pth").write_bytes(checkpoint.read_bytes()[:-10])
    known(monkeypatch, url, checkpoint.read_bytes())
    assert main(["fetch", "some"]) == 69
    assert "SHA-256" in capsys.readouterr().err
    assert not [path for path in models_dir.rglob("*") if path.is_file()]


@pytest.mark.parametrize("by", ["ranges", "anew"])
def test_fetch_goes_on_where_a_download_was_cut(by, checkpoint, models_dir, server, monkeypatch, capsys):
    folder, url, asked = server
    content = checkpoint.read_bytes()
    (folder / "f.pth").write_bytes(content)
    (folder / "cut").write_text("20000")
    known(monkeypatch, url, content)
    assert main(["fetch", "some"]) == 69
    assert "goes on from there" in capsys.readouterr().err
    assert not list(models_dir.glob("*.safetensors"))
    (folder / "cut").unlink()
    if by == "ranges":
        (folder / "ranges").touch()
    assert main(["fetch", "some"]) == 0
    assert asked == ["/f.pth", 0, "/f.pth", *([16384] if by == "ranges" else [])]
    assert main(["verify", "some"]) == 0
    assert [path.name for path in (models_dir / "downloads").iterdir()] == ["f.pth"]


def test_a_part_that_is_not_of_the_file_does_not_stay(checkpoint, models_dir, server, monkeypatch, capsys):
    folder, url, _ = server
    content = checkpoint.read_bytes()
    (folder / "f.pth").write_bytes(content)
    (folder / "ranges").touch()
    known(monkeypatch, url, content)
    part = models_dir / "downloads" / f"f.pth.{hashlib.sha256(content).hexdigest()[:8]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    assert main(["fetch", "some"]) == 69, "the hash differs"
    assert not part.exists()
    part.write_bytes(content + b"x")
    assert main(["fetch", "some"]) == 0


@pytest.mark.parametrize("missing", ["file", "server"])
def test_fetch_without_network_says_what_to_do(missing, models_dir, server, monkeypatch, capsys):
    _, url, _ = server
    known(monkeypatch, url if missing == "file" else "http://127.0.0.1:9", b"")
    assert main(["fetch", "some"]) == 69
    told = capsys.readouterr().err
    assert "could not be downloaded" in told
    assert "bidsrep-models add pepsi f.pth" in told
    assert not [path for path in models_dir.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("model", "file", "task"),
    [
        ("seqinv", "seqinv_unet_seg.pth", "tissue"),
        ("seqinv", "seqinv_pretrain.pth", None),
        ("crl", "crl_epoch-last.pth", None),
    ],
)
def test_the_checkpoints_of_the_other_systems_can_be_added_and_loaded(
    model, file, task, models_dir, test_data
):
    assert (
        main(["add", model, str(test_data / "fixtures" / file), "--id", "theirs", "--status", "official"])
        == 0
    )
    loaded = load_model(model, "theirs", models_dir=models_dir)
    assert loaded.card["weights"]["status"] == "official"
    assert task is None or task in [known.name for known in loaded.outputs]


def test_unknown_weights(capsys):
    for command in ("show", "path", "verify"):
        assert main([command, "nix"]) == 69
    assert main(["path", "/nowhere/a.safetensors"]) == 69


def test_path_alone_is_the_folder(models_dir, capsys):
    assert main(["path"]) == 0
    assert capsys.readouterr().out.strip() == str(models_dir)


def test_help_and_list_do_not_import_torch():
    code = (
        "import sys; from bidsrep.cli.models import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'nibabel', 'numpy'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
