"""One scan through one network: features once, and everything that follows from them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    Str,
    TraitedSpec,
    isdefined,
    traits,
)

T1W, LESION, TISSUE = "T1w", "lesion", "tissue"
NOT_USABLE = "cannot be given to {} ({})"
REMEDY = "Look at its brain mask in the report; give a better one with --derivatives, or exclude the scan"


class RepresentInputSpec(BaseInterfaceInputSpec):
    """Inputs of `Represent`."""

    in_file = File(exists=True, mandatory=True, desc="the preprocessed scan, on the reference grid")
    mask_file = File(exists=True, mandatory=True, desc="its brain mask, on the same grid")
    model = Str(mandatory=True, desc="name of the model")
    weights = File(exists=True, mandatory=True, nohash=True, desc="its weights")
    weights_sha256 = Str(desc="what identifies the weights")
    acquisition = traits.Dict(Str, traits.Float, desc="TR, TE, TI in s, for models that need them")
    targets = traits.Dict(
        Str, traits.Dict(Str, traits.Float), desc="further contrasts: their TR, TE, TI in s"
    )
    lesion_threshold = traits.Float(0.5, usedefault=True, desc="for the region 'lesion' of the embedding")
    min_lesion_volume = traits.Float(0.01, usedefault=True, desc="ml; for the same")
    regional = traits.Bool(True, usedefault=True, desc="average the features over regions")
    dense = traits.Bool(False, usedefault=True, desc="keep the features of every voxel")
    components = traits.Bool(False, usedefault=True, desc="draw the features' principal components")
    title = Str("", usedefault=True, desc="what the figure of them is called")
    source = Str(nohash=True, desc="the scan in the dataset, for messages")
    device = Str("cpu", usedefault=True, nohash=True, desc="cpu, cuda or cuda:N")
    use_gpu = traits.Bool(False, usedefault=True, nohash=True, desc="tells the scheduler that it takes a GPU")
    precision = Str("auto", usedefault=True, desc="auto, fp32 or bf16")
    num_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads of this step")
    low_mem = traits.Bool(False, usedefault=True, nohash=True, desc="keep large tensors on disk")


class RepresentOutputSpec(TraitedSpec):
    """Outputs of `Represent`."""

    images = traits.Dict(Str, File(exists=True), desc="every prediction, on the grid of the input")
    lattice = File(exists=True, desc="features of some voxels, to compare scans by")
    embedding = File(exists=True, desc="features averaged over regions, TSV")
    features = File(exists=True, desc="features of every voxel, 4D")
    components = File(exists=True, desc="figure of the features' principal components, SVG")
    label_tables = traits.Dict(
        Str, File(exists=True), desc="what a predicted segmentation's numbers mean, TSV"
    )


class Represent(SimpleInterface):
    """Compute the features of a scan in one pass, and stream every head from them."""

    input_spec = RepresentInputSpec
    output_spec = RepresentOutputSpec

    def _run_interface(self, runtime):  # noqa: ANN001, ANN202 (nipype's signature)
        from bidsrep.errors import ImageError, InputError
        from bidsrep.evaluation.invariance import FeatureLattice
        from bidsrep.imaging.grids import uncrop
        from bidsrep.imaging.volume import Volume
        from bidsrep.reports.components import plot_components

        folder = Path(runtime.cwd)
        scan, mask = Volume.load(self.inputs.in_file), Volume.load(self.inputs.mask_file).data > 0
        try:
            box, features, stride, predicted = self._compute(scan.data, mask)
        except (ValueError, InputError) as error:  # an empty brain, or one too small for the network
            problem = NOT_USABLE.format(self.inputs.model, error)
            raise ImageError(self.inputs.source or self.inputs.in_file, problem, REMEDY) from error
        lattice = FeatureLattice.sample(features, mask, box=box, stride=stride)
        self._results["lattice"] = str(lattice.save(folder / "lattice.npz"))
        if self.inputs.components and stride == 1:
            path, title = folder / "components.svg", self.inputs.title
            plot_components(features, lattice.features, mask, box, scan.affine, path, title=title)
            self._results["components"] = str(path)
        if self.inputs.regional:
            embedding = self._embed(features, stride, predicted, mask[box], scan.voxel_ml, folder)
            self._results["embedding"] = str(embedding)
        if self.inputs.dense:
            self._results["features"] = str(_save_dense(features, stride, mask, box, scan.affine, folder))
        self._results["label_tables"] = _save_label_tables(predicted, folder)
        self._results["images"] = {
            name: str(scan.replace(uncrop(image, box, mask.shape)).save(folder / f"{name}.nii", atomic=False))
            for name, image in predicted.items()
        }
        return runtime

    def _compute(
        self, data: np.ndarray, mask: np.ndarray
    ) -> tuple[tuple[slice, slice, slice], np.ndarray, int, dict[str, np.ndarray]]:
        """Give the frame around the brain, and in it features, their stride, and the predictions (0 outside the brain)."""
        import torch

        from bidsrep.models.framed import Framed
        from bidsrep.models.registry import load_model
        from bidsrep.models.scratch import tensors_on_disk

        torch.set_num_threads(self.inputs.num_threads)
        model = load_model(  # once per process
            self.inputs.model, self.inputs.weights, self.inputs.device, self.inputs.precision
        )
        framed = Framed.of(data, mask, model.divisor)
        with torch.inference_mode(), tensors_on_disk(Path.cwd() if self.inputs.low_mem else None):
            features, predicted = self._run_model(model, framed.volume)
        images = {name: framed.inside(value) for name, value in predicted.items()}
        found = features[0].float().cpu().numpy()
        return framed.box, found if model.stride > 1 else found[:, *framed.keep], model.stride, images

    def _run_model(self, model, volume):  # noqa: ANN001, ANN202 (torch is imported when it runs)
        """Give features and predictions; a model that makes contrasts is told the scan's own parameters."""
        if not isdefined(self.inputs.acquisition):
            features = model.features(volume)
            return features, model.predict_from(features, volume)
        from bidsrep.bids.acquisition import AcquisitionParameters
        from bidsrep.models.crl import STANDARD_CONTRASTS

        source = AcquisitionParameters(**self.inputs.acquisition)
        given = self.inputs.targets if isdefined(self.inputs.targets) else {}
        ordered = {name: AcquisitionParameters(**values) for name, values in given.items()}
        features = model.features(volume, source=source)
        return features, model.predict_from(features, volume, targets={**STANDARD_CONTRASTS, **ordered})

    def _embed(
        self,
        features: np.ndarray,
        stride: int,
        predicted: dict[str, np.ndarray],
        mask: np.ndarray,
        voxel_ml: float,
        folder: Path,
    ) -> Path:
        """Write the embedding: one region a row; its size, then one channel a column."""
        import pandas as pd

        from bidsrep.imaging.lesions import find_lesions
        from bidsrep.imaging.regions import coarse_regional_means, regional_means, standard_regions

        lesions = None
        if LESION in predicted:
            limits = self.inputs.lesion_threshold, self.inputs.min_lesion_volume
            lesions = find_lesions(predicted[LESION], voxel_ml, *limits, within=mask).mask
        # Contrasts made to order are on the scale of the scan; other synthetic T1w have white matter at 1.
        own_scale = isdefined(self.inputs.acquisition)
        regions = standard_regions(mask, _tissue_classes(predicted, mask, own_scale), lesions)
        if stride == 1:
            means, voxels = regional_means(features, regions)
        else:
            means, voxels = coarse_regional_means(features, regions, stride)
        columns = [f"channel{n:02d}" for n in range(means.shape[1])]
        table = pd.DataFrame(means, columns=columns)
        table.insert(0, "region", list(regions))
        table.insert(1, "volume", [f"{n * voxel_ml:.3f}" for n in voxels])
        path = folder / "embedding.tsv"
        table.to_csv(path, sep="\t", index=False, na_rep="n/a", float_format="%.6g", lineterminator="\n")
        return path


