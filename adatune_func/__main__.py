"""What to paste into a bug report: ``python -m adatune_func``.

Prints versions, devices, who compiles on which of them, and a self-check of a few seconds: the
hypergradient of a small network beside central differences of its run, and a step through ``jit``
beside the same step in eager. ``--compile`` lets torch's compiler take that step, which may take a
minute. The exit code is 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from adatune_func.trees import torch_version, tree_leaves

#: The oldest torch whose dynamo can read a step: older ones cannot trace optree.
DYNAMO = (2, 13)

#: Packages whose versions change what happens here.
PACKAGES = ("torch", "torchvision", "optree", "numpy", "triton")


class Check(NamedTuple):
    """One part of the self-check: what was compared, how far apart, and whether that is right."""

    what: str
    apart: float
    right: bool


def versions() -> Iterator[str]:
    """A line a package."""
    yield f"adatune_func {atf.__version__}"
    yield f"Python {platform.python_version()} on {platform.platform()}"
    for package in PACKAGES:
        try:
            yield f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"{package}: not installed"


def devices() -> Iterator[str]:
    """The devices, and who compiles a step there."""
    named = (os.environ.get("CXX"), "c++", "g++", "clang++", "cl")
    found = next((path for name in named if name and (path := shutil.which(name))), None)
    by = f"inductor with {found}" if found else "nobody: no C++ compiler is found, set CXX"
    yield f"cpu: {torch.get_num_threads()} threads; atf.jit compiles by {by}"
    for k in range(torch.cuda.device_count()):
        yield f"cuda:{k}: {torch.cuda.get_device_name(k)}; atf.jit compiles by inductor with triton"
    if not torch.cuda.is_available():
        yield "cuda: torch sees none"
    new = torch_version() >= DYNAMO
    oldest = ".".join(map(str, DYNAMO))
    can = "works" if new else f"needs torch {oldest}; atf.jit does not"
    yield f"torch.compile(tuner.step, fullgraph=True): {can}"


def tangents() -> Check:
    """The hypergradient of three steps of AdamW beside central differences of the whole run."""
    model, pairs = _problem(torch.device("cpu"), torch.float64)
    loss_fn, params, buffers = model
    report = atf.check_tangents(
        loss_fn, atf.adamw(eps=1e-4), params, {"lr": 0.01}, pairs, buffers=buffers
    )
    apart = report["lr"].relative_error
    return Check("the hypergradient beside differences of the run", apart, apart < 1e-4)


def jitted(device: torch.device, compiles: bool) -> Check:
    """Steps through ``jit`` beside steps in eager; only traced, or compiled by inductor, too."""
    model, pairs = _problem(device, torch.float32)
    loss_fn, params, buffers = model
    tuner = atf.marthe(loss_fn, atf.sgd(momentum=0.9))
    one = two = tuner.init(params, {"lr": 0.01}, buffers)
    step = atf.jit(tuner.step, backend="inductor" if compiles else as_it_is)
    for batch, val_batch in pairs:
        one, _ = tuner.step(one, batch, val_batch)
        two, _ = step(two, batch, val_batch)
    leaves = zip(tree_leaves(one), tree_leaves(two), strict=True)
    apart = max(float((a - b).abs().max() / (1 + a.abs().max())) for a, b in leaves)
    how = "compiled" if compiles else "traced"
    return Check(f"a step that atf.jit {how} beside eager, on {device}", apart, apart < 1e-4)


def as_it_is(graph: Any, _: Any) -> Any:
    """A backend that compiles nothing."""
    return graph


def _problem(device: torch.device, dtype: torch.dtype) -> tuple[atf.Functional, list[Any]]:
    random: Any = torch.random  # torch does not say what its functions take
    with random.fork_rng():
        random.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
        draws = [(torch.randn(12, 4), torch.randint(3, (12,))) for _ in range(6)]
    batches = [(x.to(device, dtype), y.to(device)) for x, y in draws]
    functional = atf.functionalize(model.to(device, dtype), F.cross_entropy)
    return functional, list(zip(batches[::2], batches[1::2], strict=True))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; 0 where all is right, else 1."""
    parser = argparse.ArgumentParser("python -m adatune_func", description="For bug reports.")
    parser.add_argument(
        "--compile", action="store_true", help="let torch's compiler take a step, too: minutes"
    )
    compiles = bool(parser.parse_args(argv).compile)
    for line in (*versions(), *devices()):
        print(line)
    began, wrong = time.perf_counter(), 0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for check in (tangents, lambda: jitted(device, compiles)):
        try:
            found = check()
        except Exception as error:  # whatever it is, the report goes on and shows it
            wrong += 1
            print(f"self-check FAILED: {type(error).__name__}: {error}")
            continue
        wrong += not found.right
        word = "right" if found.right else "WRONG"
        print(f"self-check {word}: {found.what}, {found.apart:.1e} apart")
    print(f"self-check took {time.perf_counter() - began:.1f} s")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
