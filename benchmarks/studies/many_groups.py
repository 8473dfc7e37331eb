"""A learning rate for each parameter: what does one shared product lose, and what does it save?

    python benchmarks/studies/many_groups.py --steps 80

Every strategy walks along the same training run (hyper-lr 0, SGD with momentum 0.9, each weight and
each bias a group of its own) on the same batches. Reported over the steps: the cosine of the vector
of hypergradients with the exact one, the share of groups whose sign is right, and the time of a
step. ``blocks`` is the K products ``P_k H Z_k``: curvature between groups dropped, nothing shared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import adatune_func as atf
from adatune_func import data
from adatune_func.networks import MLP, LeNet
from adatune_func.trees import Hvp, tree_leaves
from benchmarks.run import record

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: MLP((256, 128)),
    "lenet": lambda: LeNet((6, 16)),
}


def blocks(hvp: Hvp, hparams: dict[str, dict[str, float]]) -> Hvp:
    """K products, each cut to its group; here a group is one parameter."""
    column = {name: k for k, name in enumerate(sorted(hparams["lr"]))}

    def products(grad_fn: Any, params: Any, batch: Any, v: Any) -> Any:
        grads, hv, aux = hvp(grad_fn, params, batch, v)
        cut = {name: torch.zeros_like(rows) for name, rows in hv.items()}
        for name, rows in hv.items():
            cut[name][column[name]] = rows[column[name]]
        return grads, cut, aux

    return products


def walk(network: str, lr: float, mu: float, steps: int, strategy: str) -> tuple[Tensor, float]:
    """Hypergradients, shape (steps, K), and the median seconds of a step."""
    torch.manual_seed(0)
    loss_fn, params, buffers = atf.functionalize(NETWORKS[network](), F.cross_entropy)
    hparams = {"lr": dict.fromkeys(params, lr)}
    hvp = {
        "exact": atf.exact,
        "shared_product": atf.shared_product(atf.exact, hparams),
        "blocks": blocks(atf.exact, hparams),
        "no_curvature": atf.no_curvature,
    }[strategy]
    optimizer = atf.by_prefix(atf.sgd(momentum=0.9))
    tuner = atf.marthe(loss_fn, optimizer, mu=mu, hyper_update=atf.additive(0.0), hvp=hvp)
    state = tuner.init(params, hparams, buffers)
    digits = data.load("digits")
    batches = zip(
        data.train_batches(digits, 64, seed=0),
        data.validation_batches(digits, 64, seed=1),
        strict=True,
    )
    rows, seconds = [], []
    for batch, val_batch in islice(batches, steps):
        began = time.perf_counter()
        state, info = tuner.step(state, batch, val_batch)
        seconds.append(time.perf_counter() - began)
        rows.append(torch.stack(tree_leaves(info.hypergrads)))
    return torch.stack(rows), statistics.median(seconds)


def compare(network: str, lr: float, mu: float, steps: int) -> list[dict[str, Any]]:
    rows, exact = [], torch.zeros(())
    for strategy in ("exact", "shared_product", "blocks", "no_curvature"):
        h, seconds = walk(network, lr, mu, steps, strategy)
        exact = h if strategy == "exact" else exact
        cosine = F.cosine_similarity(h, exact, dim=1)
        rows.append(
            {
                "network": network,
                "groups": h.shape[1],
                "lr": lr,
                "mu": mu,
                "strategy": strategy,
                "cosine": float(cosine.median()),
                "cosine_10_percent": float(cosine.quantile(0.1)),
                "signs_right": float((h.sign() == exact.sign()).float().mean()),
                "norm_ratio": float((h.norm(dim=1) / exact.norm(dim=1)).median()),
                "milliseconds": 1e3 * seconds,
            }
        )
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--lrs", nargs="+", type=float, default=[0.002, 0.02, 0.1])
    parser.add_argument("--mus", nargs="+", type=float, default=[0.99])
    parser.add_argument("--steps", type=int, default=80)
    args = parser.parse_args(argv)
    keys = ("network", "lr", "mu", "strategy")
    for network in args.networks:
        for lr in args.lrs:
            for mu in args.mus:
                rows = compare(network, lr, mu, args.steps)
                run = record.provenance(vars(args))
                record.merge(record.RESULTS / "many_groups.json", rows, keys, run)
                print(record.table(rows, list(rows[0])), flush=True)


if __name__ == "__main__":
    main()
