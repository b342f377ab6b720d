"""The synthetic heads: geometry, contrast and repeatability."""

import numpy as np
import pytest
from scipy import ndimage

from bidsrep.cli.demo import load_template
from bidsrep.synth.phantom import (
    Flair,
    Mprage,
    ScanPlacement,
    ScanProtocol,
    Template,
    grid_affine,
    make_person,
)
from bidsrep.synth.phantom.cohort import (
    Visit,
    draw_person,
    lesion_map,
    point_map,
    protocols,
    simulate_visit,
    visits,
)
from bidsrep.synth.phantom.deformation import (
    identity_deformation,
    integrate_velocity,
    sample_deformation,
    sample_pose,
)
from bidsrep.synth.phantom.person import DSEG_LABELS, Person
from bidsrep.synth.phantom.scan import acquire, rician, template_index
from bidsrep.synth.phantom.shapes import Canvas, Ellipsoid, Tube, draw, lattice_shape, smooth_union, upsample
from bidsrep.synth.phantom.tissues import TISSUES, Tissue, tissue_signals


@pytest.fixture(scope="module")
def template() -> Template:
    return load_template(4)


@pytest.fixture(scope="module")
def person() -> Person:
    return draw_person(load_template(2), 1, seed=0)


class TestTissues:
    def test_t1w_order_is_white_grey_fluid(self):
        signal = tissue_signals(Mprage())
        assert signal["fat"] > signal["wm"] > signal["gm"] > signal["csf"] > signal["air"]
        assert signal["gm"] < signal["lesion"] < signal["wm"]

    def test_flair_order_is_lesion_grey_white_and_fluid_is_nulled(self):
        signal = tissue_signals(Flair())
        assert signal["lesion"] > 1.4 * signal["gm"] > 1.4 * signal["wm"]
        assert signal["csf"] < 0.05 * signal["wm"]

    @pytest.mark.parametrize("sequence", [Mprage(), Flair()])
    def test_bone_and_air_are_dark(self, sequence):
        signal = tissue_signals(sequence)
        assert max(signal["bone"], signal["air"]) < 0.02 * signal["wm"]

    def test_signal_is_proportional_to_proton_density(self):
        one, two = Tissue(1.0, 0.08, 0.05, 0.4), Tissue(1.0, 0.08, 0.05, 0.8)
        for sequence in (Mprage(), Flair()):
            assert sequence.signal(two) == pytest.approx(2 * sequence.signal(one))

    def test_mprage_whose_train_does_not_fit_is_refused(self):
        with pytest.raises(ValueError, match="does not fit"):
            Mprage(inversion_time=0.3).signal(TISSUES["wm"])

    def test_flair_nulls_the_t1_its_inversion_time_belongs_to(self):
        t1 = 4.2
        null = t1 * np.log(2 / (1 + np.exp(-9.0 / t1)))
        assert Flair(inversion_time=null).signal(TISSUES["csf"]) == pytest.approx(0, abs=1e-9)


class TestShapes:
    def test_volume_of_a_drawn_sphere_is_that_of_a_sphere(self):
        canvas = Canvas((-20.0, -20.0, -20.0), (41, 41, 41), 1.0)
        layer = draw(canvas, "wm", Ellipsoid((0, 0, 0), (12, 12, 12)))
        assert layer.alpha.sum() / 255 == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.01)

    def test_distance_of_a_tube_is_exact(self):
        tube = Tube(((0, 0, 0), (10, 0, 0)), (2, 2))
        x, y, z = np.array([5.0, 5.0, 13.0]), np.array([0.0, 5.0, 0.0]), np.zeros(3)
        assert tube.distance(x, y, z) == pytest.approx([-2, 3, 1])

    def test_shapes_beyond_the_canvas_draw_nothing(self):
        canvas = Canvas((0.0, 0.0, 0.0), (8, 8, 8), 1.0)
        assert draw(canvas, "wm", Ellipsoid((50, 0, 0), (3, 3, 3))).alpha.size == 0

    def test_smooth_union_holds_both_bodies(self):
        rng = np.random.default_rng(0)
        one, two = rng.normal(size=(2, 1000)) * 10
        assert (smooth_union([one, two], 5) <= np.minimum(one, two)).all()

    @pytest.mark.parametrize("factor", [1, 2, 5])
    def test_upsampling_keeps_a_linear_field(self, factor):
        shape = (9, 14, 6)
        nodes = np.meshgrid(*(factor * np.arange(n) for n in lattice_shape(shape, factor)), indexing="ij")
        full = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
        weights = (2.0, -1.0, 0.5)
        coarse, fine = (sum(w * g for w, g in zip(weights, grid, strict=True)) for grid in (nodes, full))
        assert upsample(coarse, factor, shape) == pytest.approx(fine, abs=1e-4)


