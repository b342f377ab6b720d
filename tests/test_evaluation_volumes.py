"""Volumes of structures: which belong together, how large they are, and what the bundled weights give for a template."""

import numpy as np
import pytest

from bidsrep.evaluation.volumes import GROUPS, label_volumes, measure_template, structures, template_volumes
from bidsrep.imaging.volume import Volume
from bidsrep.labels import SEGMENTATIONS, load_labels
from bidsrep.models.library import find_weights
from bidsrep.models.weights import verify
from bidsrep.workflows.models import _spec as spec_of

ANEW = "these weights are new: write the table of the template's volumes anew (see bidsrep/evaluation/volumes.py)"


def bundled() -> list[tuple[str, str, str]]:
    """Model, hash of its weights and kind of segmentation, of everything bundled that segments."""
    found = []
    for model in ("pepsi", "brainid", "seqinv", "crl", "cifl"):
        card = verify(find_weights(model))
        outputs = spec_of(model, card, {}).outputs
        found += [
            (model, card["weights"]["sha256"], SEGMENTATIONS[name])
            for name in outputs
            if name in SEGMENTATIONS
        ]
    return found


def test_both_sides_of_a_structure_belong_together():
    labels = load_labels("aseg")
    found = structures(labels)
    assert {index for one in found for index in one.indices} == set(labels.indices()) - {0}
    (hippocampus,) = (one for one in found if one.name == "hippocampus")
    assert (hippocampus.left, hippocampus.right, hippocampus.colors) == (17, 53, ("#DCD814",))
    (stem,) = (one for one in found if one.name == "brain stem")
    assert stem.indices == (16,)


def test_no_structure_is_in_two_groups():
    members = [index for indices in GROUPS["aseg"].values() for index in indices]
    assert len(members) == len(set(members))
    assert set(members) <= set(load_labels("aseg").indices())


def test_volumes_are_in_ml_and_leave_the_background_out():
    data = np.zeros((10, 10, 10))
    data[:5], data[5, 0, 0] = 2, 41
    assert label_volumes(Volume(data, np.diag([2.0, 2.0, 2.0, 1.0]))) == pytest.approx({2: 4.0, 41: 0.008})
    assert label_volumes(Volume(0 * data, np.eye(4))) == {}


@pytest.mark.parametrize(("model", "sha256", "seg"), bundled())
def test_the_template_is_known_of_the_bundled_weights(model, sha256, seg):
    volumes = template_volumes(sha256, seg)
    assert volumes, ANEW
    assert set(volumes) <= set(load_labels(seg).indices()) - {0}
    assert 1800 < sum(volumes.values()) < 1900  # ml: the template's brain mask holds 1,882


def test_of_other_weights_it_is_not_known():
    assert template_volumes("00" * 32, "aseg") == {}


@pytest.mark.slow
def test_the_table_of_the_template_can_be_made_again():
    rows = list(measure_template("cifl"))
    made = {int(row[3]): float(row[5]) for row in rows}
    assert made == pytest.approx(template_volumes(rows[0][1], "tissue"), rel=1e-3)
