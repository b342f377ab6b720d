"""The tasks' own losses and tables: bias field, segmentation, names of super-resolution."""

import pytest
import torch

from bidsrep.labels import load_labels
from bidsrep.tasks.bias import bias_loss, normalised_l2
from bidsrep.tasks.segmentation import (
    IGNORED,
    LABELS,
    NEAREST,
    follow_intensities,
    mirror_classes,
    most_probable_label,
    segmentation_loss,
    structure_volumes,
    to_classes,
)
from bidsrep.tasks.synthesis import SUPER_RESOLUTION, SUPER_RESOLUTION_BESIDE_T1W

SHAPE = (2, 1, 6, 6, 6)


def field(seed: int) -> torch.Tensor:
    return 0.3 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


class TestBias:
    def test_scale_does_not_count(self) -> None:
        truth = torch.exp(field(0))
        assert normalised_l2(3.7 * truth, truth).max() < 1e-4

    def test_value_is_the_best_scaled_error(self) -> None:
        estimate, truth = torch.exp(field(0)), torch.exp(field(1))
        found = normalised_l2(estimate, truth)
        for e, t, value in zip(estimate, truth, found, strict=True):
            residual = min(float(torch.linalg.norm(w * e - t)) for w in torch.linspace(0.5, 1.5, 2001))
            assert float(value) == pytest.approx(residual / float(torch.linalg.norm(t)), abs=1e-5)

    def test_outside_of_the_mask_does_not_count(self) -> None:
        truth, mask = torch.exp(field(0)), torch.zeros(SHAPE)
        mask[:, :, :3] = 1
        wrong = torch.where(mask > 0, truth, 9.0)
        assert normalised_l2(wrong, truth, mask).max() < 1e-4

    def test_least_at_the_centred_truth_with_a_finite_slope(self) -> None:
        brain, truth = torch.ones(SHAPE), field(0) + 1.5
        raw = (truth - truth.mean((1, 2, 3, 4), keepdim=True)).requires_grad_()
        best = bias_loss(raw, truth, brain)
        best.backward()
        assert best.item() < 1e-4
        assert raw.grad is not None
        assert torch.isfinite(raw.grad).all()
        assert bias_loss(raw.detach() + 0.5, truth, brain).item() == pytest.approx(0.25, abs=1e-3)


class TestSegmentation:
    def test_every_label_has_its_channel(self) -> None:
        assert to_classes(torch.tensor(LABELS)).tolist() == list(range(33))

    def test_missing_labels_take_the_nearest_meaning(self) -> None:
        values = {5: 4, 63: 43, 57: 77, 1024: 3, 2030: 42, 12104: 42, 4010: 41}
        found = [LABELS[number] for number in to_classes(torch.tensor(list(values)))]
        assert found == list(values.values())

    def test_every_label_of_the_table_has_a_class(self) -> None:
        values = torch.tensor([label.index for label in load_labels("aseg")])
        assert (to_classes(values) != IGNORED).all()
        assert set(NEAREST.values()) <= set(LABELS)

    def test_unknown_values_are_ignored(self) -> None:
        assert to_classes(torch.tensor([251, -3, 10**6])).tolist() == [IGNORED] * 3

    def test_mirror_swaps_the_sides(self) -> None:
        table = load_labels("aseg").mirrors()
        classes = torch.arange(33)
        mirrored = [LABELS[number] for number in mirror_classes(classes)]
        assert mirrored == [table.get(label, label) for label in LABELS]
        assert mirror_classes(torch.tensor([IGNORED])).item() == IGNORED

    def test_loss_is_nothing_for_the_truth_and_ignores_the_unknown(self) -> None:
        classes = torch.randint(0, 33, SHAPE, generator=torch.Generator().manual_seed(0))
        logits = 40 * torch.nn.functional.one_hot(classes[:, 0], 33).movedim(-1, 1).float()
        assert segmentation_loss(logits, classes).item() < 1e-4
        wrong = logits.roll(1, dims=1)
        unknown = torch.full_like(classes, IGNORED)
        assert segmentation_loss(wrong, unknown).item() == 0
        half = torch.where(torch.arange(6).view(1, 1, 6, 1, 1) < 3, classes, IGNORED)
        mixed = torch.where(torch.arange(6).view(1, 1, 6, 1, 1) < 3, logits, wrong)
        assert segmentation_loss(mixed, half).item() < 1e-4
        assert segmentation_loss(wrong, classes).item() > 10

    def test_dice_term_by_hand(self) -> None:
        logits = torch.zeros(1, 33, 2, 2, 2)  # probability 1/33 everywhere
        classes = torch.zeros(1, 1, 2, 2, 2, dtype=torch.int64)
        expected = torch.log(torch.tensor(33.0)) + 1 - 2 * (8 / 33) / (8 / 33 + 8)
        assert segmentation_loss(logits, classes).item() == pytest.approx(expected.item(), rel=1e-5)

    def test_volumes(self) -> None:
        labels = torch.tensor([[[0, 2], [2, 41]]])
        volumes = structure_volumes(labels, 0.5)
        assert (volumes[2], volumes[41], volumes[3]) == (1.0, 0.5, 0.0)
        assert 0 not in volumes

    def test_labels_survive_the_way_there_and_back(self) -> None:
        raw = torch.eye(33).view(1, 33, 33, 1, 1)
        assert most_probable_label(raw).flatten().tolist() == list(LABELS)


