"""A module and its tensors as a pure function of them."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.func import functional_call

from ..trees import Buffers, Params, is_compiling
from .bound import Attribute, bindable, check_carries_nothing, restore
from .copies import copied_module, named_buffers, named_params


class Part(NamedTuple):
    """A module's copy, and its tensors by the names that they have in the state."""

    module: nn.Module
    prefix: str
    params: dict[str, Tensor]
    buffers: Buffers  # frozen parameters, and what forward may move
    moving: frozenset[str]
    bindable: list[Attribute]
    checked: list[bool]  # whether forward was seen to carry nothing beside its buffers: eager only

    def call(
        self, params: Params, buffers: Buffers, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Buffers]:
        """Output, and buffers after the forward pass: nothing that was given is changed."""
        given = {**{n: params[n] for n in self.params}, **{n: buffers[n] for n in self.buffers}}
        # BatchNorm writes into its buffers: give it copies, so that the caller's stay as they are.
        cut = len(self.prefix)
        values = {n[cut:]: v.clone() if n in self.moving else v for n, v in given.items()}
        output = self._output(values, args, kwargs)
        # Where forward binds a buffer to another tensor, functional_call leaves that in values.
        return output, {n: values[n[cut:]] for n in self.buffers}

    def _output(
        self, values: dict[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if is_compiling() or not self.bindable:
            output = functional_call(self.module, values, args, kwargs)
            restore(self.bindable)
            return output
        again = {**values}
        try:
            output = functional_call(self.module, values, args, kwargs)
            if not self.checked:
                check_carries_nothing(
                    self.bindable, lambda: functional_call(self.module, again, args, kwargs)
                )
                self.checked.append(True)
        finally:
            restore(self.bindable)
        return output


def part_of(module: nn.Module, prefix: str, train: bool | None) -> Part:
    """Detached copies of all: a parameter without ``requires_grad`` is a buffer here."""
    copied = copied_module(module, train)
    trained = [prefix + name for name, p in named_params(module).items() if p.requires_grad]
    values = {prefix + name: p.detach().clone() for name, p in named_params(copied).items()}
    running = {prefix + name: b.detach().clone() for name, b in named_buffers(copied).items()}
    params = {name: values.pop(name) for name in trained}
    buffers = {**values, **running}
    return Part(copied, prefix, params, buffers, frozenset(running), bindable(copied), [])
