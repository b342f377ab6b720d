"""How a training runs: accumulation, processes, time limits, logs; on one ball with one tissue inside another."""

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor

from bidsrep.cli.train import main
from bidsrep.errors import UsageError
from bidsrep.training.module import GeneratedExamples, PretrainModule
from bidsrep.training.recipe import Optimiser, Recipe, Stage
from bidsrep.training.run import build_network, build_objective, fit, network_state, pretrain
from bidsrep.training.trainer import Runtime, device_count, make_trainer, node_count

SHAPE = (16, 16, 16)
RECIPE = Recipe(
    model="brainid",
    name="tiny",
    architecture={"f_maps": 8, "num_levels": 2, "heads": {"image": 1}},
    stages=(Stage(4, SHAPE, 1.0),),
    optimiser=Optimiser(lr=1e-3, warmup=2),
    precision="32-true",
)
TOML = """
model = "brainid"
name = "tiny"
precision = "32-true"
[architecture]
f_maps = 8
num_levels = 2
heads = { image = 1 }
[[stages]]
iterations = 4
shape = [16, 16, 16]
[optimiser]
lr = 1e-3
warmup = 2
"""
QUIET = {"device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared dataset of one T1w: white matter in grey matter."""
    folder = tmp_path_factory.mktemp("data")
    axes = np.meshgrid(*[np.arange(28) - 13.5] * 3, indexing="ij")
    radius = np.sqrt(sum(a**2 for a in axes))
    t1w = np.select([radius < 8, radius < 12], [1.0, 0.6]).astype(np.float32)
    anat = folder / "sub-1" / "anat"
    anat.mkdir(parents=True)
    nib.Nifti1Image(t1w, np.eye(4)).to_filename(anat / "sub-1_desc-brain_T1w.nii.gz")
    (anat / "sub-1_desc-brain_T1w.json").write_text('{"TissueMeans": [0.25, 0.6, 1.0]}')
    return folder


class Recorded(PretrainModule):
    """Keeps the gradients of every optimiser step."""

    gradients: list[dict[str, Tensor]]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        found = {name: p.grad.clone() for name, p in self.network.named_parameters() if p.grad is not None}
        self.gradients.append(found)


def gradients_of_steps(recipe: Recipe, data: Path, out: Path) -> list[dict[str, Tensor]]:
    module = Recorded(build_network(recipe), build_objective(recipe, [data]), recipe)
    module.gradients = []
    fit(module, make_trainer(recipe, out, Runtime(**QUIET, tensorboard=False)), out)
    return module.gradients


class Numbers:
    """An objective that tells what it was asked for."""

    def sample(self, index: int, step: int) -> tuple[int, int]:
        return index, step


def first(stream: GeneratedExamples, count: int) -> list:
    return [example for example, _ in zip(stream, range(count), strict=False)]


def test_accumulating_two_is_what_two_processes_see() -> None:
    alone = first(GeneratedExamples(Numbers(), 3, accumulate=2), 4)
    ranks = [first(GeneratedExamples(Numbers(), 3, stride=2, offset=rank), 2) for rank in (0, 1)]
    assert alone == [(6, 3), (7, 3), (8, 4), (9, 4)]
    assert sorted(ranks[0] + ranks[1]) == alone


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_draw_what_one_process_would(workers: int) -> None:
    stream = GeneratedExamples(Numbers(), 3, stride=2, offset=1, accumulate=2)
    ahead = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=workers)
    assert [tuple(example) for example in first(ahead, 7)] == first(stream, 7)


