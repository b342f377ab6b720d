"""Signal equations: parity with the reference's numbers, and what every MR physicist expects of them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bidsrep.synth.physics import (
    FLAIR,
    FSE,
    GRE,
    MP2RAGE,
    MPRAGE,
    SPGR,
    Sequence,
    TissueMaps,
    r2_from_r2s,
    simulate,
)
from bidsrep.synth.physics.distributions import null_time

KINDS: dict[str, type[Sequence]] = {k.name: k for k in (FSE, FLAIR, GRE, SPGR, MPRAGE, MP2RAGE)}


class Fixture:
    """The reference's inputs and outputs, and its calls spelled with this package's classes."""

    def __init__(self, folder: Path) -> None:
        with np.load(folder / "seqinv_bloch.npz") as arrays:
            numbers = {k: v for k, v in arrays.items() if v.dtype == np.float32}
        self.arrays = {name: torch.from_numpy(value) for name, value in numbers.items()}
        self.calls = json.loads((folder / "seqinv_bloch.json").read_text())

    def maps(self, mt_factor: float = 1.0) -> TissueMaps:
        """Maps; the reference takes R2* for R2."""
        a = self.arrays
        return TissueMaps(a["pd"], a["r1"], a["r2s"], a["r2s"], a["mt_pu"] * mt_factor)

    def case(self, name: str) -> tuple[Sequence, TissueMaps, dict]:
        keywords = dict(next(c["kw"] for c in self.calls["cases"] if c["name"] == name))
        fields = {k: keywords.pop(k) for k in ("transmit", "receive") if k in keywords}
        fields = {k: self.arrays[v] if isinstance(v, str) else v for k, v in fields.items()}
        keywords.pop("mt", None)
        kind = KINDS[name.split("_")[0]]
        if kind is GRE:  # its gain is a percentage
            fields = {k: v / 100 for k, v in fields.items()}
        if "mtpulse" in keywords:
            keywords["mt_pulse"] = keywords.pop("mtpulse")
        if "fa" in keywords and kind is MP2RAGE:
            keywords["fa1"], keywords["fa2"] = keywords.pop("fa")
        if name == "spgr_default":
            keywords["mt_pulse"] = False
        # The reference reads MTsat as a fraction there although its maps are in percent.
        return kind(**keywords), self.maps(100 if name == "spgr_mt_pu" else 1), fields


@pytest.fixture(scope="module")
def fixture(test_data: Path) -> Fixture:
    return Fixture(test_data / "fixtures")


CASES = [
    "fse_default",
    "fse_t2w",
    "fse_recv",
    "flair_default",
    "flair_clin",
    "flair_code_mid",
    "mprage_default",
    "mprage_code",
    "mprage_negTP",
    "mprage_tx_b1",
    "mp2rage_default",
    "mp2rage_code",
    "spgr_default",
    "spgr_mt_pu",
    "spgr_mt_frac",
    "spgr_b1",
    "gre_code",
    "gre_mtpulse",
    "gre_nomt",
]


@pytest.mark.data
@pytest.mark.parametrize("name", CASES)
def test_signals_are_the_reference_implementations(name: str, fixture: Fixture) -> None:
    sequence, maps, fields = fixture.case(name)
    expected = torch.nan_to_num(fixture.arrays[f"sig_{name}"])  # the reference divides by PD = 0
    tolerance = 2e-3 if sequence.name == "mp2rage" else 2e-5
    torch.testing.assert_close(
        sequence.signal(maps, **fields), expected, rtol=tolerance, atol=min(tolerance, 2e-5)
    )


@pytest.mark.data
def test_the_fixture_has_no_case_that_is_not_tested(fixture: Fixture) -> None:
    assert {case["name"] for case in fixture.calls["cases"]} == set(CASES)


@pytest.mark.data
def test_generated_images_of_the_reference_are_reproduced(fixture: Fixture) -> None:
    for call in fixture.calls["bloch_transform"]:
        keywords = dict(call["params"])
        receive = keywords.pop("receive") / (100 if call["seq"] == "gre" else 1)
        if "fa" in keywords and call["seq"] == "mp2rage":
            keywords["fa1"], keywords["fa2"] = keywords.pop("fa")
        maps = fixture.maps(100 if call["seq"] == "spgr" else 1)
        image = KINDS[call["seq"]](**keywords).signal(maps, receive=receive)
        expected = fixture.arrays[f"bt_seed{call['seed']}"]
        tolerance = 2e-3 if call["seq"] == "mp2rage" else 5e-5
        torch.testing.assert_close(image, expected, rtol=tolerance, atol=tolerance, msg=str(call))


@pytest.mark.data
def test_both_trains_of_mp2rage_are_the_references(fixture: Fixture) -> None:
    first, second = MP2RAGE().inversions(fixture.maps())
    torch.testing.assert_close(first.abs(), fixture.arrays["sig_mp2rage_inv1"], rtol=1e-4, atol=2e-5)
    # The reference solves the second train backwards in float32, which costs it digits.
    torch.testing.assert_close(second.abs(), fixture.arrays["sig_mp2rage_inv2"], rtol=0, atol=2e-2)


def tissues(**values: tuple[float, float, float, float, float]) -> TissueMaps:
    """Maps with one voxel per tissue: PD, T1, T2, T2* (s), MTsat."""
    pd, t1, t2, t2s, mt = torch.tensor(list(values.values())).T
    return TissueMaps(pd, 1 / t1, 1 / t2, 1 / t2s, mt)


BRAIN = tissues(
    csf=(100, 4.2, 2.0, 0.5, 0.05), gm=(82, 1.45, 0.085, 0.056, 0.85), wm=(70, 0.93, 0.065, 0.046, 1.6)
)
CSF, GM, WM = range(3)


def ernst_degrees(r1: float, tr: float) -> float:
    return math.degrees(math.acos(math.exp(-tr * r1)))


@pytest.mark.parametrize(
    "sequence",
    [MPRAGE(tx=0.007), MP2RAGE(tr=6, fa2=6, magnitude=False), FSE(te=0.01, tr=0.6), SPGR(te=0.003, fa=25)],
    ids=lambda s: s.name,
)
def test_t1_weighting_orders_the_tissues(sequence: Sequence) -> None:
    image = sequence.signal(BRAIN)
    assert image[WM] > image[GM] > image[CSF]


def test_t2_weighting_orders_the_tissues() -> None:
    image = FSE(te=0.1, tr=5).signal(BRAIN)
    assert image[CSF] > image[GM] > image[WM]


@pytest.mark.parametrize("tr", [5.0, 9.0, 11.0])
def test_flair_nulls_fluid_at_the_right_inversion_time(tr: float) -> None:
    null = null_time(4.2, tr)
    around = [float(FLAIR(te=0.1, tr=tr, ti=null + shift).signal(BRAIN)[CSF]) for shift in (-0.2, 0, 0.2)]
    assert around[0] < -1
    assert abs(around[1]) < 1e-3
    assert around[2] > 1
    image = FLAIR(te=0.1, tr=tr, ti=null, magnitude=True).signal(BRAIN)
    assert image[GM] > image[WM] > 5 * image[CSF]


def test_flair_is_signed_unless_magnitude_is_asked_for() -> None:
    early = FLAIR(te=0.01, tr=9, ti=0.3).signal(BRAIN)
    assert (early < 0).all()
    assert torch.equal(FLAIR(te=0.01, tr=9, ti=0.3, magnitude=True).signal(BRAIN), -early)


@pytest.mark.parametrize(
    "sequence", [FSE(te=0, tr=60), SPGR(te=0, tr=60, fa=90, mt_pulse=False), GRE(0, 60, 90)]
)
def test_long_tr_and_short_te_give_proton_density(sequence: Sequence) -> None:
    torch.testing.assert_close(sequence.signal(BRAIN), BRAIN.pd, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("tissue", [CSF, GM, WM])
def test_the_ernst_angle_maximises_a_gradient_echo(tissue: int) -> None:
    best = ernst_degrees(float(BRAIN.r1[tissue]), 0.03)
    around = [float(GRE(te=0.005, tr=0.03, fa=best * f).signal(BRAIN)[tissue]) for f in (0.9, 1.0, 1.1)]
    assert around[1] > max(around[0], around[2])


@pytest.mark.parametrize("kind", [FSE, FLAIR, GRE, SPGR])
def test_signal_decays_with_the_echo_time(kind: type) -> None:
    keywords = {"tr": 9.0, "ti": 4.0} if kind is FLAIR else {"tr": 3.0}
    images = torch.stack([kind(te=te, **keywords).signal(BRAIN) for te in (0.01, 0.04, 0.08, 0.15)])
    assert (images[1:] < images[:-1]).all()
    rate = torch.log(images[0] / images[-1]) / 0.14
    torch.testing.assert_close(rate, BRAIN.r2 if kind in (FSE, FLAIR) else BRAIN.r2s, rtol=1e-3, atol=1e-3)


def test_the_mt_pulse_dims_what_has_macromolecules() -> None:
    share = SPGR(fa=6).signal(BRAIN) / SPGR(fa=6, mt_pulse=False).signal(BRAIN)
    assert share[WM] < share[GM] < share[CSF] < 1
    assert share[WM] > 0.5  # MTsat is in percent, not a fraction


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_no_protons_no_signal_and_no_nan(kind: type) -> None:
    air = TissueMaps(*torch.tensor([[0.0], [0.0], [0.0], [0.0], [0.0]]))
    assert kind().signal(air).tolist() == [0.0]
    broken = TissueMaps(*torch.tensor([[80.0], [math.nan], [10.0], [12.0], [1.0]]))
    assert kind().signal(broken).isfinite().all()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_fields_of_one_change_nothing(kind: type) -> None:
    flat = torch.ones(3)
    torch.testing.assert_close(kind().signal(BRAIN, flat, flat), kind().signal(BRAIN), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(simulate(BRAIN, kind(), 1.0, 1.0), kind().signal(BRAIN), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [FSE, FLAIR, GRE, SPGR, MPRAGE])
def test_the_receive_field_is_a_gain(kind: type) -> None:
    receive = torch.tensor([0.5, 1.0, 2.0])
    torch.testing.assert_close(kind().signal(BRAIN, receive=receive), kind().signal(BRAIN) * receive)


def test_mp2rage_does_not_see_the_receive_field_nor_proton_density() -> None:
    image = MP2RAGE().signal(BRAIN)
    denser = TissueMaps(BRAIN.pd * 0.3, BRAIN.r1, BRAIN.r2, BRAIN.r2s * 2)
    assert torch.equal(MP2RAGE().signal(denser, receive=torch.tensor([0.5, 1.0, 2.0])), image)


def test_the_transmit_field_scales_the_flip_angle() -> None:
    for kind, angles in ((GRE, ("fa",)), (SPGR, ("fa",)), (MPRAGE, ("fa",)), (MP2RAGE, ("fa1", "fa2"))):
        weaker = replace(kind(), **{name: 0.8 * getattr(kind(), name) for name in angles})
        torch.testing.assert_close(kind().signal(BRAIN, transmit=0.8), weaker.signal(BRAIN))
    assert (FSE().signal(BRAIN, transmit=0.8) < FSE().signal(BRAIN)).all()


def test_the_signed_mp2rage_keeps_the_polarity() -> None:
    # Between the two nulls a tissue is inverted in the first train and not in the second.
    slow = tissues(a=(80, 2.5, 0.1, 0.05, 1.0))
    first, second = MP2RAGE().inversions(slow)
    assert float(first) < 0 < float(second)
    assert float(MP2RAGE(magnitude=False).signal(slow)) == pytest.approx(0.5 - float(MP2RAGE().signal(slow)))


def test_regularised_mp2rage_darkens_bone_and_spares_the_brain() -> None:
    bone = tissues(bone=(20, 0.2, 0.0004, 0.0004, 0))
    plain, regularised = MP2RAGE(magnitude=False), MP2RAGE(magnitude=False, beta=0.05)
    assert float(plain.signal(bone)) > 0.7
    assert float(regularised.signal(bone)) < 0.05
    assert (plain.signal(BRAIN) - regularised.signal(BRAIN)).abs().max() < 0.06


@pytest.mark.parametrize(
    "sequence",
    [
        FSE(te=0.1, tr=0.05),
        FSE(te=-0.001, tr=1),
        FLAIR(te=0.1, tr=2, ti=2.5),
        FLAIR(te=0.2, tr=2, ti=1.9),
        FLAIR(te=0.1, tr=2, ti=0),
        SPGR(te=0.03, tr=0.02),
        GRE(te=0.01, tr=0.02, fa=0),
        MPRAGE(tr=2, ti=0.6, te=0.004, n=199.5),
        MPRAGE(tr=1.2, ti=0.9, tx=0.007),
        MPRAGE(te=0.007, tx=0.006),
        MPRAGE(eff=1.2),
        MP2RAGE(ti2=1.0),
        MP2RAGE(tr=2.3),
        MP2RAGE(n=1),
    ],
)
def test_what_no_scanner_can_run_says_why(sequence: Sequence) -> None:
    assert sequence.faults()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_default_protocols_have_no_faults(kind: type) -> None:
    assert kind().faults() == ()


def test_r2_follows_from_r2s_as_measured() -> None:
    rates = torch.tensor([0.0, 17.8, 21.9, 37.8, 2500.0, 20_000.0])
    r2 = r2_from_r2s(rates)
    torch.testing.assert_close(r2[:4], torch.tensor([0.0, 14.4, 18.0, 25.8]))
    assert (r2 <= rates).all()
    assert (r2.diff() > 0).all()
    maps = TissueMaps(BRAIN.pd, BRAIN.r1, None, BRAIN.r2s)
    torch.testing.assert_close(maps.transverse_rate, r2_from_r2s(BRAIN.r2s))


def test_maps_without_mt_are_not_saturated() -> None:
    bare = TissueMaps(BRAIN.pd, BRAIN.r1, BRAIN.r2, BRAIN.r2s)
    assert torch.equal(SPGR().signal(bare), SPGR(mt_pulse=False).signal(BRAIN))


def test_maps_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        TissueMaps(torch.ones(2), torch.ones(2), None, torch.ones(3))


def test_stacked_maps_come_apart_again() -> None:
    again = TissueMaps.unstack(BRAIN.stack())
    assert torch.equal(again.stack(), BRAIN.stack())
    assert torch.equal(again.r2s, BRAIN.r2s)
