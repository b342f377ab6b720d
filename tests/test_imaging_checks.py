"""Ten ways to break a scan: the right warning is raised, and a healthy scan raises none."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from bidsrep.evaluation.checks import check_rows, contrast_margins, synthesis_disagreement
from bidsrep.evaluation.cohort import modified_z_scores, robust_outliers
from bidsrep.imaging.brainmask import mask_from_nonzero
from bidsrep.imaging.checks import border_fraction, flat_fraction, loose_fraction, noise_sd
from bidsrep.imaging.checks_anatomy import atlas, quarter_turns
from bidsrep.imaging.checks_pairs import largest_disagreement, mirror_gain
from bidsrep.imaging.conform import conform
from bidsrep.imaging.grids import bounding_box, pad_to_multiple, reference_grid
from bidsrep.imaging.lesions import find_lesions
from bidsrep.imaging.normalise import normalise
from bidsrep.imaging.quality import dice
from bidsrep.imaging.resample import resample
from bidsrep.imaging.volume import Volume
from bidsrep.reports.measures import measure_of
from bidsrep.reports.results import Metric


@dataclass(frozen=True)
class Scan:
    """An image, its brain mask, and the contrast its name claims."""

    image: Volume
    mask: np.ndarray
    suffix: str = "T1w"


Fault = Callable[[Scan], Scan]


def warned(scan: Scan) -> dict[str, str]:
    """Give the warnings of a scan: metric to text."""
    rows = check_rows(scan.suffix, scan.suffix, scan.image, scan.mask)
    metrics = [Metric("", r.scan, r.metric, f"{r.value}", r.unit, r.reference) for r in rows]
    texts = {metric.name: measure_of(metric.name).warn(metric) for metric in metrics}
    return {name: text for name, text in texts.items() if text}


def turned(scan: Scan, linear: np.ndarray) -> Scan:
    """Falsify the header: the axes of the world go through `linear` about the middle of the image."""
    affine = scan.image.affine.copy()
    middle = (np.array(scan.image.shape) - 1) / 2
    center = affine[:3, :3] @ middle + affine[:3, 3]
    affine[:3, :3] = linear @ affine[:3, :3]
    affine[:3, 3] = center - affine[:3, :3] @ middle
    return replace(scan, image=Volume(scan.image.data, affine))


def flipped(axis: int) -> Fault:
    sign = np.eye(3)
    sign[axis, axis] = -1
    return lambda scan: turned(scan, sign)


def rotated(scan: Scan) -> Scan:
    return turned(scan, np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]))


def foot_to_head(scan: Scan) -> tuple[int, np.ndarray]:
    """Give the axis nearest to the body's, and the slices of the brain along it, from its foot up."""
    axis = int(np.abs(scan.image.affine[2, :3] / scan.image.spacing).argmax())
    slices = np.flatnonzero(scan.mask.any(axis=tuple(a for a in range(3) if a != axis)))
    return axis, slices if scan.image.affine[2, axis] > 0 else slices[::-1]


def cut(scan: Scan) -> Scan:
    """End the field of view three tenths of the brain's height above its foot."""
    axis, slices = foot_to_head(scan)
    edge, rising = slices[int(0.3 * len(slices))], slices[-1] > slices[0]
    part = slice(edge, None) if rising else slice(0, edge + 1)
    box = (slice(None),) * axis + (part,)
    affine = scan.image.affine.copy()
    affine[:3, 3] += affine[:3, axis] * (part.start or 0)
    return replace(scan, image=Volume(scan.image.data[box], affine), mask=scan.mask[box])


def noisy(scan: Scan) -> Scan:
    rng = np.random.default_rng(0)
    sd = 0.3 * np.percentile(scan.image.data[scan.mask], 90)
    real, imaginary = rng.normal(0, sd, (2, *scan.image.shape))
    return replace(scan, image=scan.image.replace(np.hypot(scan.image.data + real, imaginary)))


def ghosted(scan: Scan) -> Scan:
    """A head that nods with the heartbeat: a phase that swings from line to line of k-space."""
    size = scan.image.shape[1]
    swing = np.exp(0.5j * np.sin(2 * np.pi * np.arange(size) / 3.3))
    lines = np.fft.fft(scan.image.data, axis=1) * swing[:, None]
    return replace(scan, image=scan.image.replace(np.abs(np.fft.ifft(lines, axis=1))))


