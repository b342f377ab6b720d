"""The papers' protocols: a perfect answer is told from a poor one, and the command says who was measured."""

import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from random_weights import write_random_crl, write_random_weights
from torch import Tensor

from bidsrep.bids.acquisition import AcquisitionParameters
from bidsrep.cli import evaluate
from bidsrep.cli.train import main
from bidsrep.errors import InputError, UsageError
from bidsrep.evaluation import features
from bidsrep.evaluation.features import compare_channels
from bidsrep.evaluation.results import Result, to_markdown
from bidsrep.synth.equations import TYPICAL_FLAIR, TYPICAL_MPRAGE, TYPICAL_T2W, typical_contrast
from bidsrep.training.anatomies import load_anatomies
from bidsrep.training.crl_contrasts import PUBLISHED as SEQUENCES
from bidsrep.training.crl_people import simulated_person
from bidsrep.training.protocols import anatomies as people
from bidsrep.training.protocols import brainid, crl
from bidsrep.training.protocols.anatomies import Anatomies, choose_persons, describe
from bidsrep.training.protocols.brainid import INTER, INTRA, Clean, View
from bidsrep.training.protocols.papers import PAPERS

SIDE = 40
RNG = np.random.default_rng(0)


def balls(*radii: float) -> np.ndarray:
    """How many of the concentric ellipsoids hold a voxel."""
    axes = np.meshgrid(*[np.arange(SIDE) - (SIDE - 1) / 2] * 3, indexing="ij")
    radius = np.sqrt(sum((axis / size) ** 2 for axis, size in zip(axes, (0.9, 1.0, 0.8), strict=True)))
    return np.sum([radius < limit for limit in radii], axis=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared anatomies of a label map, ``sub-a``, and of a T1w, ``sub-b``."""
    root = tmp_path_factory.mktemp("anatomies")
    (root / "dseg.tsv").write_text(
        "index\tname\ttissue\n0\tUnknown\tbackground\n2\tLeft-Cerebral-White-Matter\twm\n"
        "3\tLeft-Cerebral-Cortex\tgm\n4\tLeft-Lateral-Ventricle\tcsf\n24\tCSF\tcsf\n"
    )
    labels = np.array([0, 24, 3, 2, 4], np.uint8)[balls(18, 16, 13, 5)]
    scan = np.array([0, 0.26, 0.64, 1.0, 0.26])[balls(19, 17, 12, 5)] * RNG.uniform(0.97, 1.03, (SIDE,) * 3)
    for name, ending, image in (("a", "dseg", labels), ("b", "desc-brain_T1w", scan.astype(np.float32))):
        folder = root / f"sub-{name}" / "anat"
        folder.mkdir(parents=True)
        nib.Nifti1Image(image, np.eye(4)).to_filename(folder / f"sub-{name}_{ending}.nii.gz")
    means = json.dumps({"TissueMeans": [0.26, 0.64, 1.0]})
    (root / "sub-b/anat/sub-b_desc-brain_T1w.json").write_text(means)
    return root


@pytest.fixture(scope="module")
def clean(data: Path) -> Clean:
    """The brain of the label map: a simulated T1w without texture."""
    (one,), table = load_anatomies(data, persons=("sub-a",))
    return brainid.clean_brain(one, table)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def itself(image: Tensor) -> Tensor:
    """Features that are the image."""
    return image[None]


def measured(of: Any, clean: Clean, view: View) -> dict[str, float]:
    return brainid.compare_view(of, of(clean.images["T1w"]), clean, view, sloppy=True)


class TestChannels:
    brain = balls(13) > 0
    expected = RNG.normal(size=(3, *brain.shape))
    found = expected + RNG.normal(0, 0.3, size=expected.shape)

    def test_equal_features(self) -> None:
        same = compare_channels(self.expected, self.expected, self.brain)
        assert same == pytest.approx({"l1": 0, "ssim": 1, "correlation": 1})

    def test_units_do_not_count_but_shifts_do(self) -> None:
        plain = compare_channels(self.found, self.expected, self.brain)
        assert all(0 < plain[name] < 0.99 for name in ("l1", "ssim", "correlation"))
        scaled = compare_channels(7 * self.found - 3, 7 * self.expected - 3, self.brain)
        assert scaled == pytest.approx(plain)
        one = self.expected[:1]
        inside = one[0][self.brain]
        low, high = np.percentile([inside, inside + 0.2], (0.5, 99.5))
        shifted = compare_channels(one + 0.2, one, self.brain)
        assert shifted["l1"] == pytest.approx(0.2 / (high - low))
        assert shifted["correlation"] == pytest.approx(1)

    def test_channels_that_tell_nothing_are_left_out(self) -> None:
        constant = np.ones((1, *self.brain.shape))
        more = (np.concatenate([constant, features]) for features in (self.found, self.expected))
        assert compare_channels(*more, self.brain) == compare_channels(self.found, self.expected, self.brain)
        assert np.isnan(list(compare_channels(constant, constant, self.brain).values())).all()

    def test_ssim_may_skip_channels(self) -> None:
        first = compare_channels(self.found[:1], self.expected[:1], self.brain)
        some = compare_channels(self.found, self.expected, self.brain, ssim_step=3)
        assert some["ssim"] == first["ssim"]
        assert some["l1"] != first["l1"]

    def test_ms_ssim_has_a_field_of_view_that_is_large_enough(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shapes = []
        monkeypatch.setattr(features, "ms_ssim", lambda a, b, data_range: shapes.append(a.shape) or 0.5)
        found = compare_channels(self.found, self.expected, self.brain, scales=True)
        assert found["ms_ssim"] == 0.5
        assert shapes == [(176, 176, 176)] * 3


class TestRobustness:
    def test_content_that_follows_the_deformation_is_the_same(self, clean: Clean) -> None:
        view = brainid.deformed(clean, drawn(), "sub-a", level="none")
        found = measured(itself, clean, view)
        assert found == pytest.approx({"l1": 0, "ssim": 1, "correlation": 1}, abs=1e-4)
        assert view.image.shape != clean.images["T1w"].shape  # and yet it was deformed

    def test_corruption_and_a_wrong_place_are_seen(self, clean: Clean) -> None:
        spoilt = measured(itself, clean, brainid.deformed(clean, drawn(), "sub-a"))
        assert spoilt["l1"] > 0.02
        assert spoilt["ssim"] < 0.95
        view = brainid.deformed(clean, drawn(), "sub-a", level="none")
        assert view.coordinates is not None
        moved = measured(itself, clean, replace(view, coordinates=view.coordinates + 2))
        assert moved["l1"] > 0.02
        assert moved["correlation"] < 0.95

    def test_a_model_that_ignores_the_image_gets_no_credit(self, clean: Clean) -> None:
        view = brainid.deformed(clean, drawn(), "sub-a", level="none")
        constant = measured(lambda image: torch.ones(2, *image.shape), clean, view)
        assert np.isnan(list(constant.values())).all()
        pattern = measured(lambda image: torch.rand(2, *image.shape, generator=drawn(1)), clean, view)
        assert pattern["l1"] > 0.2
        assert abs(pattern["correlation"]) < 0.1

    def test_painted_contrasts_are_in_the_order_of_their_sequences(self, data: Path, clean: Clean) -> None:
        (_, scan), table = load_anatomies(data)
        for one in (clean, brainid.clean_brain(scan, table)):
            middle = tuple(n // 2 for n in one.brain.shape)
            white = (middle[0] + 8, *middle[1:])
            fluid_and_white = {name: (i[middle].item(), i[white].item()) for name, i in one.images.items()}
            assert all(fluid_and_white[name][0] < fluid_and_white[name][1] for name in ("T1w", "FLAIR"))
            assert fluid_and_white["T2w"][0] > fluid_and_white["T2w"][1]
            view = View("contrasts", "sub-a", one.images["T2w"], one.brain)
            assert measured(itself, one, view)["correlation"] < -0.5

    def test_typical_contrasts(self) -> None:
        csf, gm, wm = typical_contrast(TYPICAL_MPRAGE).means
        assert csf < gm < wm == pytest.approx(200)
        csf, gm, wm = typical_contrast(TYPICAL_FLAIR).means
        assert csf < wm < gm == pytest.approx(200)
        contrast = typical_contrast(TYPICAL_T2W, ("background", "csf", "bone"), ("Unknown", "x", "Skull"))
        assert contrast.label_means is not None
        assert contrast.label_means.tolist() == pytest.approx([0, 200, 0])

    def test_another_person_is_brought_to_the_reference(self, clean: Clean) -> None:
        moved = {name: image.roll((4, -3, 2), (0, 1, 2)) for name, image in clean.images.items()}
        other = Clean("sub-c", moved, clean.brain.roll((4, -3, 2), (0, 1, 2)))
        view = brainid.registered(other, clean, seed=0, sloppy=True)
        assert view.group == INTER
        assert measured(itself, other, view)["correlation"] > 0.97
        apart = View(INTER, "sub-c", clean.images["T1w"], clean.brain)
        assert measured(itself, other, apart)["correlation"] < 0.8

    def test_every_view_of_every_person(self, data: Path) -> None:
        class Gradient:
            divisor = 8

            def features(self, volume: Tensor) -> Tensor:
                assert all(side % 8 == 0 for side in volume.shape[2:])
                return torch.cat([volume, volume.diff(dim=2, append=volume[:, :, -1:])], dim=1)

        def rows(seed: int, *persons: str) -> list[Result]:
            who = Anatomies((data,), persons, "sloppy", seed)
            return list(brainid.robustness(who, {"gradient": Gradient()}))  # type: ignore[dict-item]

        found = rows(1, "sub-a", "sub-b")
        groups = [INTRA, "contrasts: T2w and T1w", "contrasts: FLAIR and T1w"]
        wanted = {(system, group, name) for system in ("gradient", "intensity")
                  for group, names in [*((g, ("sub-a", "sub-b")) for g in groups), (INTER, ("sub-b",))]
                  for name in names}  # fmt: skip
        assert {(r.system, r.group, r.scan.split()[0]) for r in found} == wanted
        assert len(found) == 3 * len(wanted)
        assert {r.metric for r in found} == {"l1", "ssim", "correlation"}
        alone = rows(1, "sub-b")
        assert alone == [r for r in found if r.scan.startswith("sub-b") and r.group != INTER]
        others = rows(2, "sub-b")
        assert [r.value for r in others] != [r.value for r in alone]
        assert [r.value for r in others if r.group != INTRA] == [r.value for r in alone if r.group != INTRA]


class Answers:
    """A CRL whose answers are given: ``(source, target)`` sequence and volume to volume."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def predict(
        self, volume: Tensor, *, source: AcquisitionParameters, targets: dict[str, AcquisitionParameters]
    ) -> dict[str, Tensor]:
        of = {parameters: number for number, parameters in SEQUENCES.items()}
        return {name: self.answer(of[source], of[wanted], volume) for name, wanted in targets.items()}


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crl, "SHAPE", (40, 40))


