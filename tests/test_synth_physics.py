"""Signal equations: parity with the reference's numbers, and what every MR physicist expects of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bidsrep.synth.physics import FLAIR, FSE, GRE, MP2RAGE, MPRAGE, SPGR, Sequence, TissueMaps, r2_from_r2s

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


CASES = """fse_default fse_t2w fse_recv flair_default flair_clin flair_code_mid mprage_default mprage_code
mprage_negTP mprage_tx_b1 mp2rage_default mp2rage_code spgr_default spgr_mt_pu spgr_mt_frac spgr_b1 gre_code
gre_mtpulse gre_nomt""".split()


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
