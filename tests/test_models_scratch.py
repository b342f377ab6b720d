"""Tensors in files: the same numbers, elsewhere."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from random_weights import random_network, write_random_weights

from bidsrep.models import representation, scratch
from bidsrep.models.lean import lean_features

MAPS = Path("/proc/self/maps")


@pytest.fixture
def large(monkeypatch):
    """Let every tensor count as large."""
    monkeypatch.setattr(scratch, "SMALLEST_BYTES", 1)


def mapped(folder: Path) -> int:
    """Count the files of a folder that this process has mapped."""
    return MAPS.read_text().count(str(folder))


@pytest.mark.skipif(not MAPS.exists(), reason="needs /proc")
def test_a_large_tensor_lies_in_a_file_without_a_name(tmp_path, large):
    with scratch.tensors_on_disk(tmp_path):
        tensor = scratch.empty(3, 5, 7, dtype=torch.bfloat16)
        tensor.fill_(1.5)
    assert tensor.shape == (3, 5, 7)
    assert tensor.dtype == torch.bfloat16
    assert (tensor == 1.5).all()
    assert mapped(tmp_path) == 1
    assert not list(tmp_path.iterdir())
    del tensor
    assert mapped(tmp_path) == 0


@pytest.mark.skipif(not MAPS.exists(), reason="needs /proc")
def test_small_tensors_and_those_outside_the_block_stay_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "SMALLEST_BYTES", 400)
    with scratch.tensors_on_disk(tmp_path):
        tensors = [scratch.empty(99)]
        with scratch.tensors_on_disk(None):
            tensors.append(scratch.empty(100))
    tensors.append(scratch.empty(100))
    assert mapped(tmp_path) == 0
    with scratch.tensors_on_disk(tmp_path):
        tensors.append(scratch.empty(100))
    assert mapped(tmp_path) == 1


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, large, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with scratch.tensors_on_disk(tmp_path), pytest.raises(OSError, match="No space"):
        scratch.empty(4)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_are_the_same_to_the_last_bit(tmp_path, large, dtype):
    unet = random_network("pepsi", f_maps=8, num_levels=3).backbone
    image = torch.rand(1, 1, 12, 9, 11)
    in_memory = lean_features(unet, image, dtype)
    with scratch.tensors_on_disk(tmp_path):
        on_disk = lean_features(unet, image, dtype)
    assert torch.equal(in_memory, on_disk)
    if MAPS.exists():
        assert mapped(tmp_path)


def test_a_node_with_little_memory_writes_the_same_files(tmp_path, large, monkeypatch):
    from bidsrep.imaging.volume import Volume
    from bidsrep.interfaces.represent import Represent

    monkeypatch.setattr(representation, "PLAIN_BELOW_BYTES", 0)
    weights = write_random_weights(tmp_path, "pepsi")
    grid = np.indices((20, 22, 18)) - np.reshape([9, 10, 8], (3, 1, 1, 1))
    inside = (grid**2).sum(axis=0) < 60
    scan = Volume(np.random.default_rng(0).uniform(1, 9, inside.shape) * inside, np.diag([4, 4, 4, 1.0]))
    files = {
        "in_file": scan.save(tmp_path / "scan.nii"),
        "mask_file": scan.replace(inside).save(tmp_path / "m.nii"),
    }
    asked, real = [], scratch.empty

    def watched(*size, **options):
        asked.append(scratch._folder.get())
        return real(*size, **options)

    monkeypatch.setattr(scratch, "empty", watched)
    made = []
    for low_mem in (False, True):
        folder = tmp_path / str(low_mem)
        folder.mkdir()
        monkeypatch.chdir(folder)
        given = {name: str(path) for name, path in files.items()}
        Represent(**given, model="pepsi", weights=str(weights), dense=True, low_mem=low_mem).run()
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert made[0] == made[1]
    assert {"T1w.nii", "features.nii.gz", "embedding.tsv", "lattice.npz"} <= made[0].keys()
    assert set(asked) == {None, tmp_path / "True"}
