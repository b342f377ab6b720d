"""Wide ventricles: they grow, their midline holds, the outline hardly moves, nothing folds."""

import pytest
import torch
from torch import Tensor

from bidsrep.synth.contrast import Contrast
from bidsrep.synth.deformation import DeformationConfig, source_coordinates, warp
from bidsrep.synth.equations import equation_contrast
from bidsrep.synth.ventricles import inward_field, of_names, of_t1w, widen
from tests.test_synth_deformation import draw, identity

SHAPE = (80, 88, 84)
SEPTUM, BRAIN = 1, 2


def head() -> Tensor:
    """A ball (2) of 38 mm in radius with two slender ventricles (3) and 4 mm of tissue (1) between them."""
    x, y, z = torch.meshgrid(*(torch.arange(n) - n // 2 for n in SHAPE), indexing="ij")
    labels = torch.zeros(SHAPE)
    labels[x**2 + y**2 + z**2 <= 38**2] = BRAIN
    slab = (y.abs() <= 14) & (z.abs() <= 6)
    labels[slab & (x.abs() <= 7)] = 3
    labels[slab & (x.abs() <= 2)] = SEPTUM
    return labels


def widened(push: float) -> tuple[Tensor, Tensor]:
    field = inward_field(head() == 3)
    assert field is not None
    coordinates = widen(source_coordinates(identity(), SHAPE, 1.0, SHAPE), field, SHAPE, push)
    return warp(head()[None], coordinates, "nearest")[0], coordinates


@pytest.mark.parametrize("push", [3.0, 7.0])
def test_ventricles_grow_and_nothing_else_is_lost(push: float) -> None:
    labels, coordinates = widened(push)
    before, after = ((volume == 3).sum().item() for volume in (head(), labels))
    assert after > (1 + 0.1 * push) * before
    assert (labels == SEPTUM).any(dim=(1, 2))[38:43].any()
    outline = ((labels > 0) ^ (head() > 0)).sum() / (head() > 0).sum()
    assert outline < 0.015 * push
    steps = [coordinates.diff(dim=axis)[:79, :79, :79] for axis in range(3)]
    volume = torch.linalg.det(torch.stack(steps, dim=-1))
    assert volume[labels[:79, :79, :79] != 3].min() > 0  # inside, fluid may fold onto the midline


def test_no_push_moves_nothing() -> None:
    labels, _ = widened(0.0)
    assert torch.equal(labels, head())


def test_ventricles_of_a_t1w_are_deep_and_dark() -> None:
    t1w = torch.where(head() == 3, 0.3, 1.0) * (head() > 0)
    t1w[38:42, 44 + 30 : 44 + 36, 40:50] = 0.3  # a sulcus
    low = t1w.clone()
    assert not of_t1w(torch.ones(8, 8, 8), 0.5).any()
    found = of_t1w(low, 0.5)
    assert not (found & (head() != 3)).any()
    assert found.sum() > 0.3 * (head() == 3).sum()


def test_names_of_ventricles() -> None:
    names = (
        "Unknown",
        "Left-Lateral-Ventricle",
        "Right-Inf-Lat-Vent",
        "4th-Ventricle",
        "CSF",
        "3rd-Ventricle",
    )
    assert of_names(names).tolist() == [False, True, True, False, False, True]
    assert inward_field(torch.zeros(20, 20, 20, dtype=torch.bool)) is None


def test_every_second_draw_leaves_the_ventricles_alone() -> None:
    pushes = torch.tensor([draw(seed, widening_mm=7.0).widening_mm for seed in range(200)])
    assert 60 < (pushes == 0).sum() < 140
    assert 6 < pushes.max() <= 7
    assert draw(0).widening_mm == DeformationConfig().widening_mm == 0


def test_lesions_look_as_their_relaxation_makes_them() -> None:
    generator = torch.Generator().manual_seed(3)
    contrasts = [equation_contrast(generator) for _ in range(300)]

    def share(kind: str, holds: list[bool]) -> None:
        assert len(holds) > 20
        assert sum(holds) > 0.9 * len(holds), kind

    def t1w(c: Contrast) -> bool:
        return c.means[2] > 1.2 * c.means[1] > 1.2 * c.means[0]

    def t2w(c: Contrast) -> bool:
        return c.means[0] > 1.5 * c.means[1] > 1.5 * c.means[2]

    def flair(c: Contrast) -> bool:
        return c.means[1] > 1.1 * c.means[2] and c.means[0] < c.means[2]

    share("T1w", [c.means[0] < c.lesion < c.means[2] for c in contrasts if c.lesion and t1w(c)])
    share("T2w", [c.means[2] < c.lesion < c.means[0] for c in contrasts if c.lesion and t2w(c)])
    share("FLAIR", [c.lesion > c.means[2] for c in contrasts if c.lesion and flair(c)])
