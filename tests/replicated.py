"""What each rank runs for the tests of replicas: the same steps as one process, and faults."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import adatune_func as atf
from adatune_func import replicas
from adatune_func.trees import tree_leaves, tree_map
from tests.cases import HVPS, METHODS, OPTIMIZERS, PROBLEMS, Problem, conv_batchnorm, tanh_mlp

EXACT = "forward_over_reverse"

Build = Callable[..., atf.Tuner]
Case = tuple[str, str, str, str]  # method, optimizer, hvp, problem


def built(method: str, optimizer: str, hvp: str) -> Build:
    """``build(loss_fn, mean)`` of a tuner from the lists of ``cases``."""

    def build(loss_fn: Any, mean: Any) -> atf.Tuner:
        if method == "plain":
            return atf.plain(loss_fn, OPTIMIZERS[optimizer], mean=mean)
        return METHODS[method](loss_fn, OPTIMIZERS[optimizer], HVPS[hvp], mean=mean)

    return build


def by_parts(loss_fn: atf.ModelLoss, count: int) -> atf.ModelLoss:
    """One process's loss that normalises as ``count`` ranks do, for BatchNorm."""

    def model_fn(params: Any, buffers: Any, batch: Any) -> Any:
        parts = [tree_map(lambda x, r=r: x[r::count], batch) for r in range(count)]
        outputs, moved = zip(*(loss_fn.model_fn(params, buffers, p) for p in parts), strict=True)

        def mean(*leaves: torch.Tensor) -> torch.Tensor:
            return torch.stack(leaves).mean(0) if leaves[0].is_floating_point() else leaves[0]

        return torch.stack(outputs, 1).flatten(0, 1), tree_map(mean, *moved)

    return loss_fn._replace(model_fn=model_fn)


def off_by(got: Any, want: Any) -> float:
    """The largest difference of two trees, relative to each leaf's size where that is above 1."""
    worst = 0.0
    for a, b in zip(tree_leaves(got), tree_leaves(want), strict=True):
        scale = max(1.0, float(b.double().abs().max())) if b.numel() else 1.0
        worst = max(worst, float((a.double() - b.double()).abs().max()) / scale if b.numel() else 0)
    return worst


def apart(
    build: Build,
    problem: Problem,
    *,
    only_train: Callable[[int], bool] = lambda t: False,
    wrap: Callable[[Any], Any] = lambda fn: fn,
) -> float:
    """How far ranks are, in what each step shows and leaves, from one process with whole batches.

    The first rank is that process, too; the others' states are compared with its own, bit for bit.
    """
    count, first = dist.get_world_size(), dist.get_rank() == 0
    has_norm = any("running_mean" in name for name in problem.buffers)
    reference = by_parts(problem.loss_fn, count) if has_norm else problem.loss_fn
    whole, ours = build(reference, replicas.alone), build(problem.loss_fn, replicas.mean())
    want, got = (
        tuner.init(problem.params, {"lr": 0.05}, problem.buffers) for tuner in (whole, ours)
    )
    step, train, worst = wrap(ours.step), wrap(ours.train), 0.0
    for t, batches in enumerate(problem.batches):
        tuned, (batch, val_batch) = not only_train(t), replicas.part(batches)
        got, info = step(got, batch, val_batch) if tuned else train(got, batch)
        if first:
            want, seen = whole.step(want, *batches) if tuned else whole.train(want, batches[0])
            worst = max(worst, off_by(info, seen))
    replicas.check(got)
    if first:
        assert off_by(want.params, problem.params) > 1e-3  # it trains
        worst = max(worst, off_by(got, want))
    return worst


def grid(cases: list[Case], steps: int = 5) -> dict[Case, float]:
    """``apart`` for each (method, optimizer, hvp, problem)."""
    return {case: apart(built(*case[:3]), PROBLEMS[case[3]](steps=steps)) for case in cases}


def jitted(fn: Any) -> Any:
    return atf.jit(fn, backend="aot_eager")


def compiled() -> float:
    """The same through one flat graph each, the collectives in it; every third step only trains."""
    build = built("marthe", "adamw", EXACT)
    return apart(build, conv_batchnorm(steps=4), only_train=lambda t: t % 3 == 0, wrap=jitted)


class Sent(TorchDispatchMode):
    """The number of elements of each collective."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "all_reduce" in str(func):
            self.sizes.append(args[0].numel())
        return func(*args, **(kwargs or {}))


def counted() -> dict[Any, Any]:
    """What steps send, eager: the size of each collective; and how many are in a graph."""
    problem, sizes = conv_batchnorm(steps=1), {}
    batch, val_batch = replicas.part(problem.batches[0])
    builds = {name: built(name, "sgd_momentum", EXACT) for name in (*METHODS, "plain")}
    builds["clipped"] = built("marthe", "sgd_momentum", "accumulated")
    for name, build in builds.items():
        tuner = build(problem.loss_fn, replicas.mean())
        state = tuner.init(problem.params, {"lr": 0.05}, problem.buffers)
        with Sent() as sent:
            tuner.step(state, batch, val_batch)
        with Sent() as sent_plain:
            tuner.train(state, batch)
        sizes[name, "step"], sizes[name, "train"] = sent.sizes, sent_plain.sizes
        if name == "marthe":
            nodes = atf.jit(tuner.step).graph(state, batch, val_batch).graph.nodes
            sizes[name, "graph"] = sum("all_reduce" in str(n.target) for n in nodes)
    sizes["parameters"] = sum(p.numel() for p in problem.params.values())
    return sizes


def frozen() -> list[int]:
    """What a step sends of a model whose first layer, of 42 numbers, is frozen."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 5)).requires_grad_(False)
    module[1].requires_grad_(True)
    loss_fn, params, buffers = atf.functionalize(module, F.cross_entropy)
    sizes = []
    for hvp in (atf.exact, atf.reverse_over_reverse):
        tuner = atf.hd(loss_fn, atf.sgd(), hvp=hvp, mean=replicas.mean())
        state = tuner.init(params, {"lr": 0.1}, buffers)
        with Sent() as sent:
            tuner.step(state, (torch.randn(4, 6), torch.randint(0, 5, (4,))))
        sizes += sent.sizes
    return sizes


