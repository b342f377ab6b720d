"""Weights and cards: what is loaded is whole, and the one the card describes."""

import hashlib
import json
import tomllib
from pathlib import Path

import pytest
import torch
from random_weights import random_network, write_random_weights

from bidsrep.errors import ExitCode, WeightsError
from bidsrep.models import library
from bidsrep.models.network import Network
from bidsrep.models.weights import card_path, load_strictly, read_card, read_weights, verify


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_random_weights(tmp_path, "pepsi", num_levels=2)


def edit_card(path: Path, old: str, new: str) -> None:
    card = card_path(path)
    text = card.read_text()
    assert old in text
    card.write_text(text.replace(old, new))


class TestReading:
    def test_round_trip(self, weights):
        state, card = read_weights(weights)
        expected = random_network("pepsi", f_maps=8, num_levels=2, unit_features=True).state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in expected)
        assert card["weights"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
        assert verify(weights) == card

    def test_same_bytes_every_time(self, weights, tmp_path):
        other = write_random_weights(tmp_path / "other", "pepsi", num_levels=2)
        assert other.read_bytes() == weights.read_bytes()
        assert card_path(other).read_bytes() == card_path(weights).read_bytes()

    def test_missing_file(self, tmp_path):
        with pytest.raises(
            WeightsError, match=r"nothing\.safetensors: there is no such weights file"
        ) as caught:
            read_weights(tmp_path / "nothing.safetensors")
        assert caught.value.exit_code == ExitCode.WEIGHTS

    def test_file_without_card(self, weights):
        card_path(weights).unlink()
        with pytest.raises(WeightsError, match=r"the card pepsi\.toml is missing"):
            read_weights(weights)

    def test_card_without_file(self, weights):
        weights.unlink()
        with pytest.raises(WeightsError, match="there is no such weights file"):
            read_weights(weights)

    @pytest.mark.parametrize("size", [-1, -1000, 100, 4])
    def test_cut_short(self, weights, size):
        content = weights.read_bytes()
        weights.write_bytes(content[:size])
        wanted = "cut short" if len(content[:size]) > 8 else "SHA-256"
        with pytest.raises(WeightsError, match=wanted):
            read_weights(weights)

    def test_tampered(self, weights):
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        with pytest.raises(WeightsError, match="the SHA-256 is"):
            read_weights(weights)

    def test_not_safetensors(self, weights):
        junk = b"PK\x03\x04 a PyTorch file, perhaps"
        weights.write_bytes(junk)
        edit_card(weights, read_card(weights)["weights"]["sha256"], hashlib.sha256(junk).hexdigest())
        with pytest.raises(WeightsError, match="not a safetensors file"):
            read_weights(weights)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("[weights]", "[weights", "cannot be used"),
            ("sha256", "sha1", r"weights\.sha256 is missing"),
            ("[architecture.heads]", "[heads]", r"architecture\.heads is missing"),
            ('status = "random"', 'status = "excellent"', r"weights\.status must be one of"),
        ],
    )
    def test_bad_card(self, weights, old, new, message):
        edit_card(weights, old, new)
        with pytest.raises(WeightsError, match=message):
            read_weights(weights)


class TestStrictness:
    def network(self) -> Network:
        return Network({"image": 1}, f_maps=8, num_levels=2)

    def test_first_missing_key(self):
        state = self.network().state_dict()
        del state["head.final_conv_image.bias"]
        with pytest.raises(WeightsError, match=r"w: .* 1 of \d+ .* head\.final_conv_image\.bias"):
            load_strictly(self.network(), state, "w")

    def test_first_unexpected_key(self):
        state = {**self.network().state_dict(), "head.extra": torch.zeros(1)}
        with pytest.raises(WeightsError, match=r"1 tensors too many, the first is head\.extra"):
            load_strictly(self.network(), state, "w")

    def test_both(self):
        state = self.network().state_dict()
        state["head.extra"] = state.pop("head.final_conv_image.bias")
        with pytest.raises(WeightsError, match=r"final_conv_image\.bias; 1 .* head\.extra"):
            load_strictly(self.network(), state, "w")

    def test_wrong_shape(self):
        state = self.network().state_dict()
        state["head.final_conv_image.bias"] = torch.zeros(2)
        with pytest.raises(WeightsError, match=r"bias has shape \(2,\), expected \(1,\)"):
            load_strictly(self.network(), state, "w")

    def test_a_refused_file_changes_nothing(self):
        network = self.network()
        before = {key: value.clone() for key, value in network.state_dict().items()}
        with pytest.raises(WeightsError):
            load_strictly(network, {**random_network("brainid", f_maps=8, num_levels=3).state_dict()}, "w")
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())

    def test_half_precision_is_widened(self):
        state = {key: value.half() for key, value in self.network().state_dict().items()}
        network = self.network()
        load_strictly(network, state, "w")
        assert {value.dtype for value in network.state_dict().values()} == {torch.float32}


