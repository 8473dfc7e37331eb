"""A script that compiles says so, if it takes long."""

from __future__ import annotations

import time

import pytest

from benchmarks.run.patience import LINE, announced


@pytest.mark.parametrize(("seconds", "said"), [(0.3, LINE + "\n"), (0.0, "")])
def test_only_a_first_call_that_takes_long_is_announced(seconds, said, capsys):
    calls = []

    def slow(x):
        time.sleep(seconds)
        calls.append(x)
        return x

    step = announced(slow, compiler=lambda fn: fn, after=0.1)
    assert [step(1), step(2)] == calls == [1, 2]
    time.sleep(0.15)  # nothing is left that speaks later
    assert capsys.readouterr().err == said


def test_what_fails_to_compile_is_not_announced_afterwards(capsys):
    def fails():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        announced(fails, compiler=lambda fn: fn, after=0.05)()
    time.sleep(0.1)
    assert capsys.readouterr().err == ""