@pytest.mark.usefixtures("small_slices")
class TestSynthesis:
    def rows(self, data: Path, answer: Any, *persons: str, seed: int = 0) -> list[Result]:
        who = Anatomies((data,), persons or ("sub-a",), "sloppy", seed)
        return list(crl.synthesis(who, {"crl": Answers(answer)}))

    def test_all_pairs_of_the_nine_sequences(self, data: Path) -> None:
        found = self.rows(data, lambda source, target, volume: volume, "sub-a", "sub-b")
        pairs = {crl.pair_name(*pair) for pair in permutations(range(1, 10), 2)}
        assert {r.group for r in found} == pairs | {crl.ALL_TRAINED, crl.WITH_OTHERS}
        assert {"4 to 6", "6 to 4", "5 PD to 9 T2-FLAIR"} < pairs
        assert len(found) == (72 + 2) * 2 * 3 * 4  # pairs and means, persons, systems, metrics
        assert [r.group for r in found[:: 2 * 3 * 4]][2:4] == ["5 PD to 9 T2-FLAIR", "5 PD to 1 T1-FLAIR"]

    def test_the_truth_is_perfect(self, data: Path) -> None:
        (person,), table = load_anatomies(data, persons=("sub-a",))
        who = Anatomies((data,), ("sub-a",), "sloppy", 0)
        slices = crl.draw_slice(simulated_person(person, table), who.generator("sub-a"))
        found = self.rows(data, lambda _, target, volume: slices.target[target - 1][None, None, :, :, None])
        of = [r for r in found if r.system == "crl"]
        assert all(r.value == float("inf") for r in of if r.metric.startswith("psnr"))
        assert all(r.value == pytest.approx(1) for r in of if r.metric.startswith("ssim"))
        others = [r.value for r in found if r.system != "crl" and r.metric == "ssim"]
        assert max(others) < 1

    def test_handing_the_image_on_is_the_input_and_a_line_is_better(self, data: Path) -> None:
        found = self.rows(data, lambda source, target, volume: volume)
        values = {(r.system, r.group, r.metric): r.value for r in found}
        for (system, group, metric), value in values.items():
            if system == "input":
                assert values["crl", group, metric] == pytest.approx(value, abs=1e-5)
                if metric == "psnr":
                    assert values["line", group, metric] >= value
        assert (
            values["line", "5 PD to 1 T1-FLAIR", "psnr"] > values["input", "5 PD to 1 T1-FLAIR", "psnr"] + 3
        )

    def test_the_seed_decides(self, data: Path) -> None:
        def answer(source: int, target: int, volume: Tensor) -> Tensor:
            return volume

        first = self.rows(data, answer)
        assert self.rows(data, answer) == first
        assert [r.value for r in self.rows(data, answer, seed=1)] != [r.value for r in first]

    def test_the_best_line_may_fall(self) -> None:
        image, brain = RNG.normal(size=(9, 9)), np.ones((9, 9), bool)
        np.testing.assert_allclose(crl.best_line(image, 3 - 2 * image, brain), 3 - 2 * image)
        np.testing.assert_allclose(crl.best_line(brain * 1.0, image, brain), image.mean())