class TestLibrary:
    def test_models_dir(self, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_DATA_HOME", "/data")
        monkeypatch.delenv("BIDSREP_MODELS_DIR", raising=False)
        assert library.models_dir() == Path("/data/bidsrep/models")
        monkeypatch.setenv("BIDSREP_MODELS_DIR", "/models")
        assert library.models_dir() == Path("/models")
        assert library.models_dir(tmp_path) == tmp_path

    def test_no_home_folder(self, monkeypatch):
        for name in ("BIDSREP_MODELS_DIR", "XDG_DATA_HOME"):
            monkeypatch.delenv(name, raising=False)

        def no_home():
            raise RuntimeError("no home")

        monkeypatch.setattr(Path, "home", no_home)
        with pytest.raises(WeightsError, match="BIDSREP_MODELS_DIR"):
            library.models_dir()
        assert all(weights.source == "bundled" for weights in library.installed())

    def test_find_by_file_id_and_stem(self, tmp_path):
        path = write_random_weights(tmp_path, "pepsi")
        path = path.rename(path.with_stem("mine"))  # "pepsi" is the stem of the bundled weights
        (tmp_path / "pepsi.toml").rename(tmp_path / "mine.toml")
        for name in (path, str(path), "random-pepsi", "mine"):
            assert library.find_weights("pepsi", name, tmp_path) == path

    def test_ids_of_other_models_do_not_count(self, tmp_path):
        write_random_weights(tmp_path, "brainid")
        with pytest.raises(WeightsError, match="neither a file nor the id"):
            library.find_weights("pepsi", "random-brainid", tmp_path)

    def test_unknown_id_lists_the_known(self, tmp_path):
        write_random_weights(tmp_path, "pepsi")
        with pytest.raises(WeightsError, match=r"nix: .* there are: .*random-pepsi"):
            library.find_weights("pepsi", "nix", tmp_path)

    def test_official_weights_that_are_not_here(self, tmp_path):
        with pytest.raises(WeightsError, match=r"pepsi_pretrained\.pth from .*github.com/peirong26/PEPSI"):
            library.find_weights("pepsi", "pepsi-official", tmp_path)

    def test_checkpoint_must_be_converted(self):
        with pytest.raises(WeightsError, match="bidsrep-models add pepsi"):
            library.find_weights("pepsi", "pepsi_pretrained.pth")

    def test_model_without_bundled_weights(self, monkeypatch, tmp_path):
        monkeypatch.setattr(library, "bundled_dir", lambda: tmp_path)
        with pytest.raises(WeightsError, match="no bundled weights"):
            library.find_weights("pepsi")

    def test_registry_is_sound(self):
        rows = library.published()
        assert len({row.id for row in rows}) == len(rows)
        for row in rows:
            assert row.status in ("official", "self-trained")
            assert row.license
            assert bool(row.file) == bool(row.page) == (row.status == "official")


class TestBundled:
    """What comes with the package is what its cards say."""

    PATHS = sorted(library.bundled_dir().glob("*.safetensors"))

    @pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
    def test_fits_its_card(self, path):
        from bidsrep.models.registry import load_model

        card = verify(path)
        assert card["weights"]["model"] == path.stem
        assert card["weights"]["id"] in {row.id for row in library.published()}
        assert card["weights"]["license"]
        assert path.stat().st_size < 8e6
        assert load_model(path.stem).card == card

    def test_cards_have_weights(self):
        cards = sorted(path.stem for path in library.bundled_dir().glob("*.toml"))
        assert cards == [path.stem for path in self.PATHS]


def test_header_size_is_found_out(weights):
    # The message of a cut file tells how long it should be: by the file's own header.
    content = weights.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    assert len(content) == 8 + length + end
    weights.write_bytes(content[:-10])
    with pytest.raises(WeightsError, match=f"{len(content) - 10} of {len(content)} bytes"):
        verify(weights)


def test_registry_file_is_toml():
    folder = library.bundled_dir().parent
    assert tomllib.loads((folder / "weights.toml").read_text())["weights"]
