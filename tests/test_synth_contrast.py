"""Contrasts: tissue order of clinical draws, mixtures, painting."""

import pytest
import torch

from bidsrep.synth.contrast import Contrast, paint_labels, paint_mixture, piecewise_linear, sample_contrast

ORDER = {
    "T1w": lambda csf, gm, wm: csf < gm < wm,
    "T2w": lambda csf, gm, wm: csf > gm,
    "FLAIR": lambda csf, gm, wm: csf < wm <= gm,
    "PDw": lambda csf, gm, wm: wm <= gm,
}


def test_clinical_draws_have_the_sequence_s_tissue_order() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(60):
        contrast = sample_contrast(generator, clinical=1.0)
        seen.add(contrast.name)
        assert ORDER[contrast.name](*contrast.means), contrast
    assert seen == set(ORDER)


def test_piecewise_linear_passes_through_its_knots() -> None:
    knots, values = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([5.0, 1.0, 2.0])
    x = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 9.0])
    assert piecewise_linear(x, knots, values).tolist() == [5.0, 5.0, 3.0, 1.0, 1.5, 2.0, 2.0]


def test_mixture_of_two_tissues_is_linear() -> None:
    contrast = Contrast("FLAIR", (20.0, 200.0, 150.0), (0.0, 0.0, 0.0))
    t1w = torch.tensor([[[0.25, 0.645, 0.82, 1.0]]])
    image = paint_mixture(t1w, (0.25, 0.64, 1.0), contrast, torch.zeros_like(t1w))
    assert image[0, 0].tolist() == pytest.approx([20, 199.3, 175, 150], abs=0.5)


def test_painted_labels_have_their_mean_and_spread() -> None:
    table = Contrast("random", (0, 0, 0), (0, 0, 0), torch.tensor([0.0, 100.0]), torch.tensor([0.0, 5.0]))
    labels = torch.zeros(30, 30, 30, dtype=torch.int)
    labels[15:] = 1
    noise = torch.randn(labels.shape, generator=torch.Generator().manual_seed(0))
    image = paint_labels(labels, table, noise)
    assert image[:15].abs().max() == 0
    assert image[15:].mean().item() == pytest.approx(100, abs=0.3)
    assert image[15:].std().item() == pytest.approx(5, rel=0.03)


def test_background_is_always_empty() -> None:
    tissues = ("background", "csf", "gm", "wm", "lesion", "extracerebral")
    for seed in range(10):
        contrast = sample_contrast(torch.Generator().manual_seed(seed), 0.5, tissues)
        assert contrast.label_means is not None
        assert contrast.label_means[0] == 0
