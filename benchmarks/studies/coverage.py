"""Every layer and every loss of torch: is the product exact, and does the compiler keep it?

    python -m benchmarks.studies.coverage --jobs 2
    python -m benchmarks.studies.coverage --only LSTM --modes eager

Each entry of ``coverage_cases`` is a problem in float64. Its inputs are multiplied by weights of
their own, so that they move as a layer's inputs do. In eager the gradient and the buffers are
compared with torch's own backward pass, the exact product with central differences of the gradient.
Compiled, two steps of a tuner are compared with the same two in eager. The outcome of each is

    right     all numbers agree
    refused   the package raises an error in its own words
    unclear   any other error
    wrong     numbers that do not agree, or the process ended

Each runs in a process of its own, so that one that dies takes nothing with it. Where a number is
off, other points are tried: a kink may lie between the two ends of a difference.
"""

from __future__ import annotations

import argparse
import functools
import json
import linecache
import multiprocessing
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import adatune_func as atf
from adatune_func.curvature import Gradient
from adatune_func.trees import Batch, norm, tree_map
from benchmarks.run import record
from benchmarks.studies.coverage_cases import LAYERS, LOSSES, Layer, Loss
from benchmarks.studies.coverage_page import page

TABLES: dict[str, Sequence[Layer | Loss]] = {"layer": LAYERS, "loss": LOSSES}
PAGE = Path(__file__).parents[2] / "docs" / "coverage.md"
SEEDS = (0, 1, 2)
#: torch's own hardsigmoid has 1/6 in single precision: its gradients are off by 3e-8
ROOT = Path(__file__).parents[2]

#: torch's own gradient of these is only so near: the kernel's slope is not 1/6 to all digits.
ALLOWED = {name: {"gradient": 1e-7} for name in ("Hardsigmoid()", "hardsigmoid()")}

TOLERANCE = {"gradient": 1e-9, "buffers": 1e-9, "product": 1e-6, "compiled": 1e-8}


def compiled(step: Callable[..., Any]) -> Callable[..., Any]:
    """What compiles a step: tracing as for inductor, without its code generation."""
    return atf.jit(step, backend="aot_eager")


class Problem(NamedTuple):
    module: nn.Module
    criterion: Callable[..., Tensor]
    batch: Batch


