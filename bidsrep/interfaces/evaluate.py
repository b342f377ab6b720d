"""What can be measured about one model's results in one session."""

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

FIELDS = ("conformed", "native_mask", "preproc", "mask", "transform", "images", "lesions", "lattice")
"""What is asked of every scan: input ``mask0`` is the first scan's mask, ``mask1`` the second's, ..."""


class EvaluateInputSpec(DynamicTraitedSpec):
    """Inputs of `Evaluate`, besides those of every scan."""

    keys = traits.List(Str, desc="names of the scans, the reference first")
    suffixes = traits.List(Str, desc="their contrasts")
    given_lesions = traits.List(Str, desc="their lesion masks by others; empty where there is none")


class EvaluateOutputSpec(TraitedSpec):
    """Outputs of `Evaluate`."""

    out_file = File(exists=True, desc="the long table: scan, metric, value, unit, reference")


class Evaluate(SimpleInterface):
    """Measure a session; see `bidsrep.evaluation.session`.

    Parameters
    ----------
    count : int
        The number of scans.
    """

    input_spec = EvaluateInputSpec
    output_spec = EvaluateOutputSpec

    def __init__(self, count: int = 0, **inputs: Any) -> None:
        super().__init__()
        self._count = count
        add_traits(self.inputs, [f"{name}{n}" for n in range(count) for name in FIELDS])
        self.inputs.trait_set(**inputs)

    def _run_interface(self, runtime):  # noqa: ANN001, ANN202 (nipype's signature)
        from bidsrep.evaluation.session import measure_session, to_tsv

        rows = measure_session([self._scan(n) for n in range(self._count)])
        path = Path(runtime.cwd) / "metrics.tsv"
        path.write_text(to_tsv(rows), encoding="utf-8")
        self._results["out_file"] = str(path)
        return runtime

    def _scan(self, n: int):  # noqa: ANN202 (imported when it runs)
        from bidsrep.evaluation.session import ScanFiles

        given = {name: getattr(self.inputs, f"{name}{n}") for name in FIELDS}
        files: dict[str, Any] = {
            name: Path(value) for name, value in given.items() if name != "images" and isdefined(value)
        }
        images = given["images"] if isdefined(given["images"]) else {}
        lesions = self.inputs.given_lesions[n] if isdefined(self.inputs.given_lesions) else ""
        return ScanFiles(
            self.inputs.keys[n],
            self.inputs.suffixes[n],
            images={name: Path(path) for name, path in images.items()},
            given_lesions=Path(lesions) if lesions else None,
            **files,
        )