def poisoned(steps: int = 20, faults: int = 5) -> list[tuple[bool, bool]]:
    """``(accepted, sound)`` by step: one rank's batch or validation batch has NaN or inf."""
    draw = random.Random(1)
    spoilt = {t: draw.randrange(dist.get_world_size()) for t in draw.sample(range(steps), faults)}
    problem = conv_batchnorm(steps=steps, dtype=torch.float32)
    tuner = atf.marthe(problem.loss_fn, atf.adamw(), mean=replicas.mean())
    state = tuner.init(problem.params, {"lr": 1e-3}, problem.buffers)
    seen = []
    for t, batches in enumerate(problem.batches):
        parts = [list(pair) for pair in replicas.part(batches)]
        if spoilt.get(t) == dist.get_rank():
            which, what = draw.randrange(2), draw.choice([torch.nan, torch.inf])
            parts[which][0] = parts[which][0] * what
        before = state
        state, info = tuner.step(state, *map(tuple, parts))
        seen.append((bool(info.accepted), t not in spoilt))
        if not info.accepted:
            assert off_by(state, before) == 0
    replicas.check(state)
    return seen


def long_run(wrap: Callable[[Any], Any] = lambda fn: fn, steps: int = 200) -> tuple[float, str]:
    """200 steps in float32 with dropout of its own on each rank, then equal bit for bit.

    How far the parameters went, and a hash of the state.
    """
    torch.manual_seed(7)
    module = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 5)
    )
    loss_fn, params, buffers = atf.functionalize(module, F.cross_entropy)
    tuner = atf.marthe(
        loss_fn,
        atf.clip_grad_norm(atf.adamw(), 1.0),
        mean=replicas.mean(),
        bound=atf.begin_again(),
    )
    state = tuner.init(params, {"lr": 1e-3, "weight_decay": 1e-2}, buffers)
    torch.manual_seed(100 + dist.get_rank())  # other data and other dropout
    step = atf.windowed(tuner, atf.windows(10, 5, 30), wrap)
    for t in range(steps):
        x, y = torch.randn(2, 16, 6), torch.randint(0, 5, (2, 16))
        state, _ = step(t, state, (x[0], y[0]), (x[1], y[1]))
    replicas.check(state)
    bits = b"".join(leaf.numpy().tobytes() for leaf in tree_leaves(state))
    return off_by(state.params, params), hashlib.sha256(bits).hexdigest()


@contextmanager
def words(found: dict[str, str], name: str) -> Iterator[None]:
    """What an error says."""
    try:
        yield
        found[name] = "nothing"
    except (RuntimeError, TypeError, ValueError) as error:
        found[name] = f"{type(error).__name__}: {error}"


def said() -> dict[str, str]:
    """What is wrong on one rank only, or with a call, and the words for it."""
    problem, found = tanh_mlp(steps=1), {}
    tuner = atf.rtho(problem.loss_fn, atf.sgd(), mean=replicas.mean())
    state = tuner.init(problem.params, {"lr": 0.1})
    with words(found, "equal"):
        replicas.check(state)
    apart = state._replace(z=state.z._replace(params=dict(state.z.params)))
    if dist.get_rank() == 1:
        apart.z.params["0.bias"] = torch.nextafter(apart.z.params["0.bias"], torch.tensor(1.0))
    with words(found, "differs"):
        replicas.check(apart)
    with words(found, "odd"):
        replicas.part(torch.zeros(5, 2))
    with words(found, "no tensor"):
        replicas.part({"x": torch.zeros(4), "n": 3})
    with words(found, "not called"):
        mean: Any = replicas.mean
        uncalled = atf.rtho(problem.loss_fn, atf.sgd(), mean=mean)
        uncalled.step(state, *problem.batches[0])
    return found


def of_methods() -> list[Case]:
    """Each method with SGD and AdamW."""
    opts = ("sgd_momentum", "adamw")
    return [(method, opt, EXACT, "tanh_mlp") for method in METHODS for opt in opts]


#: A sample of ``replicas_grid``: clipping, accumulation and BatchNorm are in it.
CASES: list[Case] = [
    *of_methods()[::2],
    ("marthe", "adamw", EXACT, "tanh_mlp"),
    *(("marthe", "sgd_momentum", hvp, "tanh_mlp") for hvp in HVPS if hvp != EXACT),
    ("marthe_relative", "clipped", "accumulated", "conv_batchnorm"),
    ("plain", "adamw", "no_curvature", "conv_batchnorm"),
]


def all_checks() -> dict[str, Any]:
    """All that ``make test`` looks at, in one life of two processes."""
    checks: dict[str, Callable[[], Any]] = {
        "grid": lambda: grid(CASES),
        "compiled": compiled,
        "counted": counted,
        "frozen": frozen,
        "poisoned": poisoned,
        "long": long_run,
        "said": said,
    }
    return {name: check() for name, check in checks.items()}