def _tissue_classes(predicted: dict[str, np.ndarray], mask: np.ndarray, own_scale: bool) -> np.ndarray | None:
    """Classify the brain's voxels by the synthetic T1w, else by the predicted tissues; None without both."""
    from bidsrep.imaging.tissues import BORDERS, own_borders, tissue_classes

    if T1W in predicted:
        t1w = predicted[T1W]
        return tissue_classes(t1w, mask, own_borders(t1w, mask) if own_scale else BORDERS)
    return predicted.get(TISSUE)


def _save_dense(
    features: np.ndarray,
    stride: int,
    mask: np.ndarray,
    box: tuple[slice, slice, slice],
    affine: np.ndarray,
    folder: Path,
) -> Path:
    """Write the features of every voxel, on the grid of the image or on their own coarser one."""
    from bidsrep.imaging.channels import save_channels

    if stride > 1:
        coarse = affine.copy()
        # The first feature's centre lies in the middle of the first cube of the box.
        corner = np.array([part.start for part in box]) + (stride - 1) / 2
        coarse[:3, 3] = affine[:3, :3] @ corner + affine[:3, 3]
        coarse[:3, :3] = affine[:3, :3] * stride
        return save_channels(folder / "features.nii.gz", features, coarse)
    return save_channels(folder / "features.nii.gz", _Uncropped(features, mask, box), affine)


@dataclass(frozen=True)
class _Uncropped:
    """Features (C, X', Y', Z') of a box on the whole grid of a mask, one channel after the other."""

    features: np.ndarray
    mask: np.ndarray
    box: tuple[slice, slice, slice]

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.features), *self.mask.shape

    def __iter__(self) -> Iterator[np.ndarray]:
        from bidsrep.imaging.grids import uncrop

        inside = self.mask[self.box]
        return (uncrop(np.where(inside, channel, 0), self.box, self.mask.shape) for channel in self.features)


def _save_label_tables(predicted: dict[str, np.ndarray], folder: Path) -> dict[str, str]:
    """Write the tables of the segmentations among the predictions."""
    from bidsrep.labels import SEGMENTATIONS, load_labels

    tables = {}
    for name in sorted(set(predicted) & set(SEGMENTATIONS)):
        path = folder / f"{name}.tsv"
        path.write_text(load_labels(SEGMENTATIONS[name]).to_tsv(), encoding="utf-8")
        tables[name] = str(path)
    return tables
