"""What is drawn: acquisition parameters, tissues of a head, fields and noise of a scan."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from bidsrep.errors import UsageError
from bidsrep.labels import load_labels
from bidsrep.synth.physics import (
    FLAIR,
    FSE,
    MPRAGE,
    ScanRanges,
    TissueMaps,
    Variation,
    acquire,
    add_lesion,
    add_rician_noise,
    brain_structures,
    distribution_sequences,
    mixture_maps,
    paint_maps,
    random_scan,
    sample_parameters,
    sample_scan,
    tissue_table,
)
from bidsrep.synth.physics.distributions import DISTRIBUTIONS, Law, null_time
from bidsrep.synth.physics.scan import smooth_field

TABLE = tissue_table(3.0)
STILL = Variation(between=0, within=0)
CLASSES = ("background", "csf", "gm", "wm", "lesion")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def head(n: int = 20) -> torch.Tensor:
    """Label indices of nested boxes: background, CSF, grey and white matter."""
    labels = torch.zeros(n, n, n, dtype=torch.uint8)
    for label, margin in ((1, 2), (2, 4), (3, 6)):
        labels[margin : n - margin, margin : n - margin, margin : n - margin] = label
    return labels


# --- acquisition parameters ---------------------------------------------------------------------------------


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_draws_lie_within_their_laws_and_can_be_run(distribution: str) -> None:
    generator = seeded()
    for name, choices in DISTRIBUTIONS[distribution].items():
        draws = [sample_parameters(generator, name, distribution) for _ in range(60)]
        assert all(type(draw) is choices[0].kind and draw.faults() == () for draw in draws)
        for parameter in choices[0].laws:
            laws = [choice.laws[parameter] for choice in choices]
            if parameter == "nulled_t1" or laws[0].kind not in ("uniform", "log_uniform"):
                continue
            values = [getattr(draw, parameter) for draw in draws]
            assert min(law.a for law in laws) <= min(values) < max(values) <= max(law.b for law in laws)


def test_what_no_scanner_can_run_is_drawn_again() -> None:
    protocol = DISTRIBUTIONS["code"]["flair"][0]
    generator = seeded()
    raw = [protocol.draw(generator) for _ in range(200)]
    assert sum(bool(draw.faults()) for draw in raw) > 50
    draws = [sample_parameters(generator, "flair", "code") for _ in range(100)]
    assert all(draw.te + draw.ti < draw.tr for draw in draws)


def test_equal_seeds_give_equal_draws() -> None:
    assert sample_parameters(seeded(3)) == sample_parameters(seeded(3))
    assert sample_parameters(seeded(3), "fse") != sample_parameters(seeded(4), "fse")


def test_all_sequences_are_drawn() -> None:
    generator = seeded()
    assert len(distribution_sequences("paper")) == 4  # the paper's sequences
    assert {sample_parameters(generator, None, "paper").name for _ in range(60)} == set(
        distribution_sequences("paper")
    )
    assert len(distribution_sequences("code")) == len(distribution_sequences("clinical")) == 6


def test_clinical_flair_nulls_fluid() -> None:
    generator = seeded()
    for _ in range(50):
        flair = sample_parameters(generator, "flair")
        assert isinstance(flair, FLAIR)
        assert null_time(3.6, flair.tr) <= flair.ti <= null_time(4.6, flair.tr)
        assert flair.magnitude


def test_clinical_spin_echoes_have_all_three_weightings() -> None:
    generator = seeded()
    draws = [sample_parameters(generator, "fse") for _ in range(60)]
    assert {(d.te > 0.05, d.tr > 1) for d in draws} == {(True, True), (False, True), (False, False)}


@pytest.mark.parametrize(
    ("law", "median", "low", "high"),
    [
        (Law("uniform", 2, 4), 3, 2, 4),
        (Law("log_uniform", 0.01, 1), 0.1, 0.01, 1),
        (Law("normal", 2.3, 0.23), 2.3, 1.2, 3.4),
        (Law("log_normal", 0.02, 0.1), 0.02, 0.007, 0.06),
        (Law("share", 0.96, 0.096), 0.94, 0.5, 1.0),
        (Law("count", 160, 16), 160, 80, 240),
    ],
)
def test_laws(law: Law, median: float, low: float, high: float) -> None:
    generator = seeded()
    values = sorted(law.draw(generator) for _ in range(400))
    assert low <= values[0]
    assert values[-1] <= high
    assert values[200] == pytest.approx(median, rel=0.25 if law.kind == "log_uniform" else 0.05)
    assert law.kind != "count" or all(value == int(value) for value in values)


def test_unknown_names_are_refused_with_what_there_is() -> None:
    with pytest.raises(UsageError, match=r"'clinicl'.*paper, code, clinical"):
        sample_parameters(seeded(), "fse", "clinicl")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"paper.*'spgr'.*fse, flair, mprage, gre"):
        sample_parameters(seeded(), "spgr", "paper")


# --- tissues ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [1.5, 3.0])
def test_tissue_tables_are_physical(strength: float) -> None:
    for tissue in tissue_table(strength).values():
        assert tissue.r1 <= tissue.r2 <= tissue.r2s, tissue.name
        assert 0 <= tissue.pd <= 100
        assert 0 <= tissue.mt < 5
        assert tissue.source
        assert tissue.confidence in ("sure", "fair", "guess")


def test_relaxation_is_slower_along_and_faster_across_at_higher_field() -> None:
    low, high = tissue_table(1.5), TABLE
    assert set(low) == set(high)
    for name in ("gm", "wm", "thalamus", "fat", "muscle", "lesion"):
        assert low[name].r1 > high[name].r1
        assert low[name].r2s < high[name].r2s


def test_white_matter_has_the_published_values() -> None:
    wm = TABLE["wm"]
    assert 0.83 <= 1 / wm.r1 <= 1.084  # Wansapura 1999, Stanisz 2005
    assert wm.pd == pytest.approx(69, abs=2)  # Tofts 2003


def test_every_structure_of_the_label_table_has_a_tissue() -> None:
    tissues = {label.name: TABLE[label.name] for label in load_labels("aseg").labels}
    assert tissues["Left-Pallidum"] == tissues["Right-Pallidum"] == TABLE["pallidum"]
    assert tissues["Background"].pd == 0
    assert TABLE["Left-Inf-Lat-Vent-part2"] == TABLE["csf"]
    assert TABLE["Bone-Cortical"].r2s > 1000


@pytest.mark.data
def test_every_structure_of_the_whole_head_label_maps_has_a_tissue(test_data: Path) -> None:
    rows = (test_data / "data" / "labelmaps" / "labels.tsv").read_text().splitlines()[1:]
    assert [name for row in rows if (name := row.split("\t")[1]) not in TABLE] == []


def test_a_brain_label_is_its_structure_else_its_class_and_the_rest_is_background() -> None:
    labels = {
        "Unknown": "background",
        "Left-Putamen": "gm",
        "Left-Claustrum": "gm",
        "Left-Lesion": "lesion",
        "Skin": "extracerebral",
        "Artery": "extracerebral",
    }
    found = brain_structures(tuple(labels.values()), tuple(labels))
    assert found == ("background", "Left-Putamen", "gm", "Left-Lesion", "background", "background")


def test_unknown_tissues_and_field_strengths_are_refused() -> None:
    with pytest.raises(UsageError, match=r"'unobtainium'.*pallidum"):
        TABLE["unobtainium"]
    assert "unobtainium" not in TABLE
    with pytest.raises(UsageError, match="7 T"):
        tissue_table(7)


# --- maps ---------------------------------------------------------------------------------------------------


def test_painting_without_variation_gives_the_table() -> None:
    labels = head()
    maps = paint_maps(labels, CLASSES, TABLE, seeded(), STILL)
    for name, label in (("csf", 1), ("gm", 2), ("wm", 3)):
        inside, tissue = labels == label, TABLE[name]
        expected = torch.tensor([tissue.pd, tissue.r1, tissue.r2, tissue.r2s, tissue.mt])
        torch.testing.assert_close(maps.stack()[:, inside].mean(1), expected, rtol=1e-4, atol=1e-4)
    assert (maps.pd[labels == 0] == 0).all()


def test_painted_tissue_varies_as_asked() -> None:
    labels = torch.full((24, 24, 24), 3)
    maps = paint_maps(labels, CLASSES, TABLE, seeded(), Variation(between=0, within=0.5))
    assert float(maps.r1.std() / maps.r1.mean()) == pytest.approx(0.5 * TABLE["wm"].spread, rel=0.2)
    together = torch.corrcoef(torch.stack([maps.r1, maps.r2s, maps.pd]).flatten(1))
    assert together[0, 1] > 0.3
    assert together[0, 2] < -0.3
    assert (maps.r2s >= maps.r2).all()


def test_heads_differ_and_their_sides_agree() -> None:
    labels = torch.arange(2).repeat(4, 4, 4)[..., :4]
    names = ("Left-Thalamus", "Right-Thalamus")
    firsts = []
    for seed in range(40):
        maps = paint_maps(labels, names, TABLE, seeded(seed), Variation(within=0))
        torch.testing.assert_close(maps.r1[labels == 0].mean(), maps.r1[labels == 1].mean())
        firsts.append(math.log(float(maps.r1[0, 0, 0])))
    assert float(torch.tensor(firsts).std()) == pytest.approx(TABLE["thalamus"].spread, rel=0.35)


def test_labels_outside_the_brain_and_chronic_infarcts_can_be_painted() -> None:
    labels = torch.arange(3).view(3, 1, 1).expand(3, 4, 4)
    names = ("extracerebral", "chronic_infarct", "csf")
    t1 = set()
    for seed in range(12):
        maps = paint_maps(labels, names, TABLE, seeded(seed), STILL)
        t1.add(round(float(1 / maps.r1[0, 0, 0]), 3))
        assert TABLE["csf"].r1 < maps.r1[1, 0, 0] < TABLE["gliosis"].r1
    assert len(t1) > 2


def test_a_t1w_scan_becomes_a_mixture_of_tissues() -> None:
    means = (0.25, 0.64, 1.0)
    t1w = torch.tensor([0.0, 0.1, *means, (means[1] + means[2]) / 2, 3.0]).view(-1, 1, 1)
    maps = mixture_maps(t1w, means, TABLE, seeded(), between=0)
    csf, gm, wm = (TABLE[name] for name in ("csf", "gm", "wm"))
    r1 = [csf.r1, csf.r1, gm.r1, wm.r1, (gm.r1 + wm.r1) / 2, wm.r1 + (wm.r1 - gm.r1) / 3]
    assert maps.r1.flatten()[1:].tolist() == pytest.approx(r1, rel=1e-5)
    assert maps.pd.flatten()[0] == 0
    assert maps.pd.flatten()[2:5].tolist() == pytest.approx([csf.pd, gm.pd, wm.pd])
    image = MPRAGE(tx=0.007).signal(maps).flatten()
    assert (image[2:5].diff() > 0).all()


def test_lesions_are_bright_on_flair_and_dark_on_mprage() -> None:
    wm = TissueMaps(*(torch.full((4, 4, 4), v) for v in (70.0, 1 / 0.93, 1 / 0.065, 1 / 0.046, 1.6)))
    share = torch.zeros(4, 4, 4)
    share[2:] = 1
    share[3] = 0.5
    maps = add_lesion(wm, share, TABLE, seeded(), between=0)
    for sequence, sign in ((FLAIR(te=0.1, tr=9, ti=2.45), 1), (MPRAGE(tx=0.007), -1)):
        image = sequence.signal(maps)[:, 0, 0] * sign
        assert image[2] > image[3] > image[1] == image[0]
    chronic = add_lesion(wm, share, TABLE, seeded(), "chronic_infarct")
    assert chronic.pd[2, 0, 0] > maps.pd[2, 0, 0]


# --- scans --------------------------------------------------------------------------------------------------


def test_no_noise_is_the_magnitude() -> None:
    image = torch.tensor([-2.0, 0.0, 3.0])
    assert add_rician_noise(image, 0.0, seeded()).tolist() == [2.0, 0.0, 3.0]


def test_noise_is_rician() -> None:
    air = add_rician_noise(torch.zeros(40_000), 2.0, seeded())
    assert float(air.mean()) == pytest.approx(2 * math.sqrt(math.pi / 2), rel=0.02)  # Rayleigh
    bright = add_rician_noise(torch.full((40_000,), 100.0), 2.0, seeded())
    assert float(bright.std()) == pytest.approx(2.0, rel=0.02)
    assert float((bright**2).mean()) == pytest.approx(100**2 + 2 * 2**2, rel=1e-3)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_random_scan_is_scaled_finite_and_replayable(distribution: str) -> None:
    maps = paint_maps(head(), CLASSES, TABLE, seeded())
    for seed in range(6):
        image, parameters = random_scan(maps, seeded(seed), distribution)
        assert image.shape == maps.pd.shape
        assert image.isfinite().all()
        assert (image >= 0).all()
        assert float(torch.quantile(image[maps.pd > 0], 0.995)) == pytest.approx(1, rel=1e-4)
        assert torch.equal(acquire(maps, parameters), image)
        assert dataclasses.asdict(parameters.sequence)


def test_only_the_named_sequences_are_drawn() -> None:
    names = {sample_scan(seeded(seed), sequences=("fse", "mprage")).sequence.name for seed in range(20)}
    assert names == {"fse", "mprage"}


def test_without_fields_and_noise_a_scan_is_the_signal() -> None:
    maps = paint_maps(head(), CLASSES, TABLE, seeded(), STILL)
    parameters = sample_scan(seeded(), sequences=("fse",), ranges=ScanRanges((0, 0), (0, 0), (0, 0)))
    assert parameters.transmit is None
    signal = parameters.sequence.signal(maps)
    torch.testing.assert_close(acquire(maps, parameters), signal / torch.quantile(signal[maps.pd > 0], 0.995))


def test_fields_are_smooth_and_as_strong_as_drawn() -> None:
    logs = []
    for seed in range(30):
        control = sample_scan(seeded(seed), ranges=ScanRanges(transmit=(0.1, 0.1))).transmit
        assert control is not None
        logs.append(smooth_field(control, (16, 18, 20)).log())
    fields = torch.stack(logs)
    assert float(fields.square().mean().sqrt()) == pytest.approx(0.1, rel=0.2)
    assert fields.diff(dim=1).abs().max() < 0.1
    assert smooth_field(torch.zeros(4, 4, 4), (3, 4, 5)).eq(1).all()


def test_noise_is_relative_to_the_image() -> None:
    maps = paint_maps(torch.full((16, 16, 16), 3), CLASSES, TABLE, seeded(), STILL)
    parameters = sample_scan(seeded(), sequences=("fse",), ranges=ScanRanges((0, 0), (0, 0), (0.05, 0.05)))
    image = acquire(dataclasses.replace(maps, pd=maps.pd * 7), parameters)
    assert float(image.std() / image.mean()) == pytest.approx(0.05, rel=0.1)


def test_an_empty_head_gives_an_image_of_noise() -> None:
    maps = paint_maps(torch.zeros(6, 6, 6, dtype=torch.int64), CLASSES, TABLE, seeded())
    image, parameters = random_scan(maps, seeded(), sequences=("mp2rage",))
    assert image.isfinite().all()
    assert float(image.max()) < 10 * parameters.noise_std


def test_t2_weighting_of_painted_heads_follows_the_protocol() -> None:
    labels = head()
    maps = paint_maps(labels, CLASSES, TABLE, seeded())
    image = FSE(te=0.1, tr=5).signal(maps)
    csf, gm, wm = (float(image[labels == label].mean()) for label in (1, 2, 3))
    assert csf > gm > wm