def test_a_paper_s_figures_stand_below_ours() -> None:
    results = [Result(system, group, "sub-1", "psnr", 20.0, "dB") for group in "ab" for system in "xy"]
    lines = to_markdown(results, {("a", "psnr"): 29.4, ("c", "psnr"): 1.0}).splitlines()
    assert lines[2:7] == [
        "| a | x | 1 | 20 |", "| a | y | 1 | 20 |", "| a | paper |  | 29.4 |", "| b | x | 1 | 20 |", "| b | y | 1 | 20 |"
    ]  # fmt: skip


class TestPersons:
    def test_those_that_no_weights_saw(self, data: Path) -> None:
        aside = {"one": ("sub-a", "sub-b"), "two": ("sub-b", "sub-c"), "unknown": ()}
        assert choose_persons([data], [], aside) == ("sub-b",)
        assert choose_persons([data], ["sub-b", "sub-a"], aside) == ("sub-a", "sub-b")
        text = describe(["sub-b", "sub-a"], aside)
        assert text.startswith("sub-a, sub-b (kept aside in the training of one; not so sub-a of two;")

    def test_nobody(self, data: Path, tmp_path: Path) -> None:
        (tmp_path / "sub-a" / "anat").mkdir(parents=True)  # not prepared
        with pytest.raises(InputError, match="nobody is in it"):
            choose_persons([tmp_path], [], {"one": ("sub-a",)})
        with pytest.raises(InputError, match="there is no sub-x in"):
            choose_persons([data], ["sub-x", "sub-a"], {})
        with pytest.raises(UsageError, match=people.NOBODY_ASIDE):
            choose_persons([data], [], {"one": ("sub-a",), "two": ("sub-b",)})
        with pytest.raises(UsageError, match=r"\(sub-z\) is in"):
            choose_persons([data], [], {"one": ("sub-z",)})

    def test_only_they_are_loaded(self, data: Path) -> None:
        ((anatomy, table),) = Anatomies((data,), ("sub-b",)).load()
        assert anatomy.name == "sub-b"
        assert table is not None