class TestDeformation:
    @pytest.mark.parametrize("seed", range(3))
    def test_it_never_folds(self, seed):
        flow = sample_deformation(np.random.default_rng(seed)).displacement / 8  # voxels of the lattice
        jacobian = np.stack([np.stack(np.gradient(c), -1) for c in flow], -2) + np.eye(3)
        assert np.linalg.det(jacobian).min() > 0.1

    def test_integrating_the_negative_velocity_gives_the_inverse(self):
        rng = np.random.default_rng(1)
        velocity = np.stack(
            [ndimage.gaussian_filter(rng.normal(size=(16, 16, 16)), 3) * 30 for _ in range(3)]
        )
        there, back = integrate_velocity(velocity, 8.0, 7), integrate_velocity(-velocity, 8.0, 7)
        grid = np.stack(np.meshgrid(*(np.arange(16),) * 3, indexing="ij"))
        returned = there + np.stack(
            [ndimage.map_coordinates(c, grid + there / 8.0, order=1, mode="nearest") for c in back]
        )
        inner = (slice(None), *(slice(3, -3),) * 3)
        assert np.abs(returned[inner]).max() < 0.15 * np.abs(there[inner]).max()

    def test_a_pose_is_rigid(self):
        pose = sample_pose(np.random.default_rng(2), 5, 5)
        assert pose[:3, :3] @ pose[:3, :3].T == pytest.approx(np.eye(3), abs=1e-12)
        assert np.linalg.det(pose) == pytest.approx(1)

    def test_identity_maps_world_to_canvas_voxels(self):
        canvas = Canvas((-10.0, -20.0, -30.0), (11, 21, 31), 2.0)
        shape = (10, 12, 14)
        affine = grid_affine(shape, (1.0, 1.5, 2.0), "LAS", (1, 2, 3), (3, 4, 5))
        index = template_index(affine, shape, np.eye(4), identity_deformation(), canvas)
        world = affine @ [3, 5, 7, 1]
        assert index[:, 3, 5, 7] == pytest.approx((world[:3] - canvas.origin) / 2, abs=1e-4)


class TestAnatomy:
    def test_the_brain_lies_inside_the_head(self, person):
        head = person.layers[0].alpha > 127  # the skin's inside, painted first
        depth = ndimage.distance_transform_edt(head) * person.canvas.spacing
        assert depth[person.mask].min() > 8

    def test_bone_and_scalp_surround_the_brain_in_the_image(self, person):
        image = person.signal(Mprage(), person.lesion_map())
        x = person.canvas.shape[0] // 2
        row = image[x, :, round((20 - person.canvas.origin[2]) / person.canvas.spacing)]
        inside = np.flatnonzero(
            person.mask[x, :, round((20 - person.canvas.origin[2]) / person.canvas.spacing)]
        )
        behind = row[: inside[0]]
        assert behind.max() > 1.2  # fat is brighter than white matter
        assert behind[np.argmax(behind) :].min() < 0.3  # and between it and the brain lies dark bone
        assert behind[0] == 0

    def test_tissue_fractions_are_fractions_and_brain_only(self, person):
        for tissue in (person.gm, person.wm):
            assert tissue.min() >= 0
            assert not tissue[~person.mask].any()
        assert (person.gm + person.wm).max() <= 1 + 1e-5

    def test_lesions_lie_in_white_matter_near_the_ventricles(self, person):
        lesion = person.lesion_map()
        assert (lesion <= person.wm + 1e-6).all()
        assert lesion.sum() * person.canvas.spacing**3 > 1000

    def test_later_sessions_have_all_of_the_earlier_lesions(self, person):
        first, later = lesion_map(person, Visit(1, "A")), lesion_map(person, Visit(1, "B"))
        assert (later >= first - 0.2).mean() > 0.9999
        assert later.sum() > 1.2 * first.sum()

    def test_two_people_differ_and_one_seed_is_one_person(self, template):
        one, again, other = (make_person(template, np.random.default_rng(seed)) for seed in (5, 5, 6))
        assert np.array_equal(one.gm, again.gm)
        assert one.lesions == again.lesions
        assert np.array_equal(one.deformation.displacement, again.deformation.displacement)
        assert np.abs(one.gm - other.gm)[one.mask].mean() > 0.02


