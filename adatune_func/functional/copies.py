"""A copy of a module that owes nothing to the one it was taken from."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..trees import is_a
from .bound import submodules
from .reached import holder_of

#: A submodule that ``torch.compile`` wrapped answers to this name inside its wrapper.
_WRAPPED = "_orig_mod"


def copied_module(module: nn.Module, train: bool | None) -> nn.Module:
    """A deep copy in the given mode, as eager code, its parameters without ``requires_grad``.

    What the module keeps of an earlier forward pass (activations, the weight that an old-style
    ``weight_norm`` or pruning computes) is no leaf, which ``deepcopy`` refuses: it goes as numbers.

    Raises:
        TypeError: for a module that ``torch.func`` cannot call.
        ValueError: for one that is lazy still, writes into its parameters, or has a hook that
            would go on writing into the original.
    """
    _refuse_what_cannot_be_called(module)
    _refuse_hooks_on_the_original(module)
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in _computed(module, set())}
    copied = _eager(copy.deepcopy(module, memo))
    return (copied if train is None else copied.train(train)).requires_grad_(False)


def named_params(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by name; a wrapper of ``torch.compile`` leaves no trace in the names."""
    return {_bare(name): p for name, p in module.named_parameters()}


def named_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Buffers by name, those that are not saved included."""
    return {_bare(name): b for name, b in module.named_buffers()}


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != _WRAPPED)


def _eager(module: nn.Module) -> nn.Module:
    """``module`` without the wrappers of ``torch.compile``: a compiled step compiles all of it."""
    if _WRAPPED in dict(module.named_children()):
        return _eager(getattr(module, _WRAPPED))
    for name, child in module.named_children():
        setattr(module, name, _eager(child))
    return module


def _refuse_what_cannot_be_called(module: nn.Module) -> None:
    if not is_a(module, nn.Module):
        raise TypeError(f"module must be an nn.Module, got {type(module).__name__}")
    for name, part in submodules(module):
        where = f"the module's {name} is" if name else "the module is"
        if is_a(part, torch.jit.ScriptModule):
            raise TypeError(
                f"{where} a ScriptModule, which torch.func cannot call: give the nn.Module it "
                "was made from"
            )
        if is_a(part, nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise TypeError(
                f"{where} wrapped in {type(part).__name__}, which torch.func cannot call: give "
                "what it wraps, model.module"
            )
        if is_a(part, nn.Embedding | nn.EmbeddingBag) and part.max_norm is not None:
            raise ValueError(
                f"{where} an {type(part).__name__} with max_norm, which writes into its weight "
                "while it is looked up: set its max_norm to None and scale what it returns, "
                "e * (max_norm / e.norm(dim=-1, keepdim=True)).clamp(max=1)"
            )
    lazy = [name for name, p in (*module.named_parameters(), *module.named_buffers()) if is_lazy(p)]
    if lazy:
        raise ValueError(
            f"{', '.join(lazy[:3])} has no shape yet: call the lazy module on a batch once, then "
            "functionalize it"
        )


def _refuse_hooks_on_the_original(module: nn.Module) -> None:
    for name, part in submodules(module):
        hooks = (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
        for hook in hooks:
            holder = None if is_a(hook, MethodType) else holder_of(hook, module)
            if holder is not None:
                raise ValueError(
                    f"a forward hook of {name or 'the module'} holds the module (as {holder}), of "
                    "which a copy is trained: make the hook a method, "
                    "register_forward_hook(self.keep), which the copy takes along"
                )


def _computed(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """The tensors that ``value`` holds and autograd has computed."""
    if id(value) in seen or is_a(value, type):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        if not value.is_leaf:
            yield value
        return
    if isinstance(value, MethodType):
        inside: Any = [value.__self__]
    elif is_a(value, Mapping):
        inside = list(value.values())
    elif is_a(value, list | tuple | set):
        inside = list(value)
    else:
        inside = []
    for item in (*inside, *getattr(value, "__dict__", {}).values()):
        yield from _computed(item, seen)
