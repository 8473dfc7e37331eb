"""Ranks that each see their part of the batch are one process that sees all of it."""

from __future__ import annotations

import pytest
import torch

import adatune_func as atf
from adatune_func import replicas
from tests import replicated
from tests.cases import METHODS, start, tanh_mlp
from tests.ranks import on_ranks


@pytest.fixture(scope="module")
def two():
    """What each of two ranks finds."""
    return on_ranks(2, replicated.all_checks)


def limit(case):
    """Of equality: differences of gradients divide rounding by their step."""
    return 1e-6 if "difference" in case[2] else 1e-12


@pytest.mark.parametrize("case", replicated.CASES, ids=" ".join)
def test_two_ranks_are_one_process(two, case):
    assert max(rank["grid"][case] for rank in two) < limit(case)


def test_compiled_ranks_are_one_process(two):
    assert max(rank["compiled"] for rank in two) < 1e-12


def test_what_a_step_sends(two):
    """One collective a plain step, two a validated one, three where products are clipped."""
    sent = two[0]["counted"]
    params = sent.pop("parameters")
    statistics = 2 * 3  # of one BatchNorm
    flags = 2  # the loss, and whether a batch is tainted
    for method in (*METHODS, "plain"):
        assert sent[method, "train"] == [params + statistics + flags]
        columns = 0 if method == "plain" else 1
        outer = [] if method in ("plain", "hd", "adaptive_next_batch") else [params + flags]
        assert sent[method, "step"] == [(1 + columns) * params + statistics + flags, *outer]
    assert sent["clipped", "step"] == [params, 2 * params + statistics + flags, params + flags]
    assert sent["marthe", "graph"] == 2


def test_frozen_weights_are_not_sent(two):
    assert two[0]["frozen"] == [2 * 35 + 2] * 2


def test_a_fault_on_one_rank_is_a_null_step_on_all(two):
    """At the same steps, the state as it was, and the run goes on."""
    assert two[0]["poisoned"] == two[1]["poisoned"]
    accepted, sound = zip(*two[0]["poisoned"], strict=True)
    assert accepted == sound and sum(sound) == 15


def test_states_are_bit_equal_after_200_steps(two):
    assert two[0]["long"] == two[1]["long"] and two[0]["long"][0] > 0.1


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("equal", "nothing"),
        ("differs", "z.params['0.bias'] on rank 1 is not what it is on rank 0"),
        ("odd", "a multiple of 2 of them, found 5"),
        ("no tensor", "found int"),
        ("not called", "mean=replicas.mean() is to be called"),
    ],
)
def test_words(two, what, words):
    assert all(words in rank["said"][what] for rank in two)


def test_one_process_by_itself_pays_nothing():
    assert replicas.mean() is replicas.alone
    batch = torch.zeros(3)
    assert replicas.part(batch) is batch
    replicas.check(batch)


def test_ranks_that_do_not_know_each_other(monkeypatch):
    """Without the error each of them would train a run of its own."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="init_process_group"):
        replicas.mean()


def test_mean_has_to_be_a_function():
    problem, odd = tanh_mlp(steps=1), 2
    for tuner in (
        atf.rtho(problem.loss_fn, atf.sgd(), mean=odd),
        atf.plain(problem.loss_fn, atf.sgd(), mean=odd),  # pyright: ignore[reportArgumentType]
    ):
        with pytest.raises(TypeError, match=r"mean must be replicas.mean\(\), got int"):
            start(problem, tuner, {"lr": 0.1})


CHANGES = {
    "the sign of a zero": lambda x: x[1].neg_(),
    "another order": lambda x: x.copy_(x.flip(0)),
    "NaN": lambda x: x[2].fill_(torch.nan),
    "one bit": lambda x: x.mul_(1 + 2 * torch.finfo(x.dtype).eps),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.complex64])
def test_the_hash_sees_any_change(change, dtype):
    tree = {"x": torch.tensor([1, 0, 2, 3], dtype=dtype), "flag": torch.tensor(True)}
    before = replicas._hashes(tree)
    change(tree["x"])
    after = replicas._hashes(tree)
    assert [name for name in before if before[name] != after[name]] == ["['x']"]
