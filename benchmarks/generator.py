"""Speed of the generator: one 128^3 image from a label map, against torchio and cornucopia.

    pip install torchio cornucopia humanize
    python benchmarks/generator.py

All three deform a label map (affine and elastic), paint a Gaussian for every label, lower the resolution along
an axis, add a bias field, gamma and noise, on one thread. Ours computes the T1w, FLAIR and lesion targets as
well. Each has its own process; the processes take turns, so that a busy machine is busy for all of them, and
the median CPU time of an image is printed. Packages that are not installed are left out.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time

CHAINS = ("bidsrep", "torchio", "cornucopia")
LABELS = 40


def main() -> None:
    """Let the chains take turns, and print the median time of an image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=128, help="voxels along each axis")
    parser.add_argument("--rounds", type=int, default=3, help="turns each chain takes")
    parser.add_argument("--images", type=int, default=3, help="images in a turn, after one to warm up")
    parser.add_argument("--run", choices=CHAINS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(measure(arguments.run, arguments.side, arguments.images)))
        return
    seconds = take_turns(arguments.side, arguments.rounds, arguments.images)
    ours = statistics.median(seconds["bidsrep"])
    print(f"{arguments.side}^3, one thread, median of {len(seconds['bidsrep'])}")
    for chain, values in seconds.items():
        median = statistics.median(values)
        print(f"{chain:<11} {median:7.2f} s  ({min(values):.2f} to {max(values):.2f})  {median / ours:6.1f}x")


def take_turns(side: int, rounds: int, images: int) -> dict[str, list[float]]:
    """CPU seconds of every image, by chain; chains that are not installed are not in it."""
    there = [chain for chain in CHAINS if importlib.util.find_spec(chain)]
    seconds: dict[str, list[float]] = {chain: [] for chain in there}
    for _ in range(rounds):
        for chain in there:
            command = [sys.executable, __file__, "--run", chain, "--side", str(side), "--images", str(images)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            seconds[chain] += json.loads(done.stdout.splitlines()[-1])
    return seconds


def table(options, folder):
    """Give the comparison as one of the tables of ``python -m benchmarks``."""
    from benchmarks.measure import Table, median

    seconds = take_turns(options.side, options.rounds, 2)
    made = Table(
        "generator",
        "One training image from a label map",
        ["chain", "CPU s (median)", "least", "most", "of ours"],
        notes=[f"{options.side}^3 voxels, one thread; ours makes the T1w, FLAIR and lesion targets, too."],
    )
    for chain, values in seconds.items():
        ratio = median(values) / median(seconds["bidsrep"])
        made.rows.append([chain, median(values), min(values), max(values), ratio])
    left_out = [chain for chain in CHAINS if chain not in seconds]
    if left_out:
        made.notes.append(f"Not installed here and left out: {', '.join(left_out)}.")
    return made


def measure(chain: str, side: int, images: int) -> list[float]:
    """CPU seconds of every image."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    make = {"bidsrep": ours, "torchio": torchio_chain, "cornucopia": cornucopia_chain}[chain](label_map(side))
    make(0)
    found = []
    for number in range(1, images + 1):
        start = time.process_time()
        make(number)
        found.append(time.process_time() - start)
    return found


def label_map(side: int):
    """Nested and neighbouring regions in a ball of two thirds of the side, ``(X, Y, Z)`` int64."""
    import torch

    from bidsrep.synth.filters import upsample

    generator = torch.Generator().manual_seed(0)
    noise = torch.stack(
        [upsample(torch.randn(6, 6, 6, generator=generator), (side,) * 3) for _ in range(LABELS)]
    )
    axis = torch.linspace(-1, 1, side)
    radius = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None] ** 2).sqrt()
    return torch.where(radius < 0.8, 1 + noise.argmax(0), 0)


def ours(labels):
    """Return what makes an image of number ``n``."""
    import torch

    from bidsrep.synth.generator import GeneratorConfig, Source, deform_subject, sample_image
    from bidsrep.training.memory import keep_freed_memory

    keep_freed_memory()
    tissues = ("background", *(("csf", "gm", "wm")[n % 3] for n in range(LABELS)))
    source = Source(1.0, labels=labels[None], tissues=tissues)
    config = GeneratorConfig(lesion_probability=1.0, clean_probability=0.0)

    def make(number: int):
        generator = torch.Generator().manual_seed(number)
        subject = deform_subject(source, generator, tuple(labels.shape), 1.0, config, [])
        return sample_image(subject, source, generator, 1.0, config, "medium")

    return make


def torchio_chain(labels):
    """Build the comparable chain of torchio's transforms."""
    import torchio as tio

    transform = tio.Compose([
        tio.RandomAffine(scales=0.2, degrees=15),
        tio.RandomElasticDeformation(num_control_points=7, max_displacement=7.5),
        tio.RandomLabelsToImage(label_key="labels", used_labels=range(LABELS + 1)),
        tio.RandomAnisotropy(axes=(0, 1, 2), downsampling=(2, 6)),
        tio.RandomGamma(),
        tio.RandomBiasField(),
        tio.RandomNoise(),
    ])  # fmt: skip
    return lambda _: transform(tio.Subject(labels=tio.LabelMap(tensor=labels[None].int())))


def cornucopia_chain(labels):
    """Build cornucopia's transform for learning from label maps, as it comes."""
    import cornucopia

    transform = cornucopia.SynthFromLabelTransform()
    return lambda _: transform(labels[None])


if __name__ == "__main__":
    main()
