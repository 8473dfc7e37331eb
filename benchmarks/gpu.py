"""All that a GPU is needed for, in ten minutes: tests, what a step costs, populations, a long run.

    python benchmarks/gpu.py --out gpu                    # once, on a machine with a GPU
    python benchmarks/gpu.py --out gpu --parts vgg        # goes on with the run of VGG-11

The most valuable comes first, each part is a process of its own and writes its results as soon as
they are there, so that a cut, a crash or an empty budget loses only what was running:

    tests     the tests marked ``cuda``, eager and jit                              tests.json
    speed     what a step costs, network by network, then bf16 and tf32             speed.json
    vmapped   16 runs in one vmapped step beside 16 runs, one after the other       population.json
    replicas  one rank by NCCL, float32 and bf16: the collectives inside the step   replicas.json
    vgg       VGG-11 on CIFAR-10, tuned and by cosine; resumes where it was cut     vgg-*/

``parts.json`` says how each command ended and how long it took.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]

#: What is timed, beside plain training by ``torch.optim``, eager and compiled.
METHODS = ["torch.optim eager", "plain", "hd", "exact", "exact eager", "classic eager"]
NETWORKS = ["mlp", "resnet_18", "transformer", "vgg_11", "lenet"]


class Command(NamedTuple):
    part: str
    name: str
    arguments: list[str]  # after the interpreter's name


def tests(args: argparse.Namespace) -> list[Command]:
    report = ["-q", "-m", "cuda", f"--junitxml={args.out / 'tests.xml'}"]
    return [Command("tests", "tests", ["-m", "pytest", *report, "tests/test_devices.py"])]


def speed(args: argparse.Namespace) -> list[Command]:
    networks = ["mlp"] if args.toy else NETWORKS
    methods = ["hd"] if args.toy else METHODS
    common = ["--device", args.device, "--output", str(args.out / "speed.json")]
    common += ["--quick"] if args.toy else ["--rounds", "50"]
    variants: dict[str, list[str]] = {
        "": [*methods, *([] if args.toy else ["exact, CUDA graphs"])],
        "--tf32": ["plain", "exact"],
        "--autocast": ["plain", "hd", "exact"],
    }
    return [
        Command(
            "speed",
            f"{network} {flag}".strip(),
            ["-m", "benchmarks.studies.speed", "--networks", network, *common]
            + ([flag] if flag else [])
            + ["--methods", *chosen],
        )
        for flag, chosen in list(variants.items())[: 1 if args.toy else None]
        for network in networks
    ]


def vmapped(args: argparse.Namespace) -> list[Command]:
    members, rounds = ("2", "1") if args.toy else ("16", "30")
    options = ["--device", args.device, "--members", members, "--rounds", rounds]
    options += ["--networks", "mlp"] if args.toy else ["--networks", "mlp", "lenet"]
    output = ["--output", str(args.out / "population.json")]
    return [
        Command("vmapped", "vmapped", ["-m", "benchmarks.studies.population", *options, *output])
    ]


def vgg(args: argparse.Namespace) -> list[Command]:
    """Both runs of one length; a folder that holds a run is resumed."""
    task = ["--network", "vgg", "--dataset", "cifar_10", "--batch-size", "128"]
    task += ["--num-epoch", str(args.epochs), "--data-root", args.data_root]
    if args.toy:
        task = ["--num-epoch", "1", "--max-steps", "2", "--no-compile"]
    task += ["--device", args.device]
    scripts = {
        "vgg-tuned": ["benchmarks/rtho.py", "--lr", "0.001"],
        "vgg-cosine": ["benchmarks/baselines.py", "--lr-scheduler", "cyclic", "--lr", "0.1"],
    }
    commands: list[Command] = []
    for name, (script, *options) in scripts.items():
        folder = args.out / name
        again = (folder / "config.json").exists()
        where = ["--resume", str(folder)] if again else [*options, *task, "--out", str(folder)]
        commands.append(Command("vgg", name, [script, *where]))
    return commands


def replicas(args: argparse.Namespace) -> list[Command]:
    """One device is enough to send through NCCL, eager and compiled."""
    options = ["--device", args.device, "--one-rank", "--output", str(args.out / "replicas.json")]
    options += ["--rounds", "2", "--methods", "hd"] if args.toy else ["--batch-size", "512"]
    options += ["--networks", "mlp" if args.toy else "vgg"]
    variants: dict[str, list[str]] = {
        "eager": [],
        "compiled": ["--compile"],
        "bf16": ["--compile", "--autocast"],
    }
    return [
        Command("replicas", name, ["-m", "benchmarks.studies.replicas", *options, *flags])
        for name, flags in list(variants.items())[: 1 if args.toy else None]
    ]


PARTS = {"tests": tests, "speed": speed, "vmapped": vmapped, "replicas": replicas, "vgg": vgg}


def run(command: Command, out: Path, seconds: float) -> dict[str, Any]:
    """Run one command, its output in a file of its own; how it ended."""
    began = time.monotonic()
    log = out / f"{command.part}-{command.name}.log".replace(" ", "")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("w") as file:
        try:
            code = subprocess.run(
                [sys.executable, *command.arguments],
                cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, timeout=seconds,
            ).returncode  # fmt: skip
            ended = "done" if code == 0 else f"failed, exit {code}: see {log.name}"
        except subprocess.TimeoutExpired:
            ended = f"cut after {seconds:.0f} s"
    return {
        "part": command.part,
        "name": command.name,
        "ended": ended,
        "seconds": round(time.monotonic() - began, 1),
    }


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("gpu.py", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="(all)")
    add("--minutes", type=float, default=10.0, help="no command starts or goes on after so long")
    add("--epochs", type=int, default=30, help="of VGG-11 (30)")
    add("--data-root", default="data", metavar="DIR", help="where CIFAR-10 lies (data)")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="(cuda)")
    add("--toy", action="store_true", help="a few small steps, to try the script")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    deadline, ended = time.monotonic() + 60 * args.minutes, []
    for part in args.parts:
        for command in PARTS[part](args):
            left = deadline - time.monotonic()
            if left < 5:
                print(f"no time left for {command.part}: {command.name}")
                continue
            ended.append(run(command, args.out, left))
            print("{part}: {name}: {ended}, {seconds} s".format(**ended[-1]), flush=True)
            (args.out / "parts.json").write_text(json.dumps(ended, indent=1) + "\n")
    return int(any(row["ended"].startswith("failed") for row in ended))


if __name__ == "__main__":
    raise SystemExit(main())
