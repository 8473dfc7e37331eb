"""The sweep over torch's layers and losses: its tables are whole, its judge can tell."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.run import record
from benchmarks.studies import coverage
from benchmarks.studies.coverage_cases import LAYERS, LEFT_OUT, LOSSES
from benchmarks.studies.coverage_page import page

BY_NAME = {entry.name: entry for entry in [*LAYERS, *LOSSES]}

SAMPLE = [
    *("Linear(4, 3)", "Conv2d(4, 2, 3, stride=2, padding=1, bias=False)", "BatchNorm2d(4)"),
    *("LayerNorm(4) frozen", "GELU(approximate='tanh')", "Dropout(0.3)", "MaxPool2d(2)"),
    *("Embedding(7, 3, padding_idx=1)", "LSTM(4, 3)", "GRUCell(4, 3)"),
    *("MultiheadAttention(4, 2)", "TransformerEncoderLayer(4, 2, 6, 0.0)"),
    *("MSELoss()", "mse_loss(reduction='sum')", "huber_loss()", "SmoothL1Loss(beta=0.5)"),
    *("CrossEntropyLoss(label_smoothing=0.1)", "KLDivLoss(reduction='batchmean')"),
    *("BCEWithLogitsLoss()", "GaussianNLLLoss()"),
]


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_in_eager(name):
    assert coverage.outcome("eager", BY_NAME[name])["result"] == "right"


@pytest.mark.compiles
@pytest.mark.parametrize("name", ["LayerNorm(4) frozen", "mse_loss(reduction='sum')"])
def test_a_sample_compiled(name):
    assert coverage.outcome("compiled", BY_NAME[name])["result"] == "right"


@pytest.mark.acceptance
@pytest.mark.compiles
def test_nothing_is_unclear_or_wrong(tmp_path):
    """All of it, in some minutes."""
    path = tmp_path / "coverage.json"
    coverage.main(["--output", str(path)])
    rows = coverage.rows_of(path)
    assert [row for row in rows if row["result"] not in ("right", "refused")] == []


def built() -> set[str]:
    """Names of the classes that the entries are made of, before a first forward pass."""
    torch.manual_seed(0)
    modules = [entry.build() for entry in [*LAYERS, *LOSSES]]
    found = {m for top in modules if isinstance(top, nn.Module) for m in top.modules()}
    return {base.__name__ for m in found for base in type(m).__mro__}


@pytest.mark.filterwarnings("ignore")
def test_every_class_of_torch_nn_is_in_a_table():
    classes = {name for name, kind in vars(nn).items() if inspect.isclass(kind)}
    modules = {n for n in classes if issubclass(getattr(nn, n), nn.Module)}
    assert modules - built() - set(LEFT_OUT) == set()


def test_every_loss_function_is_in_the_table():
    functions = {name for name in dir(F) if name.endswith("_loss")}
    functions |= {"cross_entropy", "kl_div", "binary_cross_entropy"}
    functions |= {"binary_cross_entropy_with_logits"}
    named = {entry.name.partition("(")[0] for entry in LOSSES}
    assert functions - named == set()


def test_names_are_not_used_twice():
    assert len(BY_NAME) == len(LAYERS) + len(LOSSES)


class Bent(torch.autograd.Function):
    """A square whose derivative is that of a cube."""

    @staticmethod
    def forward(x):  # type: ignore[override]
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[override]
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        return 3 * grad * ctx.saved_tensors[0].detach() ** 2

    @staticmethod
    def jvp(ctx, tangent):  # type: ignore[override]
        return 2 * tangent * ctx.saved_tensors[0]


class Wrong(nn.Module):
    def forward(self, x):
        return Bent.apply(x)


def entry(kind):
    return coverage.Layer("", kind, lambda: (torch.randn(5, 4, dtype=torch.float64),))


def test_a_wrong_product_is_found():
    assert coverage.outcome("eager", entry(Wrong))["result"] == "wrong"


class Dies(nn.Module):
    def forward(self, x):
        import os

        os.abort()


class Says(nn.Module):
    def forward(self, x):
        raise ValueError("a sentence of another's")


def test_a_process_that_dies_is_wrong_and_the_study_goes_on():
    found = coverage.alone("eager", entry(Dies))
    assert (found["result"], found["says"]) == ("wrong", "process ended")
    found = coverage.alone("eager", entry(Says))
    assert (found["result"], found["says"]) == ("unclear", "ValueError: a sentence of another's")


def test_the_page_is_drawn_from_the_result():
    assert coverage.PAGE.read_text() == page(record.RESULTS / "coverage.json")
