"""The reference segmenters of PEPSI's implicit pathology supervision (section 2.3, eq. 4).

Two small UNets find lesions in a T1w and in a FLAIR target; frozen, they judge the synthetic images. The
authors trained theirs on real scans and did not publish them, so a recipe trains its own on the targets
that its generator draws, before pre-training starts.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from bidsrep.models.device import trains_in_bf16
from bidsrep.models.network import Network
from bidsrep.training.losses import lesion_loss
from bidsrep.training.module import Objective

LOGGER = logging.getLogger("bidsrep.training")
TARGETS = ("image", "aux_image")


def reference_segmenters(
    objective: Objective, folder: Path, settings: dict[str, Any], seed: int
) -> dict[str, nn.Module]:
    """Load the segmenters of a run's folder, or train them there; frozen, one per target."""
    found: dict[str, nn.Module] = {}
    for target in TARGETS:
        path = folder / f"segmenter_{target}.safetensors"
        torch.manual_seed(seed)
        network = Network(
            {"pathol": 1},
            f_maps=int(settings.get("f_maps", 8)),
            num_levels=int(settings.get("num_levels", 3)),
        )
        if path.exists():
            network.load_state_dict(load_file(path))
        else:
            score = train_segmenter(network, objective, target, int(settings.get("iterations", 200)))
            folder.mkdir(parents=True, exist_ok=True)
            save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
            LOGGER.info("reference segmenter for %s: loss %.3f", target, score)
        found[target] = network.eval().requires_grad_(False)
    return found


def train_segmenter(network: nn.Module, objective: Objective, target: str, iterations: int) -> float:
    """Train on the drawn targets themselves; returns the mean loss of the last tenth."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.0)
    losses = []
    mixed = trains_in_bf16(torch.device("cpu"))
    for step in range(iterations):
        # A stream of its own: far from the indices that pre-training draws.
        batch = objective.sample(10_000_000 + step, 0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            logits = network(batch[f"target_{target}"][:1])["pathol"]
        loss = lesion_loss(logits.float(), batch["lesion"][:1])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    tail = losses[-max(1, iterations // 10) :]
    return sum(tail) / len(tail)
