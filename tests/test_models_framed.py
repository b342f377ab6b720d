"""The frame that networks see: the same for the app and in Python."""

from pathlib import Path

import numpy as np
import pytest
from random_weights import write_random_weights

from bidsrep.imaging.volume import Volume
from bidsrep.interfaces.represent import Represent
from bidsrep.models.framed import MARGIN_VOXELS, Framed
from bidsrep.models.registry import load_model

SHAPE = (45, 51, 39)
BRAIN = np.zeros(SHAPE, bool)
BRAIN[3:30, 10:49, 12:37] = True


@pytest.fixture
def scan() -> Volume:
    """A made-up brain on an odd grid that it does not fill."""
    return Volume(np.where(BRAIN, np.random.default_rng(0).uniform(20, 90, SHAPE), 0), np.eye(4))


def test_a_frame_is_cut_padded_and_undone(scan: Volume) -> None:
    framed = Framed.of(scan.data, BRAIN, 8)
    assert framed.box[0] == slice(0, 30 + MARGIN_VOXELS)
    assert all(side % 8 == 0 for side in framed.volume.shape[2:])
    back = framed.back(framed.volume)
    assert back.shape == SHAPE
    assert (back[~BRAIN] == 0).all()
    np.testing.assert_allclose(np.corrcoef(back[BRAIN], scan.data[BRAIN])[0, 1], 1, atol=1e-3)


def test_python_gives_what_the_app_writes(scan: Volume, tmp_path: Path) -> None:
    weights = write_random_weights(tmp_path, "pepsi")
    files = {"in_file": scan.save(tmp_path / "scan.nii"), "mask_file": tmp_path / "mask.nii"}
    scan.replace(BRAIN).save(files["mask_file"])
    node = Represent(model="pepsi", weights=str(weights), device="cpu", precision="fp32")
    node.inputs.trait_set(**{name: str(path) for name, path in files.items()})
    made = node.run(cwd=str(tmp_path)).outputs.images
    model = load_model("pepsi", weights, "cpu", "fp32")
    framed = Framed.of(scan.data, BRAIN, model.divisor)
    for name, value in model.predict(framed.volume).items():
        np.testing.assert_allclose(framed.back(value), Volume.load(made[name]).data, atol=1e-5, err_msg=name)
