"""Figures: where cuts lie and which side is which, what is drawn, how large it is, and that it repeats."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from bidsrep.imaging.grids import Grid, bounding_box
from bidsrep.imaging.transforms import write_itk
from bidsrep.imaging.volume import Volume
from bidsrep.reports.bias import plot_bias
from bidsrep.reports.components import plot_components
from bidsrep.reports.cuts import AXES, Frame, cuts_at, plan
from bidsrep.reports.reportlets import (
    plot_brain_mask,
    plot_lesions,
    plot_registration,
    plot_synthesis,
)
from bidsrep.reports.segmentation import plot_segmentation
from bidsrep.reports.svg import Figure, outline
from bidsrep.reports.zoom import plot_superres

SHAPE = (20, 24, 18)
HOSTILE = '<script>alert("x")</script>'


def head(affine: np.ndarray | None = None, shift: int = 0) -> tuple[Volume, Volume]:
    """Make an ellipsoid head whose right half is brighter, and its brain mask: 4 mm voxels, RAS."""
    affine = np.diag([4.0, 4.0, 4.0, 1.0]) if affine is None else affine
    x, y, z = np.indices(SHAPE) - (np.array(SHAPE) - 1).reshape(3, 1, 1, 1) / 2
    radius = np.sqrt(((x - shift) / 9) ** 2 + (y / 11) ** 2 + (z / 8) ** 2)
    rng = np.random.default_rng(0)
    data = np.where(radius < 1, 100.0 + 50 * (x > shift), 0) + rng.uniform(0, 2, SHAPE)
    return Volume(data, affine), Volume(radius < 0.8, affine)


def structures(mask: Volume) -> Volume:
    """Call the left half of a brain left cortex, the right one right white matter, and its middle the 3rd ventricle."""
    x, y, z = np.abs(np.indices(SHAPE) - (np.array(SHAPE) - 1).reshape(3, 1, 1, 1) / 2)
    labels = np.where(np.indices(SHAPE)[0] < SHAPE[0] / 2, 3, 41)
    labels[(x < 2) & (y < 4) & (z < 3)] = 14
    return mask.replace(np.where(mask.data > 0, labels, 0))


def ramp(mask: Volume, reach: float = 0.2) -> Volume:
    """Make a bias field that grows to the right, by `reach` on either side; 0 outside the brain."""
    along = np.linspace(1 - reach, 1 + reach, SHAPE[0])[:, None, None] * np.ones(SHAPE)
    return mask.replace(np.where(mask.data > 0, along, 0))


def pictures(path, mode: str = "L", kind: str = "webp") -> list[np.ndarray]:
    """Decode the pictures of a figure, in the order they are drawn."""
    found = re.findall(rf"data:image/{kind};base64,([A-Za-z0-9+/=]+)", path.read_text())
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(code))).convert(mode)) for code in found]


def draw_components(features: np.ndarray, mask: Volume, path):
    """Draw features (C, X, Y, Z) of the whole grid, cropped as a run does."""
    inside = mask.data > 0
    box = bounding_box(inside, 2)
    return plot_components(
        features[(slice(None), *box)], features[:, inside].T, inside, box, mask.affine, path, title="pepsi"
    )


class TestCuts:
    def test_the_patients_left_is_on_the_left(self):
        scan, _ = head()
        frame = Frame.of(scan)
        box = np.array([np.zeros(3), frame.size])
        tile = plan(frame, "axial", 1, box)[0].sample(scan, 2.0)
        left, right = np.hsplit(tile, 2)
        assert right.mean() > 1.2 * left.mean()

    @pytest.mark.parametrize("axes", [(-1, 1, 1), (1, -1, 1), (-1, -1, 1), (-1, 1, -1)])
    def test_the_way_the_voxels_are_stored_does_not_matter(self, axes):
        scan, _ = head()
        flipped = Volume(
            scan.data[tuple(slice(None, None, step) for step in axes)],
            scan.affine
            @ np.array(
                [
                    [*(step * (i == j) for j in range(3)), (n - 1) * (step < 0)]
                    for i, (step, n) in enumerate(zip(axes, SHAPE, strict=True))
                ]
                + [[0, 0, 0, 1]],
                dtype=float,
            ),
        )
        tiles = []
        for volume in (scan, flipped):
            frame = Frame.of(volume)
            cuts = [plan(frame, view, 1, np.array([np.zeros(3), frame.size]))[0] for view in AXES]
            tiles.append([cut.sample(volume, 2.0) for cut in cuts])
        for one, two in zip(*tiles, strict=True):
            np.testing.assert_allclose(one, two, atol=1e-3)

    def test_anterior_is_up_and_superior_is_up(self):
        data = np.zeros(SHAPE)
        data[:, -3:, :] = 1  # anterior
        data[:, :, -3:] = 2  # superior
        volume = Volume(data, np.eye(4))
        frame = Frame.of(volume)
        box = np.array([np.zeros(3), frame.size])
        assert plan(frame, "axial", 1, box)[0].sample(volume, 1.0)[0].mean() > 0.9
        sagittal = plan(frame, "sagittal", 1, box)[0].sample(volume, 1.0)
        assert sagittal[0].mean() == pytest.approx(2)
        assert sagittal[-1, -1] == pytest.approx(1)

    def test_cuts_go_through_voxel_centres(self):
        frame = Frame.of(Grid(SHAPE, np.diag([1.0, 1.0, 4.0, 1.0])))
        cuts = plan(frame, "axial", 5, np.array([np.zeros(3), frame.size]))
        assert all(cut.position % 4 == 0 for cut in cuts)

    def test_the_caption_says_the_world_coordinate(self):
        affine = np.diag([1.0, 1.0, 2.0, 1.0])
        affine[2, 3] = -10
        frame = Frame.of(Grid(SHAPE, affine))
        cut = cuts_at(frame, "axial", [6.0], np.array([np.zeros(3), frame.size]))[0]
        assert cut.world == pytest.approx(-4)

    def test_the_extent_of_a_mask_is_the_same_from_any_grid(self):
        _, mask = head()
        frame = Frame.of(mask)
        half = Volume(mask.data[::-1], mask.affine @ np.diag([-1.0, 1, 1, 1]))
        half.affine[0, 3] += 4 * (SHAPE[0] - 1)
        np.testing.assert_allclose(
            frame.extent(mask.data > 0, mask.affine), frame.extent(half.data > 0, half.affine)
        )


class TestSvg:
    def test_words_are_escaped(self):
        text = Figure(HOSTILE, HOSTILE).render()
        assert "<script" not in text
        assert "&lt;script&gt;" in text

    def test_nireports_leaves_the_file_alone(self):
        """It rewrites, not atomically, every SVG of which one of the first lines begins with ``<svg``."""
        assert not any(line.startswith("<svg") for line in Figure("x").render().splitlines()[:6])

    def test_an_outline_encloses_the_mask(self):
        mask = np.zeros((20, 20))
        mask[5:15, 5:15] = 1
        path = outline(mask, 1.0)
        assert path.startswith("M")
        assert path.endswith("z")
        assert outline(np.zeros((20, 20)), 1.0) == ""

    def test_a_figure_has_a_description(self):
        assert "<title>what it shows</title>" in Figure("x", description="what it shows").render()


class TestFigures:
    def figures(self, folder):
        """Draw every figure of one head."""
        scan, mask = head()
        moved, _ = head(shift=2)
        lesions = scan.replace((scan.data > 140) & (np.indices(SHAPE)[2] > 10))
        transform = write_itk(folder / "xfm.txt", np.diag([1.0, 1, 1, 1]))
        return [
            plot_brain_mask(scan, mask, folder / "mask.svg", title="T1w", note="given"),
            plot_registration(scan, moved, transform, mask, folder / "reg.svg", title="T2w"),
            plot_synthesis(scan, {"T1w": scan}, mask, folder / "syn.svg", acquired={"T1w": scan}),
            plot_lesions(scan, lesions, mask, folder / "lesions.svg", title="FLAIR"),
            plot_superres(scan, moved, mask, folder / "superres.svg", title="FLAIR", source_name="FLAIR"),
            draw_components(np.random.default_rng(0).random((8, *SHAPE)), mask, folder / "components.svg"),
            plot_segmentation(scan, structures(mask), mask, folder / "seg.svg", labels="aseg"),
            plot_bias(scan, ramp(mask), mask, folder / "bias.svg", title="T1w", source_name="T1w"),
        ]

    def test_the_same_images_give_the_same_bytes(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        for one, two in zip(self.figures(tmp_path / "a"), self.figures(tmp_path / "b"), strict=True):
            assert one.read_bytes() == two.read_bytes()

    def test_figures_are_light(self, tmp_path):
        assert all(path.stat().st_size < 300_000 for path in self.figures(tmp_path))

    def test_the_volume_of_the_mask_is_told(self, tmp_path):
        scan, mask = head()
        text = plot_brain_mask(scan, mask, tmp_path / "mask.svg", note="given").read_text()
        assert f"brain {mask.data.sum() * 0.064:,.0f} ml · given" in text

    def test_paths_and_volumes_give_the_same_figure(self, tmp_path):
        scan, mask = head()
        paths = scan.save(tmp_path / "scan.nii.gz"), mask.save(tmp_path / "mask.nii.gz", np.uint8)
        one = plot_brain_mask(scan, mask, tmp_path / "one.svg")
        two = plot_brain_mask(*paths, tmp_path / "two.svg")
        assert one.read_bytes() == two.read_bytes()

    def test_registration_shows_the_scan_moved(self, tmp_path):
        scan, mask = head()
        moved, _ = head(shift=3)
        matrix = np.eye(4)
        matrix[0, 3] = 3 * 4  # the moving head lies three voxels to the right
        path = plot_registration(scan, moved, matrix, mask, tmp_path / "reg.svg")
        reference, before, after = (picture.astype(float) for picture in pictures(path))
        assert np.abs(after - reference).mean() < 0.3 * np.abs(before - reference).mean()
        assert path.read_text().count("<use ") == 1  # the reference is stored once

    def test_the_difference_is_dark_where_the_images_agree(self, tmp_path):
        scan, mask = head()
        path = plot_synthesis(
            scan, {"T1w": scan}, mask, tmp_path / "syn.svg", acquired={"T1w": scan.replace(3 * scan.data + 5)}
        )
        assert pictures(path)[-1].mean() < 2
        assert "r = 1.00" in path.read_text()

    def test_an_input_is_not_shown_again_as_the_acquired_image(self, tmp_path):
        scan, mask = head()
        path = scan.save(tmp_path / "scan.nii")
        other = plot_synthesis(scan, {"T1w": scan}, mask, tmp_path / "a.svg", acquired={"T1w": path})
        itself = plot_synthesis(path, {"T1w": scan}, mask, tmp_path / "b.svg", acquired={"T1w": path})
        assert len(pictures(other)) == 4
        assert len(pictures(itself)) == 3

    def test_components_are_the_voxels_of_the_cut(self, tmp_path):
        _, mask = head()
        x, y, z = np.indices(SHAPE).astype(np.float32)
        # The brain is longest from front to back, then from left to right: red grows forwards, green to the right.
        path = draw_components(np.stack([x, y, z]), mask, tmp_path / "components.svg")
        (picture,) = pictures(path, "RGB")
        tile = picture[:, : picture.shape[1] // 7].astype(float)  # the first of the axial cuts
        rows, columns = np.nonzero(tile.max(axis=2) > 60)
        red, green, blue = tile[rows, columns].T
        assert np.corrcoef(red, rows)[0, 1] < -0.9
        assert np.corrcoef(green, columns)[0, 1] > 0.9
        assert np.median(blue) < 60  # it lies far down; at this size, colours run into each other
        assert "features&#x27; variance" in path.read_text()

    def test_super_resolution_is_shown_enlarged_with_the_difference(self, tmp_path):
        scan, mask = head()
        invented = (np.indices(SHAPE)[2] == 10) * 0.5  # one slice of all is brighter
        same = pictures(plot_superres(scan, scan.replace(scan.data / 150), mask, tmp_path / "a.svg"))
        sharper = scan.replace(scan.data / 150 * (1 + invented))
        other = pictures(plot_superres(scan, sharper, mask, tmp_path / "b.svg"))
        assert len(same) == len(other) == 3
        assert same[-1].max() < 20
        assert other[-1].max() > 100
        assert same[0].shape[0] == 28  # 56 mm in pixels of half a voxel

    def test_structures_have_their_colours_on_their_side_and_an_outline(self, tmp_path):
        scan, mask = head()
        path = plot_segmentation(scan, structures(mask), mask, tmp_path / "seg.svg", labels="aseg")
        picture = pictures(path, "RGBA", "png")[0]
        tile = picture[:, : picture.shape[1] // 6]
        left, right = tile[:, : tile.shape[1] // 2], tile[:, tile.shape[1] // 2 :]
        colours = [{tuple(rgba) for rgba in half[half[..., 3] > 0][:, :3].tolist()} for half in (left, right)]
        cortex, white_matter = (0xCD, 0x3E, 0x4E), (0x00, 0xE1, 0x00)
        assert cortex in colours[0]
        assert white_matter in colours[1]
        assert white_matter not in {tuple(rgb) for rgb in left[:, :-4, :3].reshape(-1, 3).tolist()}
        assert set(np.unique(tile[..., 3]).tolist()) == {0, 90, 255}  # nothing, a structure, its outline
        text = path.read_text()
        assert "3 labels" in text
        assert all(
            f">{name}</text>" in text
            for name in ("cerebral cortex", "cerebral white matter", "3rd ventricle")
        )
        assert "hippocampus" not in text

    def test_values_without_a_name_are_not_drawn(self, tmp_path):
        scan, mask = head()
        strange = mask.replace(mask.data * 6)
        path = plot_segmentation(scan, strange, mask, tmp_path / "seg.svg", labels="aseg", title=HOSTILE)
        assert max(picture[..., 3].max() for picture in pictures(path, "RGBA", "png")) == 0
        assert "<script" not in path.read_text()

    def test_a_bias_field_is_removed_and_shown_in_units_of_its_median(self, tmp_path):
        _, mask = head()
        field = ramp(mask)
        scan = mask.replace(100 * field.data)
        path = plot_bias(scan, field.replace(7 * field.data), mask, tmp_path / "bias.svg")
        before, after, colours = pictures(path, "RGB")
        tiles = [picture[:, : picture.shape[1] // 7].astype(float) for picture in (before, after, colours)]
        middle = tiles[0].shape[0] // 2
        uneven, even, drawn = (tile[middle - 3 : middle + 3] for tile in tiles)
        columns = np.flatnonzero(even[..., 0].min(axis=0) > 60)[8:-8]  # the brain, less its blurred border
        third = len(columns) // 3
        assert np.ptp(even[:, columns, 0]) < 12
        assert uneven[:, columns[-third:], 0].mean() > uneven[:, columns[:third], 0].mean() + 20
        green = drawn[:, columns, 1]  # from violet to yellow there is ever more of it
        assert green[:, -third:].mean() > green[:, :third].mean() + 50
        assert re.search(r"from 0\.8\d to 1\.1\d \(1st to 99th percentile", path.read_text())

    def test_a_flat_field_is_not_made_to_look_uneven(self, tmp_path):
        scan, mask = head()
        path = plot_bias(scan, ramp(mask, 0.001), mask, tmp_path / "bias.svg")
        drawn = pictures(path, "RGB")[-1].astype(float)
        assert np.std(drawn[drawn.sum(axis=2) > 200], axis=0).max() < 15
        assert ">0.95<" in path.read_text()
        assert ">1.05<" in path.read_text()

    def test_lesions_are_counted(self, tmp_path):
        scan, mask = head()
        lesions = np.zeros(SHAPE)
        lesions[8:10, 10:12, 8:10] = 1
        lesions[14, 10, 8] = 1
        text = plot_lesions(scan, scan.replace(lesions), mask, tmp_path / "lesions.svg").read_text()
        assert "2 lesions, 0.58 ml (largest 0.51 ml)" in text

    @pytest.mark.parametrize("value", [0.0, 7.0])
    def test_a_constant_image_and_an_empty_mask_can_be_drawn(self, tmp_path, value):
        scan = Volume(np.full(SHAPE, value), np.diag([4.0, 4.0, 4.0, 1.0]))
        empty = scan.replace(np.zeros(SHAPE))
        text = plot_brain_mask(scan, empty, tmp_path / "mask.svg").read_text()
        assert "the mask is empty" in text
        plot_registration(scan, scan, None, empty, tmp_path / "reg.svg")
        plot_synthesis(scan, {"T1w": scan}, empty, tmp_path / "syn.svg", acquired={"T1w": scan})
        plot_superres(scan, scan, empty, tmp_path / "superres.svg")
        plot_segmentation(scan, empty, empty, tmp_path / "seg.svg", labels="tissue")
        plot_bias(scan, empty, empty, tmp_path / "bias.svg")
        assert "no lesion" in plot_lesions(scan, empty, empty, tmp_path / "lesions.svg").read_text()

    def test_hostile_titles_are_escaped(self, tmp_path):
        scan, mask = head()
        assert "<script" not in plot_brain_mask(scan, mask, tmp_path / "m.svg", title=HOSTILE).read_text()
