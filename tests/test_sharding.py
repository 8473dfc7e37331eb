"""Ranks that each keep a part of the optimizer's state are ranks that each keep all of it."""

from __future__ import annotations

import pytest

import adatune_func as atf
from tests import sharded
from tests.ranks import on_ranks


@pytest.fixture(scope="module")
def two():
    return on_ranks(2, sharded.all_checks)


@pytest.mark.parametrize("name", [*sharded.STACKS, "jit"])
def test_a_part_on_each_rank_is_all_on_each_rank(two, name):
    """States, made whole again, and all that is shown: over windows, two scalars, null traces."""
    for rank in two:
        assert rank[name]["off"] < 1e-12 and rank[name]["again"] == 0


@pytest.mark.parametrize(("name", "copies"), [("sgd", 1), ("adamw", 2), ("in the recipe", 3)])
def test_bytes(two, name, copies):
    """Of 1 + s copies, and as many for each tuned scalar, half of what the optimizer remembers."""
    spread = 2 if name == "in the recipe" else copies  # its average is whole
    want = (1 + copies - spread / 2) / (1 + copies)
    assert two[0][name]["bytes"] == pytest.approx(want, rel=0.05)  # buffers, padding, counters


@pytest.mark.parametrize("how", ["eager", "jit"])
def test_a_fault_in_one_part_is_seen_by_all(two, how):
    """A state that is not finite makes null steps; a tangent that is not begins again, alone."""
    for rank in two:
        assert rank["poisoned"]["state", how] == [False] * 6
        assert rank["poisoned"]["tangent", how] == [True, True, False, True, False, False]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("muon", "moves each number by itself"),
        ("norm", "put what looks at all of them around it"),
        ("large norm, adam", "put what looks at all of them around it"),
        ("average", "write averaged(sharded(...))"),
        ("by name", "nothing"),
    ],
)
def test_words(two, what, words):
    assert all(words in rank["said"][what] for rank in two)


def test_in_one_process_it_is_the_optimizer():
    optimizer = atf.adamw()
    assert atf.sharded(optimizer) is optimizer
