"""Schedules against torch's own, for ints and for tensors, and at the restarts' boundaries."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, lr_scheduler

from adatune_func.schedules import (
    Schedule,
    constant,
    cosine,
    cosine_restarts,
    exponential,
    milestones,
    staircase,
    warm_up,
)

STEPS = 100

PAIRS: dict[str, tuple[Schedule, Callable[[SGD], lr_scheduler.LRScheduler]]] = {
    "constant": (constant(0.3), lambda sgd: lr_scheduler.ConstantLR(sgd, 1.0)),
    "staircase": (
        staircase(0.3, every=7, decay=0.6),
        lambda sgd: lr_scheduler.StepLR(sgd, 7, 0.6),
    ),
    "milestones": (
        milestones(0.3, at=(6, 12, 80), decay=0.1),
        lambda sgd: lr_scheduler.MultiStepLR(sgd, [6, 12, 80], 0.1),
    ),
    "exponential": (
        exponential(0.3, decay=0.97),
        lambda sgd: lr_scheduler.ExponentialLR(sgd, 0.97),
    ),
    "cosine": (
        cosine(0.3, steps=STEPS, final=0.01),
        lambda sgd: lr_scheduler.CosineAnnealingLR(sgd, STEPS, 0.01),
    ),
    **{
        f"cosine_restarts_{t_0}_{t_mult}": (
            cosine_restarts(0.3, t_0, t_mult, final=0.01),
            lambda sgd, t_0=t_0, t_mult=t_mult: lr_scheduler.CosineAnnealingWarmRestarts(
                sgd, t_0, t_mult, 0.01
            ),
        )
        for t_0, t_mult in [(1, 1), (10, 1), (1, 2), (10, 2), (7, 3), (5, 4)]
    },
    "warm_up": (
        warm_up(constant(0.3), steps=5),
        lambda sgd: lr_scheduler.LambdaLR(sgd, lambda step: min(1.0, (step + 1) / 5)),
    ),
}


def at(schedule: Schedule, step: Tensor) -> Tensor:
    lr = schedule(step)
    assert isinstance(lr, Tensor)
    return lr


@pytest.mark.parametrize("name", PAIRS)
def test_int_steps_equal_torch(name: str) -> None:
    schedule, build = PAIRS[name]
    sgd = SGD(nn.Linear(1, 1).parameters(), lr=0.3)
    reference = build(sgd)
    for step in range(STEPS + 1):
        lr = schedule(step)
        assert isinstance(lr, float)
        assert lr == pytest.approx(sgd.param_groups[0]["lr"], rel=0, abs=1e-12)
        sgd.step()
        reference.step()


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
@pytest.mark.parametrize("name", PAIRS)
def test_tensor_steps_equal_int_steps(name: str, dtype: torch.dtype) -> None:
    schedule, _ = PAIRS[name]
    accuracy = 1e-14 if dtype == torch.float64 else 1e-7
    for step in range(STEPS + 1):
        lr = at(schedule, torch.tensor(step, dtype=dtype))
        assert lr.shape == ()
        assert lr.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert lr.item() == pytest.approx(schedule(step), rel=0, abs=accuracy)


@pytest.mark.parametrize("t_mult", [1, 2, 3, 10])
@pytest.mark.parametrize("t_0", [1, 3, 352, 3520])
def test_restarts_fall_on_the_very_step(t_0: int, t_mult: int) -> None:
    """At each boundary below 2^24, where float32 steps end, and one step before and after it."""
    schedule = cosine_restarts(1.0, t_0, t_mult)
    start, length = 0, t_0
    while (start := start + length) < 2**24:
        for step in (start, torch.tensor(start), torch.tensor(float(start))):
            assert schedule(step) == 1.0
        if length > 1:
            assert 0 < schedule(start - 1) <= 0.5
        for step in (start - 1, start + 1):
            for tensor in (torch.tensor(step), torch.tensor(float(step))):
                assert at(schedule, tensor).item() == pytest.approx(schedule(step), abs=2e-6)
        length *= t_mult
        if start > 100 * t_0 and t_mult == 1:
            break


def test_a_long_exponential_is_as_exact_as_float32() -> None:
    schedule = exponential(0.1, decay=0.9999)
    for step in (10, 1000, 100_000):
        assert at(schedule, torch.tensor(step)).item() == pytest.approx(schedule(step), rel=2e-6)


def test_restarts_far_away_are_exact_for_ints() -> None:
    start = 10 * (2**50 - 1)
    assert cosine_restarts(1.0, 10, 2)(start) == 1.0
    assert cosine_restarts(1.0, 10, 2)(start - 1) < 1e-9


def test_cosine_stays_at_its_end() -> None:
    assert cosine(0.3, 10, final=0.02)(10) == pytest.approx(0.02, abs=1e-15)
    assert cosine(0.3, 10, final=0.02)(1000) == pytest.approx(0.02, abs=1e-15)
    assert at(cosine(0.3, 10, final=0.02), torch.tensor(1000)).item() == pytest.approx(0.02)


@pytest.mark.compiles
@pytest.mark.parametrize("name", PAIRS)
def test_every_schedule_compiles_to_one_graph_and_vmaps(name: str) -> None:
    schedule, _ = PAIRS[name]
    compiled = torch.compile(schedule, fullgraph=True, backend="aot_eager")
    steps = torch.arange(12)
    expected = torch.stack([at(schedule, step) for step in steps])
    torch.testing.assert_close(torch.stack([at(compiled, step) for step in steps]), expected)
    torch.testing.assert_close(torch.func.vmap(schedule)(steps), expected)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: constant(-0.1), "lr must be a finite number from 0 up, not -0.1"),
        (lambda: constant(float("nan")), "lr must be a finite number from 0 up, not nan"),
        (lambda: staircase(0.1, every=0, decay=0.1), "every must be a whole number from 1 up"),
        (lambda: staircase(0.1, every=5, decay=0.0), "decay must be positive, not 0.0"),
        (lambda: milestones(0.1, at=(5,), decay=-1.0), "decay must be positive, not -1.0"),
        (lambda: cosine(0.1, steps=0), "steps must be a whole number from 1 up, not 0"),
        (lambda: cosine(0.1, steps=5, final=-1.0), "final must be a finite number from 0 up"),
        (lambda: cosine_restarts(0.1, t_0=0), "t_0 must be a whole number from 1 up, not 0"),
        (lambda: cosine_restarts(0.1, t_0=5, t_mult=0), "t_mult must be a whole number"),
        (lambda: warm_up(constant(0.1), steps=0), "steps must be a whole number from 1 up"),
    ],
)
def test_errors_say_what_is_wrong(build: Callable[[], Schedule], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
