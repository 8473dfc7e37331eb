"""What was typed for 0.1.0 still works, and says what to type instead."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import adatune_func as atf
from adatune_func import renamed

CHANGELOG = (Path(__file__).parents[1] / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("name", renamed.MOVED)
def test_an_old_name_works_and_says_the_new_one(name):
    new = renamed.MOVED[name]
    with pytest.warns(DeprecationWarning, match=rf"adatune_func.{new} now") as warned:
        value = getattr(atf, name)
    assert warned[0].filename == __file__  # the line of who typed it
    room, last = new.split(".")
    assert value is getattr(getattr(atf, room), last)
    assert name not in atf.__all__ and f"`atf.{new}" in CHANGELOG


def test_an_old_constant_discounts():
    with pytest.warns(DeprecationWarning):
        discount = getattr(atf, "constant")(0.5)  # noqa: B009
    assert float(discount.init({"w": torch.ones(2)}, {}).mu) == 0.5


@pytest.mark.parametrize("name", renamed.GONE)
def test_what_is_gone_says_why(name):
    with pytest.raises(AttributeError, match=re.escape(renamed.GONE[name])):
        getattr(atf, name)
    assert name in CHANGELOG


def test_what_never_was():
    with pytest.raises(AttributeError, match="module 'adatune_func' has no attribute 'nothing'"):
        getattr(atf, "nothing")  # noqa: B009
    assert not hasattr(atf, "nothing")


@pytest.mark.parametrize("name", renamed.OF_ADATUNE)
def test_an_optimizer_of_adatune_says_what_it_is_here(name):
    new = renamed.OF_ADATUNE[name]
    with pytest.raises(AttributeError, match=re.escape(new)):
        getattr(atf, name)
    words = {"loss_fn": None, **vars(atf)}
    assert isinstance(eval(new, words), atf.Tuner)


def test_a_part_that_is_imported_by_itself():
    code = """
import pytest, adatune_func as atf
with pytest.raises(AttributeError, match="before `from adatune_func import data`"):
    atf.data
from adatune_func import data
assert atf.data is data
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_version_has_its_section():
    assert f"\n## [{atf.__version__}]" in CHANGELOG
