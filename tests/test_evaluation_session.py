"""Measures of one session: synthesis against acquired images, features against features."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from bidsrep.evaluation.invariance import FeatureLattice, compare_features
from bidsrep.evaluation.session import (
    Row,
    ScanFiles,
    _lesions,
    from_tsv,
    measure_scans,
    measure_session,
    to_tsv,
)
from bidsrep.evaluation.synthesis import compare_synthesis
from bidsrep.imaging.checks_anatomy import atlas
from bidsrep.imaging.transforms import write_itk
from bidsrep.imaging.volume import Volume

RNG = np.random.default_rng(0)
BRAIN = np.ones((8, 8, 8), dtype=bool)


class TestSynthesis:
    image = RNG.uniform(1, 2, (8, 8, 8))

    def test_scale_and_offset_do_not_matter(self):
        result = compare_synthesis(3 * self.image + 7, self.image, BRAIN)
        assert result["correlation"] == pytest.approx(1)
        assert result["mae"] < 1e-9
        assert result["psnr"] > 100

    def test_an_inverted_image_gets_no_credit(self):
        inverted = compare_synthesis(-self.image, self.image, BRAIN)
        constant = compare_synthesis(np.ones_like(self.image), self.image, BRAIN)
        assert inverted["correlation"] == pytest.approx(-1)
        assert inverted["mae"] == pytest.approx(constant["mae"])

    def test_psnr_follows_its_formula(self):
        noisy = self.image + RNG.normal(0, 0.1, self.image.shape)
        truth = self.image / np.percentile(self.image, 99.5)
        slope, offset = np.polyfit(noisy.ravel(), truth.ravel(), 1)
        mse = np.mean((slope * noisy + offset - truth) ** 2)
        assert compare_synthesis(noisy, self.image, BRAIN)["psnr"] == pytest.approx(-10 * np.log10(mse))

    def test_only_the_mask_counts(self):
        mask = BRAIN.copy()
        mask[4:] = False
        damaged = np.where(mask, self.image, 99)
        assert compare_synthesis(damaged, self.image, mask)["mae"] < 1e-9

    def test_an_empty_image_is_nan(self):
        assert np.isnan(compare_synthesis(self.image, 0 * self.image, BRAIN)["psnr"])


class TestInvariance:
    features = RNG.normal(0, 1, (5, 8, 8, 8)).astype(np.float32)

    def lattice(self, features: np.ndarray, step: int = 2) -> FeatureLattice:
        return FeatureLattice.sample(features, BRAIN, step)

    def test_the_same_features_score_one(self):
        assert compare_features(self.lattice(self.features), self.lattice(2 * self.features))[
            "contrast_invariance"
        ] == pytest.approx(1, abs=1e-6)

    def test_unrelated_features_score_about_zero(self):
        other = RNG.normal(0, 1, self.features.shape)
        score = compare_features(self.lattice(self.features, 1), self.lattice(other, 1))[
            "contrast_invariance"
        ]
        assert abs(score) < 0.1

    def test_a_common_offset_does_not_raise_the_score(self):
        other = RNG.normal(0, 1, self.features.shape)
        result = compare_features(self.lattice(self.features + 20, 1), self.lattice(other + 20, 1))
        assert result["feature_cosine"] > 0.99
        assert abs(result["contrast_invariance"]) < 0.1

    def test_only_common_voxels_are_compared(self):
        half = BRAIN.copy()
        half[:4] = False
        spoiled = np.where(half, self.features, 0)
        result = compare_features(self.lattice(self.features), FeatureLattice.sample(spoiled, half, 2))
        assert result["contrast_invariance"] == pytest.approx(1, abs=1e-6)

    def test_coarse_features_are_interpolated_at_the_lattice(self):
        mask = np.zeros((40, 40, 40), bool)
        mask[5:37, 4:36, 8:40] = True
        box = (slice(5, 37), slice(4, 36), slice(8, 40))
        # Every feature is the place of its cube's centre along one axis of the box.
        centres = np.stack(np.meshgrid(*[np.arange(4) * 8 + 3.5] * 3, indexing="ij"))
        lattice = FeatureLattice.sample(centres, mask, step=4, box=box, stride=8)
        found = np.stack(np.unravel_index(lattice.voxels, mask.shape), axis=1)
        assert {int(v) for v in np.diff(np.unique(found[:, 0]))} == {8}
        inner = ((found - [5, 4, 8] >= 4) & (found - [5, 4, 8] < 28)).all(axis=1)
        np.testing.assert_allclose(lattice.features[inner], found[inner] - [5, 4, 8])

    def test_a_cropped_array_gives_the_same_lattice(self):
        inner = np.zeros_like(BRAIN)
        inner[2:7, 1:8, 3:6] = True
        box = (slice(1, 7), slice(1, 8), slice(3, 7))
        whole = FeatureLattice.sample(self.features, inner, 2)
        part = FeatureLattice.sample(self.features[(slice(None), *box)], inner, 2, box)
        assert np.array_equal(whole.voxels, part.voxels)
        assert np.array_equal(whole.features, part.features)

    def test_nothing_in_common_is_nan(self):
        empty = FeatureLattice.sample(self.features, ~BRAIN, 2)
        assert np.isnan(compare_features(self.lattice(self.features), empty)["contrast_invariance"])

    def test_round_trip(self, tmp_path):
        lattice = self.lattice(self.features)
        again = FeatureLattice.load(lattice.save(tmp_path / "lattice.npz"))
        assert np.array_equal(again.voxels, lattice.voxels)
        assert np.allclose(again.features, lattice.features, atol=2e-3)


class TestSession:
    """The long table of a session, from files as the workflow leaves them."""

    @staticmethod
    def files(folder, key, image, mask, **more) -> ScanFiles:
        paths = {}
        for name, volume in {"conformed": image, "native_mask": mask, "preproc": image, "mask": mask}.items():
            paths[name] = volume.save(folder / f"{key}_{name}.nii")
        return ScanFiles(key, key, **paths, **more)

    @pytest.fixture(scope="class")
    def scans(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("session")
        mean = atlas()
        affine = mean.affine
        # A brain made of the atlas itself, as two contrasts; the second scan's name is wrong.
        t1w = Volume(mean.image.data * 100, affine)
        flair = Volume(np.where(mean.brain, 100 * mean.grey + 80 * mean.white, 0), affine)
        mask = Volume(mean.brain, affine)
        good = self.files(folder, "T1w", t1w, mask, images={"T1w": folder / "T1w_preproc.nii"})
        wrong = self.files(folder, "T2w", flair, mask, transform=write_itk(folder / "xfm.txt", np.eye(4)))
        return [good, wrong]

    @pytest.fixture(scope="class")
    def rows(self, scans):
        return measure_session(scans)

    @pytest.mark.parametrize("damaged", [False, True])
    def test_given_lesions_may_have_a_fourth_axis_and_may_be_damaged(self, scans, tmp_path, damaged):
        lesion = np.zeros((8, 8, 8), np.float32)
        lesion[2:5, 2:5, 2:5] = 1
        mask = Volume(lesion, np.eye(4)).save(tmp_path / "found.nii")
        given = tmp_path / "given.nii.gz"
        nib.Nifti1Image(lesion[..., None], np.eye(4)).to_filename(given)
        if damaged:
            given.write_bytes(given.read_bytes()[:60])
        scan = replace(scans[0], lesions=mask, given_lesions=given)
        agreed = {row.metric: row.value for row in _lesions(scan)}["lesion_dice"]
        assert np.isnan(agreed) if damaged else agreed == 1

    def test_what_was_measured_before_gives_the_same_table(self, scans, rows):
        known = from_tsv(to_tsv(measure_scans(scans)))
        assert to_tsv(measure_session(scans, known)) == to_tsv(rows)
        assert len(known) > 20

    def values(self, rows, scan):
        return {row.metric: row for row in rows if row.scan == scan}

    def test_checks_stand_beside_what_was_measured_before(self, rows):
        found = self.values(rows, "T1w")
        assert {"brain_volume", "orientation", "contrast", "correlation", "self_consistency"} <= found.keys()
        assert found["self_consistency"].value == pytest.approx(1)
        assert found["disagreement"].value == 0
        assert found["disagreement"].unit == "cm3"
        assert found["contrast"].value > 0

    def test_pairs_have_their_reference(self, rows):
        found = self.values(rows, "T2w")
        assert found["mirror"].reference == found["mask_dice"].reference == "T1w"
        assert found["contrast"].value < 0
        assert found["contrast"].reference == "FLAIR"

    def test_a_part_of_a_brain_is_not_called_wrong(self, scans, tmp_path):
        """A slab can be laid over an average brain, and over its mirror image, in many ways."""
        reference, other = scans
        image, mask = Volume.load(other.conformed), Volume.load(other.native_mask)
        middle = mask.shape[2] // 2
        image, mask = (Volume(v.data[:, :, middle : middle + 8], v.affine) for v in (image, mask))
        full = Volume.load(reference.mask)
        inside = np.zeros(full.shape, np.float32)
        inside[:, :, :8] = full.data[:, :, :8]
        files = {"conformed": image, "native_mask": mask, "mask": full.replace(inside)}
        paths = {name: volume.save(tmp_path / f"{name}.nii") for name, volume in files.items()}
        found = self.values(measure_scans([reference, replace(other, **paths)]), other.key)
        assert found["mask_border"].value > 0.25
        for name in (
            "orientation",
            "anatomy",
            "mask_excess",
            "mask_missing",
            "mask_shape",
            "contrast",
            "mirror",
        ):
            assert np.isnan(found[name].value), name

    def test_the_table_is_written_with_na(self):
        text = to_tsv([Row("T1w", "ghosting", float("nan")), Row("T1w", "noise", 0.25)])
        assert text.splitlines()[1:] == ["T1w\tghosting\tn/a\tn/a\tn/a", "T1w\tnoise\t0.25\tn/a\tn/a"]