class TestScans:
    @pytest.fixture(scope="class")
    def scans(self, person):
        return simulate_visit(person, Visit(1, "A"), seed=0, sloppy=True)

    def test_tissue_order_in_the_images(self, scans):
        t1w, flair = (
            {name: float(np.median(s.image[s.truth["dseg"] == DSEG_LABELS[name]])) for name in DSEG_LABELS}
            for s in scans
        )
        assert t1w["wm"] > 1.2 * t1w["gm"] > 1.2 * 1.4 * t1w["csf"]
        assert flair["lesion"] > 1.2 * flair["gm"] > 1.2 * flair["wm"]
        assert flair["wm"] > 2 * flair["csf"]

    def test_truth_fits_the_grid_and_nests(self, scans):
        for scan in scans:
            assert {v.shape for v in scan.truth.values()} == {scan.image.shape}
            mask, lesion, dseg = scan.truth["mask"], scan.truth["lesion"], scan.truth["dseg"]
            assert not lesion[mask == 0].any()
            assert not dseg[mask == 0].any()
            assert set(np.unique(dseg)) <= set(DSEG_LABELS.values())

    def test_both_scans_show_the_same_volumes(self, scans):
        volumes = [
            s.truth["mask"].sum() * abs(np.linalg.det(s.placement.affine[:3, :3])) / 1000 for s in scans
        ]
        assert 1200 < volumes[0] < 1800
        assert volumes[1] == pytest.approx(volumes[0], rel=0.02)

    def test_the_point_map_carries_one_mask_onto_the_other(self, scans):
        t1w, flair = scans
        points = np.argwhere(t1w.truth["mask"])[::97]
        to_flair = np.linalg.inv(flair.placement.affine) @ point_map(t1w.placement, flair.placement)
        voxels = (
            points @ (to_flair @ t1w.placement.affine)[:3, :3].T + (to_flair @ t1w.placement.affine)[:3, 3]
        )
        inside = ndimage.map_coordinates(flair.truth["mask"].astype(float), voxels.T, order=1)
        assert (inside > 0.5).mean() > 0.95

    def test_scanning_again_gives_the_same_bytes(self, person, scans):
        again = simulate_visit(person, Visit(1, "A"), seed=0, sloppy=True)
        for one, two in zip(scans, again, strict=True):
            assert np.array_equal(one.image, two.image)
            assert np.array_equal(one.truth["dseg"], two.truth["dseg"])

    def test_noise_in_air_is_rayleigh(self):
        air = rician(np.zeros((40, 40, 40), dtype=np.float32), 2.0, np.random.default_rng(0))
        assert air.mean() == pytest.approx(2.0 * np.sqrt(np.pi / 2), rel=0.01)

    def test_without_noise_and_shading_a_uniform_block_stays_uniform(self):
        canvas = Canvas((-30.0, -30.0, -30.0), (31, 31, 31), 2.0)
        protocol = ScanProtocol("T1w", Mprage(), (8, 8, 4), (2.0, 2.0, 4.0), subslices=3, noise=0, bias=0)
        placement = ScanPlacement(grid_affine(protocol.shape, protocol.spacing), np.eye(4))
        image = acquire(
            np.ones(canvas.shape, np.float32), canvas, identity_deformation(), placement, protocol,
            np.random.default_rng(0),
        )  # fmt: skip
        assert np.ptp(image) <= 1


@pytest.mark.parametrize("axes", ["RAS", "PSR", "LAS", "LPI"])
def test_grid_affines_have_the_wanted_axes_and_middle(axes):
    import nibabel as nib

    affine = grid_affine((10, 11, 12), (1.0, 2.0, 3.0), axes, (4, 5, 6), (3, -2, 1))
    assert "".join(nib.aff2axcodes(affine)) == axes
    assert (affine @ [4.5, 5, 5.5, 1])[:3] == pytest.approx([4, 5, 6])
    assert nib.affines.voxel_sizes(affine) == pytest.approx([1, 2, 3])


def test_a_larger_cohort_begins_with_the_smaller_one():
    assert visits(4)[: len(visits(2))] == visits(2)
    assert protocols(1) != protocols(2)
