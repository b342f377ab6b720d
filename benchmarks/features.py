"""Speed and memory of whole-volume features: ours, the plain network, and the layout of the reference code.

    python benchmarks/features.py --shape 160 192 160 --widths 16 64

The reference code runs the plain network in PyTorch's own memory layout, float32; ``plain`` is the same network
with channels last, which the processor's convolutions like better, and ``lean`` is what the app runs.

Every run has its own process, whose peak resident memory (weights, interpreter and PyTorch included) is
what is printed. Times are of one forward after a small one that sets the libraries up; ``--repeats`` takes
the best of several. Ratios are against the layout of the reference. On a busy machine, compare
CPU seconds.
"""

import argparse
import json
import subprocess
import sys

MODES = ("reference fp32", "plain fp32", "lean fp32", "lean bf16")
WIDTHS = (16, 64)


def main() -> None:
    """Print time and memory of every width and mode."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(96, 96, 96), metavar=("X", "Y", "Z"))
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="f_maps")
    parser.add_argument("--levels", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES, metavar="MODE")
    parser.add_argument("--run", choices=MODES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(measure(arguments)))
        return
    size = "x".join(map(str, arguments.shape))
    print(f"{size}, {arguments.levels} levels, {arguments.threads} threads, best of {arguments.repeats}")
    print(
        f"{'width':>5}  {'forward':<10} {'wall s':>8} {'CPU s':>8} {'peak GiB':>9} {'faster':>7} {'CPU':>6}"
    )
    for width in arguments.widths:
        base = None
        for mode in arguments.modes:
            found = run_alone(arguments, width, mode)
            base = base or found
            print(
                f"{width:>5}  {mode:<10} {found['wall']:>8.2f} {found['cpu']:>8.2f} {found['gib']:>9.2f} "
                f"{base['wall'] / found['wall']:>6.2f}x {base['cpu'] / found['cpu']:>5.2f}x",
                flush=True,
            )


def table(options, folder):
    """Give the comparison as one of the tables of ``python -m benchmarks``."""
    from benchmarks.measure import Table

    arguments = argparse.Namespace(shape=options.shape, levels=5, threads=options.threads, repeats=1)
    size = "x".join(map(str, options.shape))
    made = Table(
        "features",
        "Features of a whole volume",
        ["width", "forward", "wall s", "CPU s", "peak GiB", "faster (CPU)"],
        notes=[f"{size} voxels, 5 levels, {options.threads} thread(s); random weights."],
    )
    for width in WIDTHS:
        base = None
        for mode in MODES:
            found = run_alone(arguments, width, mode)
            base = base or found
            made.rows.append(
                [width, mode, found["wall"], found["cpu"], found["gib"], base["cpu"] / found["cpu"]]
            )
    return made


def run_alone(arguments: argparse.Namespace, width: int, mode: str) -> dict[str, float]:
    """Measure one width and mode in a process of its own."""
    command = [sys.executable, __file__, "--run", mode, "--widths", str(width)]
    for name in ("shape", "levels", "threads", "repeats"):
        value = getattr(arguments, name)
        command += [f"--{name}", *map(str, value if isinstance(value, list | tuple) else [value])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds (``wall``, ``cpu``) of a forward, and the peak memory of this process (``gib``)."""
    import resource
    import time

    import torch

    from bidsrep.models.lean import lean_features
    from bidsrep.models.unet import UNet3D

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    unet = UNet3D(f_maps=arguments.widths[0], num_levels=arguments.levels).requires_grad_(False)
    volume = torch.rand(1, 1, *arguments.shape)
    dtype = torch.bfloat16 if arguments.run.endswith("bf16") else torch.float32
    plain = not arguments.run.startswith("lean")
    if arguments.run.startswith("plain"):
        unet, volume = (x.to(memory_format=torch.channels_last_3d) for x in (unet, volume))

    def forward(image: torch.Tensor) -> torch.Tensor:
        return unet(image) if plain else lean_features(unet, image, dtype)

    forward(torch.rand(1, 1, *[2**arguments.levels] * 3))
    wall, cpu = [], []
    for _ in range(arguments.repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        forward(volume)
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"wall": min(wall), "cpu": min(cpu), "gib": peak_kib / 2**20}


if __name__ == "__main__":
    main()
