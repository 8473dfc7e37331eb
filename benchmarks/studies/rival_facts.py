"""What README's comparison says of other optimizers, asked of their packages themselves.

    python -m benchmarks.studies.rival_facts      # writes results/rival_facts.json; a minute

Of a small network: how many numbers a parameter an optimizer keeps beyond AdamW's two, whether a
run that is saved and loaded goes on bit for bit, and in how many graphs torch.compile takes its
step. No timing: the machine does not matter.
"""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dadaptation
import prodigyopt
import schedulefree
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import adatune_func as atf
from adatune_func.trees import tree_leaves
from benchmarks.run import record

Make = Callable[[Any], Any]

#: The package of each, and how its own page makes it.
RIVALS: dict[str, tuple[str, Make]] = {
    "cosine": ("torch", lambda params: torch.optim.AdamW(params, lr=1e-3)),
    "schedule_free": ("schedulefree", lambda p: schedulefree.AdamWScheduleFree(p, lr=1e-3)),
    "prodigy": ("prodigyopt", prodigyopt.Prodigy),
    "d_adaptation": ("dadaptation", dadaptation.DAdaptAdam),
    "mechanic": (
        "mechanic-pytorch",
        lambda params: importlib.import_module("mechanic_pytorch").mechanize(torch.optim.AdamW)(
            params, lr=1.0
        ),
    ),
}
STEPS = 10


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 3))


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(16, 8, generator=generator),
            torch.randint(3, (16,), generator=generator),
        )
        for _ in range(2 * STEPS)
    ]


def train(model: nn.Module, optimizer: Any, pairs: list[tuple[Tensor, Tensor]]) -> None:
    if hasattr(optimizer, "train"):
        optimizer.train()
    for x, y in pairs:
        optimizer.zero_grad()
        with torch.enable_grad():  # a step that dynamo gave up on may have left it off
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from tensors(inner)


def same(one: nn.Module, other: nn.Module) -> bool:
    values = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in values)


def resumes(make: Make) -> str:
    """Whether ``state_dict`` of model and optimizer is all that a run is, or what is in the way."""
    whole, cut, pairs = network(), network(), batches()
    train(whole, make(whole.parameters()), pairs)
    optimizer = make(cut.parameters())
    train(cut, optimizer, pairs[:STEPS])
    saved = copy.deepcopy((cut.state_dict(), optimizer.state_dict()))
    fresh = network()
    fresh.load_state_dict(saved[0])
    optimizer = make(fresh.parameters())
    try:
        optimizer.load_state_dict(saved[1])
        train(fresh, optimizer, pairs[STEPS:])
    except (KeyError, RuntimeError) as error:
        return type(error).__name__
    return "bit for bit" if same(whole, fresh) else "not the same"


def graphs(make: Make) -> int | None:
    """How many graphs torch.compile makes of a later step; ``None`` where it raises."""
    import torch._dynamo as dynamo

    dynamo.reset()
    made: list[Any] = []

    def counting(graph: Any, inputs: Any) -> Any:
        made.append(graph)
        return graph

    model, pairs = network(), batches()
    optimizer = make(model.parameters())
    train(model, optimizer, pairs[:2])  # what is initialised at a first step is there
    optimizer.step = torch.compile(optimizer.step, backend=counting)
    try:
        train(model, optimizer, pairs[2:3])
    except Exception:  # dynamo's errors are of many kinds
        return None
    return len(made)


def facts(method: str) -> dict[str, Any]:
    package, make = RIVALS[method]
    model = network()
    optimizer = make(model.parameters())
    train(model, optimizer, batches())
    size = sum(p.numel() for p in model.parameters())
    kept = sum(t.numel() for t in tensors(dict(optimizer.state)))
    return {
        "method": method,
        "package": f"{package} {importlib.metadata.version(package)}",
        "kept_beside_adamw": round(kept / size - 2, 1),
        "resumes": resumes(make),
        "graphs": graphs(make),
    }


def ours(method: str) -> dict[str, Any]:
    """The recipe, or HD, with AdamW and one tuned number."""
    loss_fn, params, buffers = atf.functionalize(network(), F.cross_entropy)
    run = atf.recipe(loss_fn, atf.adamw(), 2 * STEPS)
    tuner = run.tuner if method == "recipe" else atf.hd(loss_fn, atf.adamw())
    step = run.step if method == "recipe" else atf.windowed(tuner, lambda t: True)
    begun = whole = cut = tuner.init(params, {"lr": 1e-3}, buffers)
    size = sum(leaf.numel() for leaf in tree_leaves(params))
    kept = sum(leaf.numel() for leaf in tree_leaves(begun)) / size - 3  # the parameters and AdamW's
    with tempfile.TemporaryDirectory() as folder:
        for t, batch in enumerate(batches()):
            if t == STEPS:
                atf.save(cut, Path(folder) / "run.pt")
                cut = atf.load(Path(folder) / "run.pt", begun)
            more = (batch,) if method == "recipe" else ()
            whole, _ = step(t, whole, batch, *more)
            cut, _ = step(t, cut, batch, *more)
    pairs = zip(tree_leaves(whole), tree_leaves(cut), strict=True)
    made = [atf.jit(tuner.step).graph(whole, *batches()[:2])]  # one, or jit raises
    return {
        "method": method,
        "package": f"adatune_func {atf.__version__}",
        "kept_beside_adamw": round(kept, 1),
        "resumes": "bit for bit" if all(torch.equal(a, b) for a, b in pairs) else "not the same",
        "graphs": len(made),
    }


def main() -> None:
    rows = [*map(ours, ("recipe", "hd")), *map(facts, RIVALS)]
    print(record.table(rows, list(rows[0])))
    run = record.provenance({"steps": STEPS})
    record.merge(record.RESULTS / "rival_facts.json", rows, ["method"], run)


if __name__ == "__main__":
    main()