class TestIntensities:
    """A round ventricle in white matter, found too large and on coarse voxels."""

    SIDE, RADIUS, FOUND = 32, 6.0, 8.0
    WHITE, VENTRICLE = LABELS.index(2), LABELS.index(4)

    def distance(self) -> torch.Tensor:
        axes = torch.meshgrid(*[torch.arange(self.SIDE) - (self.SIDE - 1) / 2] * 3, indexing="ij")
        return torch.stack(axes).square().sum(0).sqrt()

    def raw(self) -> torch.Tensor:
        raw = torch.full((1, len(LABELS), *[self.SIDE] * 3), -8.0)
        raw[0, self.VENTRICLE] = 0.8 * (self.FOUND - self.distance())
        raw[0, self.WHITE] = -raw[0, self.VENTRICLE]
        return raw

    def image(self, white: float, fluid: float) -> torch.Tensor:
        clean = torch.where(self.distance() < self.RADIUS, fluid, white)
        noise = 0.05 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        return (clean + noise)[None, None]

    @pytest.mark.parametrize(("white", "fluid"), [(1.0, 0.3), (0.5, 1.2)])
    def test_borders_follow_any_contrast(self, white: float, fluid: float) -> None:
        truth = self.distance() < self.RADIUS
        before = self.raw().argmax(1)[0] == self.VENTRICLE
        after = follow_intensities(self.raw(), self.image(white, fluid)).argmax(1)[0] == self.VENTRICLE
        dice_before, dice_after = (2 * (x & truth).sum() / (x.sum() + truth.sum()) for x in (before, after))
        assert dice_before < 0.65
        assert dice_after > 0.85

    @pytest.mark.parametrize("strength", [0.3, -0.3])
    def test_a_smooth_field_is_no_structure(self, strength: float) -> None:
        """Grey and white matter of a scan that is bright, or dark, in the middle and not at the rim."""
        side, white, grey = 32, self.WHITE, LABELS.index(3)
        across = torch.linspace(-1, 1, side)
        radius = (across[:, None, None] ** 2 + across[None, :, None] ** 2 + across[None, None] ** 2).sqrt()
        truth = (radius * 9).long() % 2 == 0
        raw = torch.full((1, len(LABELS), side, side, side), -8.0)
        # Of shells as thin as its voxels a view tells little.
        raw[0, white], raw[0, grey] = truth.float(), (~truth).float()
        raw += 0.8 * torch.randn(raw.shape, generator=torch.Generator().manual_seed(3))
        flat = torch.where(truth, 1.0, 0.8)
        image = flat * torch.exp(strength * (1 - radius.square()))
        found = follow_intensities(raw, image[None, None]).argmax(1)[0]
        assert ((found == white) == truth).float().mean() > 0.98

    def test_without_a_contrast_the_network_has_the_word(self) -> None:
        found = follow_intensities(self.raw(), torch.full((1, 1, *[self.SIDE] * 3), 0.7))
        assert torch.equal(found.argmax(1), self.raw().argmax(1))

    def test_an_intensity_alone_makes_no_structure(self) -> None:
        """A lesion as dark as fluid, where the network is sure of white matter."""
        image = self.image(1.0, 0.3)
        lesion = (slice(None), slice(None), slice(1, 4), slice(1, 4), slice(1, 4))
        image[lesion] = 0.3
        found = follow_intensities(self.raw(), image).argmax(1, keepdim=True)
        assert (found[lesion] == self.WHITE).all()

    def test_outside_the_brain_nothing_is_learned(self) -> None:
        assert torch.equal(follow_intensities(self.raw(), torch.zeros(1, 1, *[self.SIDE] * 3)), self.raw())

    def test_sides_and_fluids_share_an_intensity(self) -> None:
        """A right ventricle of a few voxels is told by the left one's intensity."""
        raw, image = self.raw(), self.image(1.0, 0.3)
        right = (slice(2, 5),) * 3
        raw[0, LABELS.index(43)][right] = raw[0, self.WHITE][right] - 1
        raw[0, self.VENTRICLE][right] = -8
        image[0, 0][right] = 0.3
        found = torch.tensor(LABELS)[follow_intensities(raw, image).argmax(1)[0]]
        assert (found[right] == 43).all()


def test_super_resolution_has_the_authors_head_and_one_beside_t1w() -> None:
    assert (SUPER_RESOLUTION.head, SUPER_RESOLUTION_BESIDE_T1W.head) == ("image", "superres")
    assert SUPER_RESOLUTION.name == SUPER_RESOLUTION_BESIDE_T1W.name
    assert SUPER_RESOLUTION_BESIDE_T1W.with_image
