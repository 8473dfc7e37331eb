"""Does the start learning rate matter under HD? Baydin et al. 2018 (arXiv 1703.04782), Figure 2.

    python benchmarks/studies/baydin.py --data-root data

Logistic regression on MNIST, batch 128, HD with the additive rule, by SGD and by Adam, from start
lr 1e-6 ... 1e-1, beside the same lr held constant. Asked is how many iterations the whole training
loss takes to fall to a level. All starts run at once, as one vmapped step on the same batches.
Writes benchmarks/results/baydin.json and baydin.png.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import adatune_func as atf
from adatune_func import data
from adatune_func.trees import tree_map
from benchmarks.run import record

STARTS = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
#: Their hyper-learning-rates for logistic regression.
HYPER_LR = {"sgd": 1e-3, "adam": 1e-7}
LEVEL = 0.29  # training loss; Adam at a constant 1e-3 takes 800 iterations


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--every", type=int, default=100, help="steps between looks at the loss")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    mnist = data.load("mnist", args.data_root)
    rows = [
        row
        for seed in range(args.seeds)
        for optimizer in HYPER_LR
        for method in ("hd", "constant")
        for row in run(mnist, optimizer, method, seed, args.steps, args.every)
    ]
    path = record.RESULTS / "baydin.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {**record.provenance(vars(args)), "level": LEVEL, "rows": rows}
    path.write_text(json.dumps(result, indent=1) + "\n")
    draw(result, str(path.with_suffix(".png")))
    print(record.table(rows, ["optimizer", "method", "seed", "start", "iterations", "final_loss"]))


def run(
    mnist: data.ImageData, optimizer: str, method: str, seed: int, steps: int, every: int
) -> list[dict[str, Any]]:
    """One row a start: iterations until the whole training loss is at the level, or None."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    loss_fn, params, buffers = atf.functionalize(model, F.cross_entropy)
    pure = {"sgd": atf.sgd(), "adam": atf.adam()}[optimizer]
    beta = HYPER_LR[optimizer] if method == "hd" else 0.0
    tuner = atf.hd(loss_fn, pure, hyper_update=atf.additive(beta))
    states = [tuner.init(params, hparams={"lr": lr}, buffers=buffers) for lr in STARTS]
    state = tree_map(lambda *leaves: torch.stack(leaves), *states)
    step = torch.func.vmap(tuner.step, in_dims=(0, None))
    images = data.normalize(mnist.train.images, mnist.mean, mnist.std).flatten(1)
    look = partial(whole_loss, images, mnist.train.labels)
    losses, lrs = [look(state.params)], [state.hparams["lr"]]
    for t, batch in enumerate(data.train_batches(mnist, 128, seed=seed), 1):
        state, _ = step(state, batch)
        if t % every == 0:
            losses.append(look(state.params))
            lrs.append(state.hparams["lr"])
        if t == steps:
            break
    curves, lr_curves = torch.stack(losses).T, torch.stack(lrs).T
    return [
        {
            "optimizer": optimizer,
            "method": method,
            "seed": seed,
            "start": start,
            "iterations": next((i * every for i, x in enumerate(curve) if x <= LEVEL), None),
            "final_loss": curve[-1],
            "losses": curve[:: max(1, len(curve) // 30)],
            "lrs": lr[:: max(1, len(lr) // 30)],
        }
        for start, curve, lr in zip(STARTS, curves.tolist(), lr_curves.tolist(), strict=True)
    ]


def whole_loss(images: Tensor, labels: Tensor, params: dict[str, Tensor]) -> Tensor:
    """The loss on all (N, 784) images for each of the stacked parameters, shape (starts,)."""
    weights = zip(params["1.weight"], params["1.bias"], strict=True)
    return torch.stack([F.cross_entropy(F.linear(images, w, b), labels) for w, b in weights])


def draw(result: dict[str, Any], path: str) -> None:
    """Iterations to the level against start lr, a line a method, a panel an optimizer."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps = int(result["arguments"]["steps"])
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axes, optimizer in zip(panels, HYPER_LR, strict=True):
        for method, color in (("constant", "tab:gray"), ("hd", "tab:blue")):
            rows = [
                r for r in result["rows"] if (r["optimizer"], r["method"]) == (optimizer, method)
            ]
            for reached, marker in ((True, "o"), (False, "x")):
                some = [r for r in rows if (r["iterations"] is not None) == reached]
                label = f"{method}{'' if reached else ', not reached'}"
                y = [r["iterations"] or steps for r in some]
                axes.plot(
                    [r["start"] for r in some], y, marker, color=color, alpha=0.7, label=label
                )
        axes.set(xscale="log", yscale="log", title=optimizer, xlabel="start learning rate")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"iterations to training loss {result['level']}")
    panels[1].legend(frameon=False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
