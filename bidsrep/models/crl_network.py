"""The network of CRL: 2D encoder, parameter embedding, fusion, decoder (MICCAI 2024).

Images are ``(N, 1, H, W)``, features ``(N, C, H, W)``; acquisition parameters ``(N, 3)`` as
`acquisition_vector` gives them.

How features and parameters meet differs between paper and released code, and neither is safe as it is:

- ``ratio`` (the code's, and the default): content is the features over the source's code, and the target's
  features are the content times the target's code. A code near zero makes content without bound, so codes
  are kept off zero.
- ``pixels`` (the paper's, as the released module computes it): cross-attention from pixels to the one code,
  with the softmax over the pixels. Each of them weighs about 1 / (H W), so the image is lost. For
  comparison only.
- ``attention``: the same module with the softmax over what is attended to, the code and a null token, and
  with a residual: what the pixels take from the source's code is taken off, what they take from the
  target's is put on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bidsrep.bids.acquisition import AcquisitionParameters

Fusion = Literal["ratio", "attention", "pixels"]
FUSIONS: tuple[Fusion, ...] = ("ratio", "attention", "pixels")
VECTOR_PER_SECOND = (10.0, 1000.0, 10.0)
"""What a second of TR, TE and TI counts in the network's parameters."""


class Variant(NamedTuple):
    """Where paper and released code differ: linear layers of the two MLPs, and the fusion."""

    embedding_layers: int
    decoder_layers: int
    fusion: Fusion


VARIANTS = {"code": Variant(5, 6, "ratio"), "paper": Variant(4, 5, "pixels")}


def acquisition_vector(parameters: AcquisitionParameters) -> Tensor:
    """``(TR / 100, TE, TI / 100)`` with times in milliseconds, as the released code has them: ``(3,)``."""
    tr, te, ti = parameters.repetition_time, parameters.echo_time, parameters.inversion_time
    times = torch.tensor([tr, te, ti], dtype=torch.float64)
    return (times * torch.tensor(VECTOR_PER_SECOND)).float()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, added to their input at ``scale``; no normalisation (EDSR)."""

    def __init__(self, features: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        convolutions = [nn.Conv2d(features, features, 3, padding=1) for _ in range(2)]
        self.body = nn.Sequential(convolutions[0], nn.ReLU(inplace=True), convolutions[1])

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to the same."""
        return x + self.scale * self.body(x)


