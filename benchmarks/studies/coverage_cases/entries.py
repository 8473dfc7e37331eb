"""How an entry of the table of layers is written: constructor, inputs, and how it is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Layer(NamedTuple):
    """``build()`` makes a module, ``inputs()`` what it is called with; both draw at random."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]


def spell(kind: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """``Conv2d(2, 3, padding=1)``, as one types it."""

    def word(value: Any) -> str:
        if isinstance(value, Tensor):
            return f"[{value.flatten()[0]:.2g}, ...]"
        return repr(value)

    given = [*map(word, args), *(f"{key}={word(value)}" for key, value in kwargs.items())]
    return f"{kind.__name__}({', '.join(given)})"


def layer(inputs: Any, kind: Any, *args: Any, **kwargs: Any) -> Layer:
    """``inputs`` is a shape, a list of shapes, or a function that draws them."""
    shapes = inputs if isinstance(inputs, list) else [inputs]

    def draw() -> tuple[Tensor, ...]:
        return tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)

    drawn: Any = inputs if callable(inputs) else draw
    return Layer(spell(kind, args, kwargs), lambda: kind(*args, **kwargs), drawn)


def each(inputs: Any, *kinds: Any) -> list[Layer]:
    """Several without arguments on the same inputs."""
    return [layer(inputs, kind) for kind in kinds]


def indices(*shape: int, beside: Any = ()) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randint(0, 7, shape), *map(torch.tensor, beside))


class Called(nn.Module):
    """A layer with keyword arguments of its call, or with what is done to its inputs first."""

    def __init__(self, inner: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.inner, self.call = inner, call

    def forward(self, *inputs: Tensor) -> Any:
        return self.call(self.inner, *inputs)


def called(words: str, entry: Layer, call: Callable[..., Any]) -> Layer:
    return Layer(f"{entry.name} {words}", lambda: Called(entry.build(), call), entry.inputs)


def after(words: str, entry: Layer, change: Callable[[nn.Module], Any]) -> Layer:
    """The module after ``change`` was done to it, in place."""

    def build() -> nn.Module:
        module = entry.build()
        change(module)
        return module

    return Layer(f"{entry.name} {words}", build, entry.inputs)


class Unpooled(nn.Module):
    """Max-pooling and its partial inverse."""

    def __init__(self, pool: nn.Module, unpool: nn.Module) -> None:
        super().__init__()
        self.pool, self.unpool = pool, unpool

    def forward(self, x: Tensor) -> Tensor:
        return self.unpool(*self.pool(x))


class Parameters(nn.Module):
    """The containers of bare parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = nn.ParameterList([torch.rand(4), torch.rand(4)])
        self.named = nn.ParameterDict({"scale": torch.rand(4)})
        self.modules_listed = nn.ModuleList([nn.Linear(4, 4), nn.Tanh()])
        self.modules_named = nn.ModuleDict({"last": nn.Linear(4, 2)})

    def forward(self, x: Tensor) -> Tensor:
        x = (x * self.listed[0]).sin() + self.listed[1] * self.named["scale"]
        for module in self.modules_listed:
            x = module(x)
        return self.modules_named["last"](x)


def unpooled(shape: Any, pool: Any, unpool: Any) -> Layer:
    return Layer(
        f"{pool.__name__}(2) and {unpool.__name__}(2)",
        lambda: Unpooled(pool(2, return_indices=True), unpool(2)),
        layer(shape, nn.Identity).inputs,
    )


def warmed(entry: Layer) -> Layer:
    """A lazy module after its first forward pass."""

    def build() -> nn.Module:
        module = entry.build().double()
        module(*entry.inputs())
        return module

    return Layer(f"{entry.name} after a forward pass", build, entry.inputs)


def packed(module: nn.Module, x: Tensor) -> Any:
    """A recurrent network over sequences of different lengths."""
    output, _ = module(nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 3, 1])))
    return nn.utils.rnn.pad_packed_sequence(output)[0]
