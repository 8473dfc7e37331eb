"""What a run carries from step to step: bytes a parameter, predicted and counted.

    python -m benchmarks.studies.memory

With s copies of the parameters in the optimizer's state and K tuned scalars, ``(1 + s)(1 + K)``
copies: Z is one of parameters and optimizer's state a column, whatever the ``hvp``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from adatune_func.trees import tree_leaves
from benchmarks.run import record

OUTPUT = record.RESULTS / "memory.json"
COPIES = {
    "sgd": (atf.sgd(momentum=0.9), 1),
    "adamw": (atf.adamw(), 2),
    "averaged adamw": (atf.averaged(atf.adamw()), 3),
}
TUNED = {0: {}, 1: {"lr": 1e-3}, 2: {"lr": 1e-3, "weight_decay": 1e-2}}


def main() -> None:
    loss_fn, params, buffers = atf.functionalize(nn.Linear(500, 500), F.cross_entropy)
    size, rows = sum(p.numel() for p in params.values()), []
    for name, (optimizer, copies) in COPIES.items():
        for columns, hparams in TUNED.items():
            state = atf.marthe(loss_fn, optimizer).init(params, hparams, buffers)
            counted = sum(x.numel() * x.element_size() for x in tree_leaves(state)) / size
            predicted = 4.0 * (1 + copies) * (1 + columns)
            rows.append(
                {"optimizer": name, "tuned": columns, "predicted": predicted, "counted": counted}
            )
    record.merge(OUTPUT, rows, ("optimizer", "tuned"), record.provenance({}))
    print(record.table(rows, ("optimizer", "tuned", "predicted", "counted")))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