class Moved(nn.Module):
    """``inner`` behind weights of its own, one an input: its inputs move, as inside a network."""

    def __init__(self, inner: Callable[..., Any], inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.inner = inner
        self.scales = nn.ParameterList(
            [0.5 + torch.rand_like(x) for x in inputs if x.is_floating_point()]
        )

    def forward(self, *inputs: Tensor) -> Any:
        scales = iter(self.scales)
        return self.inner(*(x * next(scales) if x.is_floating_point() else x for x in inputs))


def bent(output: Any, target: Tensor) -> Tensor:
    """A smooth loss of any output, with curvature in each direction."""
    leaves = [
        x for x in pytree.tree_leaves(output) if isinstance(x, Tensor) and x.is_floating_point()
    ]
    flat = torch.cat([x.reshape(-1) for x in leaves])
    ramp = torch.linspace(0.5, 1.5, len(flat), dtype=flat.dtype)
    return ((flat - target) * ramp).sin().mean()


def problem_of(entry: Layer | Loss, seed: int) -> Problem:
    torch.manual_seed(seed)
    if isinstance(entry, Layer):
        inputs = entry.inputs()
        module = Moved(entry.build().double(), inputs).double()
        return Problem(module, bent, (*inputs, torch.randn((), dtype=torch.float64)))
    criterion = entry.build()
    if isinstance(criterion, nn.Module):
        criterion = criterion.double()
    x = torch.randn(entry.shape, dtype=torch.float64)
    called = functools.partial(entry.call, criterion) if entry.call else criterion
    return Problem(Moved(entry.model, [x]).double(), called, (x, entry.target()))


def relative(found: Any, right: Any, scale: Any) -> float:
    """``‖found - right‖ / (‖right‖ + ‖scale‖ / 1000)``: a product may be 0, a gradient is not."""
    apart = tree_map(torch.sub, found, right)
    return float(norm(apart) / (norm(right) + 1e-3 * norm(scale)).clamp(min=1e-30))


def plain(problem: Problem, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradient and buffers as an ordinary loop of torch has them."""
    module, criterion, (*inputs, target) = problem
    weights = {n: p for n, p in module.named_parameters() if p.requires_grad}
    if isinstance(criterion, nn.Module):
        weights |= {f"criterion.{n}": p for n, p in criterion.named_parameters()}
    torch.manual_seed(seed)
    loss = criterion(module(*inputs), target)
    grads = torch.autograd.grad(
        loss, list(weights.values()), allow_unused=True, materialize_grads=True
    )
    dense = [g.to_dense() if g.is_sparse else g for g in grads]
    return dict(zip(weights, dense, strict=True)), dict(module.named_buffers())


def eager_errors(entry: Layer | Loss, seed: int) -> dict[str, float]:
    """The relative errors of gradient, buffers and product."""
    module, criterion, batch = problem_of(entry, seed)
    loss_fn, params, buffers = atf.functionalize(module, criterion)
    grad_fn = Gradient(loss_fn, buffers)
    v = tree_map(torch.randn_like, params)

    def gradient(step: float) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return grad_fn(tree_map(lambda w, d: w + step * d, params, v), batch)[0]

    torch.manual_seed(seed)
    grads, products, (_, moved) = atf.exact(grad_fn, params, batch, tree_map(lambda d: d[None], v))
    ends = [gradient(s * 1e-5) for s in (1, -1)]
    difference = tree_map(lambda a, b: (a - b) / 2e-5, *ends)
    right, right_buffers = plain(problem_of(entry, seed), seed)
    if right.keys() != grads.keys():
        return {"gradient": float("nan")}
    kept = {n: moved[n].double() for n in right_buffers}
    right_buffers = {n: b.double() for n, b in right_buffers.items()}
    return {
        "gradient": relative(grads, right, right),
        "buffers": relative(kept, right_buffers, right_buffers) if kept else 0.0,
        "product": relative(tree_map(lambda h: h[0], products), difference, grads),
    }


def compiled_errors(entry: Layer | Loss, seed: int) -> dict[str, float]:
    """How far two compiled steps lead from the same two in eager."""
    module, criterion, batch = problem_of(entry, seed)
    loss_fn, params, buffers = atf.functionalize(module, criterion)
    tuner = atf.rtho(
        loss_fn, atf.sgd(momentum=0.9), outer="next_batch", hyper_update=atf.additive(1e-6)
    )
    ends = []
    for step in (tuner.step, compiled(tuner.step)):
        torch.manual_seed(seed)
        state = tuner.init(params, {"lr": 1e-2}, buffers)
        for _ in range(2):
            state, info = step(state, batch)
            if not info.accepted:
                return {"compiled": float("nan")}
        ends.append((state.params, state.z, state.buffers))
    eager, found = ends
    return {"compiled": relative(found, eager, eager)}


MODES = {"eager": eager_errors, "compiled": compiled_errors}


def outcome(mode: str, entry: Layer | Loss) -> dict[str, Any]:
    """``result``, and the largest error or the first sentence of what was said."""
    found: dict[str, Any] = {}
    for seed in SEEDS:
        try:
            errors = MODES[mode](entry, seed)
        except Exception as error:
            says = str(error).strip().partition("\n")[0].replace(f"{ROOT}/", "")[:200]
            kind = "refused" if in_our_words(error) else "unclear"
            return {"result": kind, "says": f"{type(error).__name__}: {says}"}
        allowed = {**TOLERANCE, **ALLOWED.get(entry.name, {})}
        off = {name: e for name, e in errors.items() if not e <= allowed[name]}
        found = {"result": "right", "error": max(errors.values())}
        if not off:
            return found
        said = ", ".join(f"{name} off by {e:.2g}" for name, e in off.items())
        found = {"result": "wrong", "says": said}
    return found


def in_our_words(error: BaseException) -> bool:
    """Whether the error comes from a ``raise`` of the package, rather than through it."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    if trace is None:
        return False
    path = trace.tb_frame.f_code.co_filename
    line = linecache.getline(path, trace.tb_lineno).strip()
    return Path(path).is_relative_to(Path(atf.__file__).parent) and line.startswith("raise")


def alone(mode: str, entry: Layer | Loss, limit: float = 120.0) -> dict[str, Any]:
    """:func:`outcome` in a process of its own."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)
    child = fork.Process(target=lambda: there.send(outcome(mode, entry)))
    began = time.perf_counter()
    child.start()
    there.close()
    try:
        found = here.recv() if here.poll(limit) else {"result": "wrong", "says": "no end"}
    except EOFError:
        found = {"result": "wrong", "says": "process ended"}
    child.kill()
    child.join()
    return {**found, "seconds": round(time.perf_counter() - began, 2)}


Key = tuple[str, str, str]


def rows(
    wanted: Callable[[Key], bool], modes: Sequence[str], jobs: int
) -> Iterator[dict[str, Any]]:
    tasks = [
        (table, entry, mode)
        for mode in modes
        for table, entries in TABLES.items()
        for entry in entries
        if wanted((table, entry.name, mode))
    ]
    with ThreadPoolExecutor(jobs) as pool:
        found = pool.map(lambda task: alone(task[2], task[1]), tasks)
        for (table, entry, mode), result in zip(tasks, found, strict=True):
            yield {"table": table, "name": entry.name, "mode": mode, **result}


def rows_of(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["rows"]


def key(row: Mapping[str, Any]) -> Key:
    return row["table"], row["name"], row["mode"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="part of the names to run")
    parser.add_argument(
        "--again", action="store_true", help="only what is not right in the output as it is"
    )
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--output", type=Path, default=record.RESULTS / "coverage.json")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torch has something to say of many a layer
    for mode in args.modes:  # what torch imports at a first use, the children have then
        outcome(mode, LAYERS[0])
    known = rows_of(args.output) if args.again and args.output.exists() else []
    right = {key(row) for row in known if row["result"] == "right"}
    found = []
    try:
        for row in rows(
            lambda k: k[0] in args.tables and args.only in k[1] and k not in right,
            *(args.modes, args.jobs),
        ):
            found.append(row)
            if row["result"] != "right":
                print(row, flush=True)
    finally:  # stopped by hand, it keeps what it has
        record.merge(args.output, found, ("table", "name", "mode"), record.provenance(vars(args)))
    if args.output == record.RESULTS / "coverage.json":
        record.write(PAGE, page(args.output))


if __name__ == "__main__":
    main()
