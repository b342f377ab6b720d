"""The figures of the report: each node draws one."""

from pathlib import Path

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    Str,
    TraitedSpec,
    isdefined,
    traits,
)


class FigureOutputSpec(TraitedSpec):
    """Outputs of every node that draws."""

    out_file = File(exists=True, desc="the figure, SVG")


class _Figure(SimpleInterface):
    """Draw a figure in the node's folder."""

    output_spec = FigureOutputSpec

    def _run_interface(self, runtime):  # noqa: ANN001, ANN202 (nipype's signature)
        path = Path(runtime.cwd) / "figure.svg"
        self._draw(path)
        self._results["out_file"] = str(path)
        return runtime

    def _draw(self, path: Path) -> None:
        raise NotImplementedError

    def _given(self, name: str):  # noqa: ANN202 (whatever the trait holds)
        value = getattr(self.inputs, name)
        return value if isdefined(value) else None


class MaskFigureInputSpec(BaseInterfaceInputSpec):
    """Inputs of `MaskFigure`."""

    in_file = File(exists=True, mandatory=True, desc="a conformed scan")
    mask_file = File(exists=True, mandatory=True, desc="its brain mask")
    title = Str("", usedefault=True, desc="what the scan is")
    note = Str("", usedefault=True, desc="where the mask comes from")


class MaskFigure(_Figure):
    """Draw the outline of a brain mask."""

    input_spec = MaskFigureInputSpec

    def _draw(self, path: Path) -> None:
        from bidsrep.reports.reportlets import plot_brain_mask

        inputs = self.inputs
        plot_brain_mask(inputs.in_file, inputs.mask_file, path, title=inputs.title, note=inputs.note)


class RegistrationFigureInputSpec(BaseInterfaceInputSpec):
    """Inputs of `RegistrationFigure`."""

    reference = File(exists=True, mandatory=True, desc="the reference scan, conformed")
    reference_mask = File(exists=True, mandatory=True, desc="its brain mask")
    moving = File(exists=True, mandatory=True, desc="the other scan, conformed")
    transform = File(exists=True, mandatory=True, desc="ITK text transform between them")
    title = Str("", usedefault=True, desc="what the scan is")
    note = Str("", usedefault=True, desc="more about it")


class RegistrationFigure(_Figure):
    """Draw a scan on its reference, before and after registration."""

    input_spec = RegistrationFigureInputSpec

    def _draw(self, path: Path) -> None:
        from bidsrep.reports.reportlets import plot_registration

        i = self.inputs
        plot_registration(
            i.reference, i.moving, i.transform, i.reference_mask, path, title=i.title, note=i.note
        )


class SynthesisFigureInputSpec(BaseInterfaceInputSpec):
    """Inputs of `SynthesisFigure`."""

    in_file = File(exists=True, mandatory=True, desc="the preprocessed scan")
    mask_file = File(exists=True, mandatory=True, desc="its brain mask, on the same grid")
    contrasts = traits.List(Str, mandatory=True, desc="which of the predictions are contrasts")
    images = traits.Dict(Str, File(exists=True), mandatory=True, desc="everything the model predicts")
    reference = File(exists=True, desc="the session's preprocessed reference, on the same grid")
    reference_name = Str("", usedefault=True, desc="its contrast")
    title = Str("", usedefault=True, desc="what the scan is")
    source_name = Str("", usedefault=True, desc="the contrast of the scan")


class SynthesisFigure(_Figure):
    """Draw a scan above the contrasts predicted from it."""

    input_spec = SynthesisFigureInputSpec

    def _draw(self, path: Path) -> None:
        from bidsrep.reports.reportlets import plot_synthesis

        i = self.inputs
        contrasts = {name: image for name, image in i.images.items() if name in i.contrasts}
        acquired = {i.reference_name: self._given("reference"), i.source_name: i.in_file}
        acquired = {name: image for name, image in acquired.items() if name in contrasts and image}
        plot_synthesis(
            i.in_file,
            contrasts,
            i.mask_file,
            path,
            acquired=acquired,
            title=i.title,
            source_name=i.source_name,
        )


class LesionFigureInputSpec(BaseInterfaceInputSpec):
    """Inputs of `LesionFigure`."""

    in_file = File(exists=True, mandatory=True, desc="the preprocessed scan")
    mask_file = File(exists=True, mandatory=True, desc="its brain mask, on the same grid")
    lesions = File(exists=True, mandatory=True, desc="lesion mask, on the same grid")
    probability = File(exists=True, desc="lesion probability, on the same grid")
    title = Str("", usedefault=True, desc="what the scan is")


class LesionFigure(_Figure):
    """Draw lesions over the scan they were found on."""

    input_spec = LesionFigureInputSpec

    def _draw(self, path: Path) -> None:
        from bidsrep.reports.lesions import plot_lesions

        i = self.inputs
        plot_lesions(
            i.in_file, i.lesions, i.mask_file, path, probability=self._given("probability"), title=i.title
        )


class SuperresFigureInputSpec(BaseInterfaceInputSpec):
    """Inputs of `SuperresFigure`."""

    in_file = File(exists=True, mandatory=True, desc="the preprocessed scan")
    superres = File(exists=True, mandatory=True, desc="the scan super-resolved, on the same grid")
    mask_file = File(exists=True, mandatory=True, desc="its brain mask, on the same grid")
    title = Str("", usedefault=True, desc="what the scan is")
    source_name = Str("", usedefault=True, desc="the contrast of the scan")


class SuperresFigure(_Figure):
    """Draw a part of a scan enlarged, before and after super-resolution."""

    input_spec = SuperresFigureInputSpec

    def _draw(self, path: Path) -> None:
        from bidsrep.reports.zoom import plot_superres

        i = self.inputs
        plot_superres(i.in_file, i.superres, i.mask_file, path, title=i.title, source_name=i.source_name)


class BiasFigureInputSpec(BaseInterfaceInputSpec):
    """Inputs of `BiasFigure`."""

    in_file = File(exists=True, mandatory=True, desc="the preprocessed scan")
    bias = File(exists=True, mandatory=True, desc="its bias field, on the same grid")
    mask_file = File(exists=True, mandatory=True, desc="its brain mask, on the same grid")
    title = Str("", usedefault=True, desc="what the scan is")
    source_name = Str("", usedefault=True, desc="the contrast of the scan")


class BiasFigure(_Figure):
    """Draw a scan, the scan divided by its bias field, and the field."""

    input_spec = BiasFigureInputSpec

    def _draw(self, path: Path) -> None:
        from bidsrep.reports.bias import plot_bias

        i = self.inputs
        plot_bias(i.in_file, i.bias, i.mask_file, path, title=i.title, source_name=i.source_name)


class SegmentationFigureInputSpec(BaseInterfaceInputSpec):
    """Inputs of `SegmentationFigure`."""

    in_file = File(exists=True, mandatory=True, desc="the preprocessed scan")
    segmentation = File(exists=True, mandatory=True, desc="its structures, on the same grid")
    mask_file = File(exists=True, mandatory=True, desc="its brain mask, on the same grid")
    labels = Str(mandatory=True, desc="the table of the structures: aseg, tissue")
    title = Str("", usedefault=True, desc="what the scan is")


class SegmentationFigure(_Figure):
    """Draw the structures of a segmentation over the scan."""

    input_spec = SegmentationFigureInputSpec

    def _draw(self, path: Path) -> None:
        from bidsrep.reports.segmentation import plot_segmentation

        i = self.inputs
        plot_segmentation(i.in_file, i.segmentation, i.mask_file, path, labels=i.labels, title=i.title)