class Encoder(nn.Module):
    """``(N, 1, H, W)`` to features ``(N, C, H, W)`` at full resolution."""

    def __init__(self, features: int, blocks: int, scale: float) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(1, features, 3, padding=1))
        residual = [ResidualBlock(features, scale) for _ in range(blocks)]
        self.body = nn.Sequential(*residual, nn.Conv2d(features, features, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        """Compute the features of images."""
        x: Tensor = self.head(image)
        return x + self.body(x)


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for first, second in pairwise(widths):
            layers += [nn.Linear(first, second), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C)``, or every pixel of ``(N, C, H, W)``."""
        if x.ndim == 2:
            return self.layers(x)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                x = F.conv2d(x, layer.weight[:, :, None, None], layer.bias)
            else:
                x = layer(x)
        return x


class CrossAttention(nn.Module):
    """Pixels attend to one code: ``(N, C, H, W)`` and ``(N, C)`` give ``(N, C, H, W)``.

    With a single key the usual softmax is 1 everywhere. ``over`` says what is done about it: ``pixels`` takes
    the softmax over the queries, as the released module does; ``tokens`` adds a null token (key and value
    zero), so that each head of each pixel decides how much of the code it takes.
    """

    def __init__(self, features: int, heads: int, over: Literal["pixels", "tokens"]) -> None:
        super().__init__()
        if features % heads:
            raise ValueError(f"{features} features do not divide into {heads} heads")
        self.heads, self.over = heads, over
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(features, features) for _ in range(4)
        )

    def forward(self, features: Tensor, code: Tensor) -> Tensor:
        """What the pixels take from the code."""
        size = features.shape[2:]
        query = self.q_proj(features.flatten(2).transpose(1, 2)).unflatten(-1, (self.heads, -1))
        key, value = (project(code).unflatten(-1, (self.heads, -1)) for project in (self.k_proj, self.v_proj))
        logits = torch.einsum("nphd,nhd->nph", query, key) * query.shape[-1] ** -0.5
        # A softmax over two tokens, one of which has the logit 0, is the logistic function.
        weights = logits.softmax(dim=1) if self.over == "pixels" else logits.sigmoid()
        taken = torch.einsum("nph,nhd->nphd", weights, value).flatten(2)
        return self.out_proj(taken).transpose(1, 2).unflatten(2, size)


class CRLNetwork(nn.Module):
    """Encoder, parameter embedding, fusion and decoder, under the key names of the released code.

    Parameters
    ----------
    f_maps
        Channels (256 in the paper).
    num_resblocks
        Residual blocks of the encoder (32 in the paper).
    res_scale
        Factor on what a residual block adds.
    variant
        ``code`` or ``paper``: sets the MLPs' depths and the fusion, where the next three do not.
    embedding_layers, decoder_layers
        Linear layers of the two MLPs.
    fusion
        ``ratio``, ``attention`` or ``pixels``: see the module's docstring.
    positive
        Codes of the ratio are made positive (softplus), with ``guard`` added; else they are only moved to
        at least ``guard`` away from zero, with their sign. The released weights need False.
    guard
        Least absolute value of a code in the ratio.
    heads
        Outputs and their channels: CRL has one, ``image``.
    """

    def __init__(
        self,
        f_maps: int = 256,
        num_resblocks: int = 32,
        res_scale: float = 0.1,
        variant: str = "code",
        embedding_layers: int | None = None,
        decoder_layers: int | None = None,
        fusion: Fusion | None = None,
        positive: bool = False,
        guard: float = 1e-6,
        attention_heads: int = 8,
        heads: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant {variant!r} is not one of {', '.join(VARIANTS)}")
        if dict(heads or {"image": 1}) != {"image": 1}:
            raise ValueError(f"heads are {dict(heads or {})}, but CRL has one, image, with 1 channel")
        default = VARIANTS[variant]
        self.fusion: Fusion = fusion or default.fusion
        if self.fusion not in FUSIONS:
            raise ValueError(f"fusion {fusion!r} is not one of {', '.join(FUSIONS)}")
        self.positive, self.guard = positive, guard
        self.encoder = Encoder(f_maps, num_resblocks, res_scale)
        self.codemapping_mlp = MLP([3, *[f_maps] * (embedding_layers or default.embedding_layers)])
        over: Literal["pixels", "tokens"] = "pixels" if self.fusion == "pixels" else "tokens"
        self.cross_attn = CrossAttention(f_maps, attention_heads, over)
        # The released checkpoints hold this module, though their fusion, the ratio, leaves it untrained.
        self.cross_attn.requires_grad_(self.fusion != "ratio")
        self.imnet = MLP([*[f_maps] * (decoder_layers or default.decoder_layers), 1])

    def code(self, parameters: Tensor) -> Tensor:
        """The code ``(N, C)`` of acquisition parameters ``(N, 3)``: f_xi, kept off zero for the ratio."""
        code: Tensor = self.codemapping_mlp(parameters)
        if self.fusion != "ratio":
            return code
        if self.positive:
            return F.softplus(code) + self.guard
        return torch.where(code < 0, code.clamp(max=-self.guard), code.clamp(min=self.guard))

    def content(self, features: Tensor, code: Tensor) -> Tensor:
        """Take the source's code off its features: what all contrasts of an anatomy share."""
        if self.fusion == "ratio":
            return features / code[:, :, None, None]
        if self.fusion == "attention":
            return features - self.cross_attn(features, code)
        return self.cross_attn(features, code)

    def decode(self, content: Tensor, code: Tensor) -> Tensor:
        """Put the target's code on content features, and give its image ``(N, 1, H, W)``."""
        if self.fusion == "ratio":
            fused = content * code[:, :, None, None]
        else:
            fused = self.cross_attn(content, code)
            if self.fusion == "attention":
                fused = content + fused
        return self.imnet(fused)

    def forward(self, image: Tensor, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The image under other parameters, ``(N, 1, H, W)``, and its content ``(N, C, H, W)``."""
        content = self.content(self.encoder(image), self.code(source))
        return self.decode(content, self.code(target)), content
