"""What can be measured in one session: about its scans, and about one model's results."""

from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    DynamicTraitedSpec,
    File,
    SimpleInterface,
    Str,
    TraitedSpec,
    isdefined,
    traits,
)
from nipype.interfaces.io import add_traits

GEOMETRY = ("conformed", "native_mask", "preproc", "mask", "transform")
RESULTS = ("images", "lesions", "lattice")
"""What is asked of every scan: input ``mask0`` is the first scan's mask, ``mask1`` the second's, ..."""


class MeasureScansInputSpec(DynamicTraitedSpec):
    """Inputs of `MeasureScans`, besides those of every scan."""

    keys = traits.List(Str, desc="names of the scans, the reference first")
    suffixes = traits.List(Str, desc="their contrasts")


class EvaluateInputSpec(MeasureScansInputSpec):
    """Inputs of `Evaluate`, besides those of every scan."""

    given_lesions = traits.List(Str, desc="their lesion masks by others; empty where there is none")
    of_scans = File(exists=True, desc="what `MeasureScans` found; measured here if it is not given")


class EvaluateOutputSpec(TraitedSpec):
    """Outputs of both."""

    out_file = File(exists=True, desc="the long table: scan, metric, value, unit, reference")


class _Measure(SimpleInterface):
    """Gather the files of a session's scans, and write the table of what was measured.

    Parameters
    ----------
    count : int
        The number of scans.
    """

    output_spec = EvaluateOutputSpec
    _fields: tuple[str, ...] = GEOMETRY

    def __init__(self, count: int = 0, **inputs: Any) -> None:
        super().__init__()
        self._count = count
        add_traits(self.inputs, [f"{name}{n}" for n in range(count) for name in self._fields])
        self.inputs.trait_set(**inputs)

    def _run_interface(self, runtime):  # noqa: ANN001, ANN202 (nipype's signature)
        from bidsrep.evaluation.rows import to_tsv

        rows = self._measure([self._scan(n) for n in range(self._count)])
        path = Path(runtime.cwd) / "metrics.tsv"
        path.write_text(to_tsv(rows), encoding="utf-8")
        self._results["out_file"] = str(path)
        return runtime

    def _measure(self, scans):  # noqa: ANN001, ANN202 (imported when it runs)
        raise NotImplementedError

    def _scan(self, n: int):  # noqa: ANN202 (imported when it runs)
        from bidsrep.evaluation.session import ScanFiles

        given = {name: getattr(self.inputs, f"{name}{n}") for name in self._fields}
        files: dict[str, Any] = {
            name: Path(value) for name, value in given.items() if name != "images" and isdefined(value)
        }
        images = given.get("images", {})
        return ScanFiles(
            self.inputs.keys[n],
            self.inputs.suffixes[n],
            images={name: Path(path) for name, path in images.items()} if isdefined(images) else {},
            given_lesions=self._given_lesions(n),
            **files,
        )

    def _given_lesions(self, n: int) -> Path | None:
        given = getattr(self.inputs, "given_lesions", ())
        return Path(given[n]) if isdefined(given) and given and given[n] else None


class MeasureScans(_Measure):
    """Measure the scans of a session, which is the same for every model; see `bidsrep.evaluation.session`."""

    input_spec = MeasureScansInputSpec

    def _measure(self, scans):  # noqa: ANN001, ANN202 (imported when it runs)
        from bidsrep.evaluation.session import measure_scans

        return measure_scans(scans)


class Evaluate(_Measure):
    """Measure one model's results in a session; see `bidsrep.evaluation.session`."""

    input_spec = EvaluateInputSpec
    _fields = GEOMETRY + RESULTS

    def _measure(self, scans):  # noqa: ANN001, ANN202 (imported when it runs)
        from bidsrep.evaluation.session import from_tsv, measure_session

        table = self.inputs.of_scans
        of_scans = from_tsv(Path(table).read_text(encoding="utf-8")) if isdefined(table) else None
        return measure_session(scans, of_scans)
