"""PEPSI's lesions: equations 1 and 2, shapes."""

import pytest
import torch

from bidsrep.synth.pathology import (
    anomaly_probability,
    encode_pathology,
    procedural_lesions,
    transplanted_lesions,
)


def ball(radius: float, size: int = 32) -> torch.Tensor:
    axes = torch.meshgrid(*[torch.arange(size) - size / 2] * 3, indexing="ij")
    return sum(a**2 for a in axes) < radius**2


def test_anomaly_probability_is_equation_one() -> None:
    image = torch.tensor([[[10.0, 20.0, 30.0, 99.0]]])
    mask = torch.tensor([[[True, True, True, False]]])
    assert anomaly_probability(image, mask, "FLAIR")[0, 0].tolist() == [0, 0.5, 1, 0]
    assert anomaly_probability(image, mask, "T1w")[0, 0].tolist() == [1, 0.5, 0, 0]


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_lesions_are_bright_where_grey_exceeds_white_matter(variant: str) -> None:
    image, probability = torch.full((16, 16, 16), 100.0), torch.zeros(16, 16, 16)
    probability[4:12, 4:12, 4:12] = 1
    for grey, sign in ((130.0, 1), (70.0, -1)):
        generator = torch.Generator().manual_seed(0)
        change = encode_pathology(image, probability, 100.0, grey, generator, variant) - image
        assert sign * change[probability > 0].mean() > 5
        assert change[probability == 0].abs().max() == 0


@pytest.mark.parametrize("seed", range(5))
def test_procedural_lesions_stay_near_white_matter(seed: int) -> None:
    white = ball(10)
    lesion = procedural_lesions(white, 1.0, torch.Generator().manual_seed(seed))
    assert 0 < lesion.max() <= 1
    assert lesion[~ball(12)].max() == 0


def test_no_white_matter_gives_no_lesion() -> None:
    nothing = procedural_lesions(torch.zeros(8, 8, 8, dtype=torch.bool), 1.0, torch.Generator())
    assert nothing.max() == 0


def test_transplanted_lesion_lands_at_the_same_relative_place() -> None:
    prior = torch.zeros(20, 20, 20)
    prior[8:12, 8:12, 14:18] = 1
    brain = ball(12)
    lesion = transplanted_lesions(prior, brain, brain, torch.Generator().manual_seed(1), keep=0.999)
    centre = (lesion.nonzero().float().mean(0) - 4) / 24
    assert centre.tolist() == pytest.approx([0.5, 0.5, 0.8], abs=0.06)