class TestCommand:
    def test_robustness(self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        weights = write_random_weights(tmp_path, "pepsi")
        options = [
            "--data",
            str(data),
            "--out",
            str(tmp_path / "out"),
            "--scale",
            "sloppy",
            "--device",
            "cpu",
        ]
        options += ["--model", "pepsi", "--weights", f"pepsi={weights}"]
        assert main(["evaluate", "brainid-robustness", *options]) == 2
        assert "--participant-label" in capsys.readouterr().err
        options += ["--participant-label", "sub-b", "--seed", "3"]
        assert main(["evaluate", "brainid-robustness", *options]) == 0
        page = (tmp_path / "out" / "brainid-robustness.md").read_text()
        assert f"- data: {data.name}\n- persons: sub-b (not known of pepsi)\n" in page
        assert "- scale: sloppy (deformed images of each person: 1)\n- seed: 3\n" in page
        assert "- pepsi: random-pepsi (" in page
        assert f"| {INTRA} | paper |  | 0.011 | 0.858 |" in page
        assert f"| {INTRA} | pepsi | 1 |" in capsys.readouterr().out
        table = (tmp_path / "out" / "brainid-robustness.tsv").read_text().splitlines()
        assert len(table) == 1 + 3 * 2 * 3  # views, systems, metrics

    @pytest.mark.usefixtures("small_slices")
    def test_synthesis(self, data: Path, tmp_path: Path) -> None:
        weights = write_random_crl(tmp_path, held_out=["sub-a", "sub-z"])
        options = [
            "--data",
            str(data),
            "--out",
            str(tmp_path / "out"),
            "--scale",
            "sloppy",
            "--device",
            "cpu",
        ]
        assert main(["evaluate", "crl-synthesis", *options, "--weights", f"crl={weights}"]) == 0
        page = (tmp_path / "out" / "crl-synthesis.md").read_text()
        assert "- persons: sub-a (kept aside in the training of crl)\n" in page
        assert "| 5 PD to 9 T2-FLAIR | paper |  |  |  | 29.4 | 0.922 |" in page

    @pytest.mark.parametrize(
        ("protocol", "options", "message"),
        [
            ("crl-synthesis", [], evaluate.NEEDS.format("crl-synthesis", "data")),
            ("scans-bias", [], evaluate.NEEDS.format("scans-bias", "bids")),
            ("scans-segmentation", ["--bids", "x"], evaluate.NEEDS.format("scans-segmentation", "labels")),
            ("scans-bias", ["--bids", "x", "--seed", "0"], evaluate.REFUSED.format("scans-bias", "seed")),
            (
                "crl-synthesis",
                ["--data", "x", "--bids", "x"],
                evaluate.REFUSED.format("crl-synthesis", "bids"),
            ),
            ("crl-synthesis", ["--data", "x", "--model", "pepsi"], "measures crl, not pepsi"),
            ("scans-lesion", ["--bids", "x", "--model", "crl"], "not crl"),
            ("crl-synthesis", ["--data", "x", "--weights", "pepsi=x"], "pepsi is not one of --model"),
        ],
    )
    def test_options_that_do_not_fit(
        self,
        protocol: str,
        options: list[str],
        message: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert main(["evaluate", protocol, *options, "--out", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err

    def test_every_protocol_is_known(self) -> None:
        assert tuple(PAPERS) == tuple(evaluate.PAPERS)
        assert evaluate.SCALES == people.SCALES
        for protocol in PAPERS.values():
            assert tuple(protocol.samples) == people.SCALES