def emptied(scan: Scan) -> Scan:
    """Nothing but noise where the brain should be."""
    rng = np.random.default_rng(0)
    sd = 0.03 * np.percentile(scan.image.data[scan.mask], 90)
    noise = np.abs(rng.normal(0, sd, scan.image.shape))
    return replace(scan, image=scan.image.replace(np.where(scan.mask, noise, scan.image.data)))


def zeroed(scan: Scan) -> Scan:
    return replace(scan, image=scan.image.replace(np.where(scan.mask, 0, scan.image.data)))


def slabbed(scan: Scan) -> Scan:
    """A tenth of the slices hold one value."""
    axis, slices = foot_to_head(scan)
    middle = len(slices) // 2
    lost = slices[middle : middle + max(1, len(slices) // 10)]
    data = scan.image.data.copy()
    data[(slice(None),) * axis + (lost,)] = np.median(data[scan.mask])
    return replace(scan, image=scan.image.replace(data))


def leaked(scan: Scan) -> Scan:
    """The mask runs into an orbit: a ball of 30 mm in front of and below the brain."""
    index = np.moveaxis(np.indices(scan.image.shape), 0, -1)
    world = index @ scan.image.affine[:3, :3].T + scan.image.affine[:3, 3]
    brain = world[scan.mask]
    center = brain.mean(axis=0) + np.array([20.0, 0.0, -45.0])
    center[1] = np.percentile(brain[:, 1], 99) - 15.0
    return replace(scan, mask=scan.mask | (((world - center) ** 2).sum(axis=-1) < 30.0**2))


def halved(scan: Scan) -> Scan:
    """The mask has lost a frontal quarter of the brain."""
    index = np.argwhere(scan.mask)
    world = index @ scan.image.affine[:3, :3].T
    lost = (world[:, :2] > world[:, :2].mean(axis=0)).all(axis=1)
    mask = scan.mask.copy()
    mask[tuple(index[lost].T)] = False
    return replace(scan, mask=mask)


def renamed(suffix: str) -> Fault:
    return lambda scan: replace(scan, suffix=suffix)


MASK = {"mask_shape", "mask_excess", "mask_missing", "mask_border", "mask_pieces"}
FAULTS: dict[str, tuple[Fault, set[str], set[str]]] = {
    "front and back exchanged": (flipped(1), {"orientation"}, set()),
    "upside down": (flipped(2), {"orientation"}, set()),
    "rotated header": (rotated, {"orientation"}, set()),
    "cut field of view": (cut, {"mask_border", "in_view"}, MASK),
    "noise": (noisy, {"noise"}, set()),
    "ghosts": (ghosted, {"ghosting"}, {"noise"}),
    "empty brain": (emptied, {"anatomy"}, {"noise"}),
    "brain set to zero": (zeroed, {"flat", "anatomy"}, {"noise"}),
    "constant slabs": (slabbed, {"flat"}, set()),
    "leaked mask": (leaked, {"mask_excess"}, MASK | {"flat"}),
    "half a mask": (halved, {"mask_missing", "mask_shape"}, MASK),
}
"""By what happened: how to break a scan so, the warnings that must come, and those that may."""


@pytest.fixture(scope="module")
def demo() -> dict[str, Scan]:
    """Simulate a T1w and a FLAIR, whole heads."""
    from bidsrep.cli.demo import load_template
    from bidsrep.synth.phantom.cohort import draw_person, simulate_visit, visits

    visit = visits(1)[0]
    person = draw_person(load_template(2), 1, 0)
    scans = simulate_visit(person, visit, 0, sloppy=True)
    return {
        s.protocol.suffix: Scan(Volume(s.image, s.placement.affine), s.truth["mask"] > 0, s.protocol.suffix)
        for s in scans
    }


class TestDemo:
    @pytest.mark.parametrize("suffix", ["T1w", "FLAIR"])
    def test_a_healthy_scan_raises_nothing(self, demo, suffix):
        assert warned(demo[suffix]) == {}

    @pytest.mark.parametrize("suffix", ["T1w", "FLAIR"])
    @pytest.mark.parametrize("name", FAULTS)
    def test_a_fault_raises_its_warning_and_only_sensible_others(self, demo, suffix, name):
        fault, wanted, allowed = FAULTS[name]
        raised = set(warned(fault(demo[suffix])))
        assert wanted <= raised <= wanted | allowed

    def test_a_mirrored_header_alone_is_not_seen(self, demo):
        assert warned(flipped(0)(demo["T1w"])) == {}

    @pytest.mark.parametrize(
        ("suffix", "name"), [("T1w", "FLAIR"), ("T1w", "T2w"), ("FLAIR", "T1w"), ("FLAIR", "T2w")]
    )
    def test_a_wrong_name_raises_contrast_and_says_what_it_looks_like(self, demo, suffix, name):
        found = warned(renamed(name)(demo[suffix]))
        assert set(found) == {"contrast"}
        assert f"looks like a {suffix}" in found["contrast"]

    def test_contrasts_without_an_order_of_tissues_are_left_alone(self, demo):
        assert warned(renamed("PDw")(demo["T1w"])) == {}

    def test_left_and_right_exchanged_is_seen_beside_another_scan(self, demo):
        t1w, flair = demo["T1w"], demo["FLAIR"]
        fixed = t1w.image.replace(np.where(t1w.mask, t1w.image.data, 0))
        stripped = flair.image.replace(np.where(flair.mask, flair.image.data, 0))
        moving = resample(stripped, fixed)
        assert mirror_gain(fixed, moving, t1w.mask) < measure_of("mirror").high
        assert mirror_gain(fixed, moving.replace(moving.data[::-1]), t1w.mask) > measure_of("mirror").high


class TestPaintedLesion:
    """Lesions painted into a scan beside the ventricle, of 7 and of 34 ml."""

    @pytest.mark.parametrize("suffix", ["T1w", "FLAIR"])
    @pytest.mark.parametrize(("radius", "seen"), [(0.0, False), (12.0, False), (20.0, True)])
    def test_a_large_dark_one_contradicts_the_synthetic_image(self, demo, suffix, radius, seen):
        scan = demo[suffix]
        rng = np.random.default_rng(0)
        synthetic = scan.image.data + rng.normal(0, 10, scan.image.shape).astype(np.float32)
        painted = paint(scan, radius, np.percentile(scan.image.data[scan.mask], 1))
        found = synthesis_disagreement(synthetic, painted.image, painted.mask)
        assert (found > measure_of("disagreement").high) == seen

    def test_a_bright_one_is_out_of_the_range_of_lesion_loads(self, lesion_free):
        scan = lesion_free
        bright = 1.15 * np.percentile(scan.image.data[scan.mask], 99)
        healthy, painted = load_of(scan), load_of(paint(scan, 12.0, bright))
        assert healthy < 3
        assert 0.7 * 7.2 < painted - healthy < 1.5 * 7.2
        cohort = [healthy * factor for factor in np.linspace(0.5, 1.5, 10)]
        scores = robust_outliers([np.log1p(load) for load in (*cohort, painted)])
        assert [score is not None for score in scores] == [False] * 10 + [True]


@pytest.fixture(scope="module")
def lesion_free() -> Scan:
    """The FLAIR of a simulated person without lesions, at 1 mm and without the skull."""
    from bidsrep.cli.demo import load_template
    from bidsrep.synth.phantom import cohort

    visit = cohort.visits(1)[0]
    person = cohort.draw_person(load_template(2), 1, 0)
    with pytest.MonkeyPatch.context() as patch:
        healthy = np.zeros_like(cohort.lesion_map(person, visit))
        patch.setattr(cohort, "lesion_map", lambda *_: healthy)
        flair = cohort.simulate_visit(person, visit, 0, sloppy=True)[1]
    whole, mask = (Volume(data, flair.placement.affine) for data in (flair.image, flair.truth["mask"] > 0))
    grid = reference_grid(whole, mask.data)
    brain = resample(mask, grid).data > 0.5
    image = resample(whole, grid)
    return Scan(image.replace(np.where(brain, image.data, 0)), brain, "FLAIR")


def paint(scan: Scan, radius: float, value: float) -> Scan:
    """Paint a ball (mm) of one intensity beside the ventricles, which are dark themselves."""
    center = np.argwhere(scan.mask).mean(axis=0) + np.array([28.0, 0.0, 22.0]) / scan.image.spacing
    index = np.moveaxis(np.indices(scan.image.shape), 0, -1)
    ball = scan.mask & ((((index - center) * scan.image.spacing) ** 2).sum(axis=-1) < radius**2)
    return replace(scan, image=scan.image.replace(np.where(ball, value, scan.image.data)))


def load_of(scan: Scan) -> float:
    """Let the bundled weights of PEPSI find lesions: their volume, ml."""
    import torch

    from bidsrep import load_model

    model, box = load_model("pepsi", device="cpu"), bounding_box(scan.mask, 8)
    inside = scan.mask[box]
    padded, keep = pad_to_multiple(normalise(scan.image.data[box], inside), model.divisor)
    found = model.predict(torch.from_numpy(padded)[None, None], tasks=["lesion"])["lesion"][0, 0].numpy()[
        keep
    ]
    return find_lesions(found, scan.image.voxel_ml, 0.5, 0.01, within=inside).total_ml


class TestRealScans:
    """Real heads (raw, clinical) with the masks that came with them, and stripped brains."""

    @staticmethod
    def stripped(path: Path) -> Scan:
        image, _ = conform(path)
        return Scan(image, mask_from_nonzero(image), path.name.split("_")[-1].partition(".")[0])

    @pytest.mark.data
    @pytest.mark.parametrize(
        "name",
        [
            "bids-ms-mni/sub-cs07/anat/sub-cs07_T1w.nii.gz",
            "bids-ms-mni/sub-cs07/anat/sub-cs07_ce-gadolinium_T1w.nii.gz",
            "bids-ms-mni/sub-cs07/anat/sub-cs07_T2w.nii.gz",
            "bids-ms-mni/sub-cs07/anat/sub-cs07_FLAIR.nii.gz",
            "bids-ds002748/sub-01/anat/sub-01_T1w.nii.gz",
            "bids-ds002748/sub-52/anat/sub-52_T1w.nii.gz",
        ],
    )
    def test_healthy_scans_raise_nothing(self, test_data, name):
        assert warned(self.stripped(test_data / "data" / name)) == {}

    @pytest.mark.data
    @pytest.mark.parametrize("suffix", ["T1w", "T2w", "FLAIR"])
    def test_wrong_names_are_seen(self, test_data, suffix):
        scan = self.stripped(test_data / f"data/bids-ms-mni/sub-cs07/anat/sub-cs07_{suffix}.nii.gz")
        for other in {"T1w", "T2w", "FLAIR"} - {suffix}:
            assert set(warned(renamed(other)(scan))) == {"contrast"}

    @pytest.mark.data
    @pytest.mark.parametrize("name", [n for n in FAULTS if n not in ("ghosts", "empty brain")])
    def test_faults_are_seen(self, test_data, name):
        # Not ghosts: a stripped brain has no air to see them in; not an empty one: nothing is left of it.
        fault, wanted, allowed = FAULTS[name]
        scan = self.stripped(test_data / "data/bids-ms-mni/sub-cs07/anat/sub-cs07_T1w.nii.gz")
        raised = set(warned(fault(scan)))
        assert wanted <= raised <= wanted | allowed

    @pytest.mark.data
    def test_left_and_right_exchanged_is_seen_beside_another_scan(self, test_data):
        folder = test_data / "data/bids-ms-mni/sub-cs07/anat"
        t1w, t2w = (self.stripped(folder / f"sub-cs07_{suffix}.nii.gz") for suffix in ("T1w", "T2w"))
        mirrored = t2w.image.replace(t2w.image.data[::-1])
        assert mirror_gain(t1w.image, t2w.image, t1w.mask) < 1
        assert mirror_gain(t1w.image, mirrored, t1w.mask) > measure_of("mirror").high


class TestParts:
    cube = np.zeros((12, 12, 12), dtype=bool)
    cube[2:10, 2:10, 2:10] = True

    def test_the_border_counts_by_area(self):
        spacing = np.array([1.0, 1.0, 3.0])
        assert border_fraction(self.cube, spacing) == 0
        cut_off = self.cube[:, :, 5:]
        # One of six faces of 8 x 8 x 5 voxels of 1 x 1 x 3 mm: 64 of 2 * 64 + 4 * 8 * 15 mm2.
        assert border_fraction(cut_off, spacing) == pytest.approx(64 / (2 * 64 + 4 * 8 * 15))

    def test_loose_pieces(self):
        mask = self.cube.copy()
        assert loose_fraction(mask) == 0
        mask[0, 0, 0] = True
        assert loose_fraction(mask) == pytest.approx(1 / 513)

    def test_noise_is_measured_whatever_the_planes_below(self):
        rng = np.random.default_rng(0)
        x, y, z = np.indices((40, 40, 40))
        image = 3.0 * x - 2.0 * y + z + rng.normal(0, 5.0, x.shape)
        assert noise_sd(image, np.ones(x.shape, bool), np.ones(3)) == pytest.approx(5.0, rel=0.05)

    def test_flat_parts(self):
        rng = np.random.default_rng(0)
        image = rng.random((12, 12, 12))
        assert flat_fraction(image, self.cube, (0, 1)) == 0
        image[:, :, 4] = 1
        assert flat_fraction(image, self.cube, (0, 1)) == pytest.approx(1 / 8)

    def test_a_disagreement_is_counted_in_ml(self):
        error = np.zeros((30, 30, 30))
        error[6:18, 6:18, 6:18] = 0.5
        error[21:24, 21:24, 21:24] = -0.5
        everywhere = np.ones(error.shape, bool)
        assert largest_disagreement(error, everywhere, (1, 1, 1)) == pytest.approx(12**3 / 1000)
        assert largest_disagreement(0.5 * error, everywhere, (1, 1, 1)) == 0

    def test_the_atlas_is_a_symmetric_brain(self):
        mean = atlas()
        assert mean is atlas()
        assert 1500 < mean.brain.sum() * 4**3 / 1000 < 2200  # ml; the template is larger than most brains
        assert (mean.grey + mean.white).max() <= 1.01
        left_right = dice(mean.brain, mean.brain[::-1])
        assert left_right > 0.95 > dice(mean.brain, mean.brain[:, ::-1])

    def test_quarter_turns_are_the_24_rotations_of_a_cube(self):
        turns = list(quarter_turns())
        assert len({turn.tobytes() for turn in (t + 0.0 for t in turns)}) == 24
        assert (turns[0] == np.eye(3)).all()

    @pytest.mark.parametrize(
        ("white", "fluid", "name"), [(0.3, -0.5, "T1w"), (-0.2, 0.5, "T2w"), (-0.1, -0.6, "FLAIR")]
    )
    def test_the_order_of_tissues_names_the_contrast(self, white, fluid, name):
        margins = contrast_margins(white, fluid)
        assert max(margins, key=lambda contrast: margins[contrast]) == name
        assert [contrast for contrast, margin in margins.items() if margin >= 0] == [name]


class TestCohort:
    def test_the_score_follows_its_formula(self):
        values = [1.0, 2.0, 3.0, 4.0, 5.0, 60.0]
        # Median 3.5, absolute deviations 2.5 1.5 0.5 0.5 1.5 56.5: their median is 1.5.
        assert modified_z_scores(values)[-1] == pytest.approx(0.6745 * 56.5 / 1.5, rel=1e-6)
        assert [z is not None for z in robust_outliers(values)] == [False] * 5 + [True]

    def test_a_lesion_load_out_of_range_is_found_on_either_side(self):
        loads = [5.1, 6.0, 5.5, 4.8, 5.9, 5.2, 41.0, 5.4]
        found = robust_outliers(loads)
        assert [index for index, score in enumerate(found) if score is not None] == [6]
        low = robust_outliers([-x for x in loads])[6]
        assert low is not None
        assert low < -3.5

    def test_few_or_equal_values_have_no_outliers(self):
        assert robust_outliers([1.0, 2.0, 1000.0]) == [None] * 3
        assert robust_outliers([2.0] * 9) == [None] * 9
        assert robust_outliers([]) == []

    def test_more_than_half_equal_values_fall_back_on_the_mean_deviation(self):
        found = robust_outliers([0.0] * 20 + [1.0, 300.0])
        assert found[-1] is not None
        assert found[:-1] == [None] * 21

    def test_missing_values_are_left_out(self):
        nan = float("nan")
        assert robust_outliers([nan, 1.0, 2.0, 3.0, 4.0, 5.0, 60.0])[0] is None
        assert robust_outliers([nan, 1.0, 2.0, 3.0, 4.0, 5.0, 60.0])[-1] is not None