def test_accumulated_gradients_are_those_of_the_larger_batch(data: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, stages=(Stage(1, SHAPE, 1.0),), accumulate=2)
    (found,) = gradients_of_steps(recipe, data, tmp_path)
    network, objective = build_network(recipe), build_objective(recipe, [data])
    losses = [objective.loss(network, objective.sample(number, 0), 0)["loss"] for number in (0, 1)]
    (torch.stack(losses).mean()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("muon_lr", [0.0, 0.02])
def test_steps_are_complete_when_time_is_over_and_the_run_goes_on_alike(
    data: Path, tmp_path: Path, muon_lr: float
) -> None:
    recipe = replace(RECIPE, accumulate=2, optimiser=replace(RECIPE.optimiser, muon_lr=muon_lr))
    whole = network_state(pretrain(recipe, [data], tmp_path / "whole", **QUIET))
    pretrain(recipe, [data], tmp_path / "parts", **QUIET, max_minutes=1e-6)
    checkpoint = torch.load(tmp_path / "parts" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 1
    resumed = network_state(pretrain(recipe, [data], tmp_path / "parts", **QUIET))
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, atol=1e-6, rtol=1e-5, msg=name)


def test_a_killed_run_loses_at_most_one_interval(data: Path, tmp_path: Path) -> None:
    """Without a word a run that dies in its third step leaves the checkpoint of the second."""

    class Killed(PretrainModule):
        def training_step(self, batch: dict[str, Tensor], number: int) -> Tensor:
            if number == 2:
                raise MemoryError
            return super().training_step(batch, number)

    recipe = replace(RECIPE, checkpoint_minutes=0.0)
    module = Killed(build_network(recipe), build_objective(recipe, [data]), recipe)
    with pytest.raises(MemoryError):
        fit(module, make_trainer(recipe, tmp_path, Runtime(**QUIET)), tmp_path)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


def test_logs_for_people_and_for_tensorboard(data: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pretrain(RECIPE, [data], tmp_path, **QUIET)
    with (tmp_path / "log" / "version_0" / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == RECIPE.iterations
    events = EventAccumulator(str(tmp_path / "tensorboard" / "version_0"))
    events.Reload()
    scalars = events.Scalars("train/loss")
    assert [float(row["train/loss"]) for row in rows] == pytest.approx([s.value for s in scalars], rel=1e-5)


def test_tensorboard_can_be_left_out(data: Path, tmp_path: Path) -> None:
    pretrain(replace(RECIPE, stages=(Stage(1, SHAPE, 1.0),)), [data], tmp_path, **QUIET, tensorboard=False)
    assert not (tmp_path / "tensorboard").exists()


def test_nodes_are_those_of_the_slurm_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_STEP_NUM_NODES", raising=False)
    monkeypatch.setenv("SLURM_NNODES", "3")  # an allocation without srun: one process, which must not wait
    assert node_count(Runtime()) == 1
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "3")
    assert node_count(Runtime()) == 3
    assert node_count(Runtime(nodes=2)) == 2
    assert device_count(Runtime(device="cpu")) == 1
    assert device_count(Runtime(device="cpu", devices=4)) == 4


def test_a_job_of_many_tasks_is_told_what_to_ask_slurm_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "mine", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    for name, value in {**job, "SLURM_NODEID": "0", "SLURM_JOB_ID": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE", raising=False)
    with pytest.raises(UsageError, match="--ntasks-per-node=2"):
        make_trainer(RECIPE, tmp_path, Runtime(device="cpu", devices=2))


def test_recipe_names_the_weights_it_starts_from(data: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = build_network(replace(RECIPE, seed=7)).state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "start.safetensors")
    recipe = replace(
        RECIPE,
        initial=str(tmp_path / "start.safetensors"),
        stages=(Stage(1, SHAPE, 1.0),),
        optimiser=Optimiser(lr=1e-9, warmup=0),
    )
    trained = network_state(pretrain(recipe, [data], tmp_path / "run", **QUIET))
    for name, value in state.items():
        torch.testing.assert_close(trained[name], value, atol=1e-6, rtol=0)


def test_broken_initial_weights_are_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "recipe.toml").write_text(TOML)
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    options = ["--config", str(tmp_path / "recipe.toml"), "--data", str(data), "--out", str(tmp_path / "out")]
    assert main(["pretrain", "brainid", *options, "--initial", str(tmp_path / "bad.safetensors")]) == 69
    assert "bad.safetensors: cannot be read" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_train_like_one_with_twice_the_batch(data: Path, tmp_path: Path) -> None:
    """The command itself, with gloo between two processes: the same weights as with two batches per step."""
    (tmp_path / "recipe.toml").write_text(TOML)
    options = ["pretrain", "brainid", "--config", str(tmp_path / "recipe.toml"), "--data", str(data),
               "--device", "cpu", "--no-tensorboard"]  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "bidsrep.cli.train",
        *options,
        "--devices",
        "2",
        "--out",
        str(tmp_path / "two"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert main([*options, "--accumulate", "2", "--out", str(tmp_path / "one")]) == 0
    two, one = (network_state(tmp_path / name / "last.ckpt") for name in ("two", "one"))
    start = build_network(replace(RECIPE)).state_dict()
    for name, value in one.items():
        assert not torch.equal(value, start[name])
        torch.testing.assert_close(two[name], value, atol=2e-5, rtol=0, msg=name)
