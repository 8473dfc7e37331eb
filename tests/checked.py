"""What the tests of check_tangents share: small problems, and a report's parts by name."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from tests.cases import Problem

LR = {"lr": 0.3}


def checked(problem: Problem, optimizer=None, hparams=None, **options):
    return atf.check_tangents(
        problem.loss_fn,
        optimizer or atf.sgd(momentum=0.9),
        problem.params,
        hparams or LR,
        problem.batches,
        buffers=problem.buffers,
        **options,
    )


def problem_of(module, criterion=F.cross_entropy, draw=None, steps=3, train=True):
    draw = draw or (lambda: (torch.randn(6, 5), torch.randint(3, (6,))))
    loss_fn, params, buffers = atf.functionalize(module, criterion, train=train)
    return Problem(loss_fn, params, buffers, [(draw(), draw()) for _ in range(steps)])


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def errors(check):
    return {part.part: part.relative_error for part in check.parts}


def named(check):
    """The part that each sentence names."""
    words = {"product": "the product", "optimizer": "the optimizer's", "buffers": "the buffers"}
    words["outer gradient"] = "the outer gradient"
    return [
        part for sentence in check.says for part, word in words.items() if word in sentence[:30]
    ]
