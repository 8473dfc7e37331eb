"""Compile a pure function of trees of tensors, wherever torch compiles at all.

``torch.compile`` reads a function's Python code, and trees and ``torch.func`` with it: on most
versions of torch it cannot. ``jit`` calls the function once for each kind of arguments, with
tensors that have no numbers, writes down the flat graph of operations that come of it, cleans that
and compiles it. A later call flattens its arguments, runs the graph and builds the result's tree.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.fx import GraphModule

from .graphs import (
    Backend,
    Kind,
    apart,
    check_new,
    compiler,
    donated,
    examples,
    kind_of,
    trace,
    without_dead,
    without_duplicates,
    without_zeros,
)
from .trees import (
    PyTree,
    autocast_dtype,
    is_transforming,
    tree_flatten,
    tree_unflatten,
)


class Jitted(Protocol):
    """What :func:`jit` returns."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def graph(self, *args: Any, **kwargs: Any) -> GraphModule:
        """The cleaned graph of a call with these arguments, which is not run."""
        ...


class _Plan(NamedTuple):
    module: GraphModule
    structure: Any
    leaves: list[Any]  # of the result: a fake tensor where the graph has one
    donated: list[int]  # tensors of the first argument that become the result's


def jit(
    fn: Callable[..., Any],
    donate: bool = False,
    *,
    backend: str | Backend = "inductor",
    options: Mapping[str, Any] | None = None,
) -> Jitted:
    """``fn``, traced once for each kind of arguments and compiled.

    ``fn`` has to be a pure function of its arguments, trees of tensors, and may use ``torch.func``
    in any way. Leaves that are no tensors (numbers, strings, ``None``) are constants of the graph:
    another value is another graph. What ``fn`` captures is a constant, too. Random numbers are
    drawn anew at each call. Inside ``vmap``, ``grad`` or another ``jit`` it is ``fn`` itself.

    Args:
        donate: the first argument is used up: its memory becomes that of the new value, which
            ``fn`` returns by itself or as first of a tuple, as a step does its state. A copy of the
            state costs as much as the parameters, Z and the optimizer's state; whoever needs the
            old one, to go back to it for instance, does without. Whatever is done with it
            afterwards finds empty tensors.
        backend: who compiles the graph: a name that ``torch.compile`` knows, or a function as it
            takes. "eager" runs the graph as it is.
        options: for inductor, as ``torch.compile`` takes them: ``{"triton.cudagraphs": True}``. On
            a CPU convolutions keep their layout unless ``layout_optimization`` is among them.

    Raises:
        TypeError: at a call, when a leaf is neither a tensor nor hashable, or when a number or
            branch depends on a tensor's value.
        ValueError: when ``fn`` captures a tensor that requires grad (a module's parameters), when
            its result requires grad, or when nothing can be donated.
        RuntimeError: at the ninth kind of arguments, such as another size of batch.

    >>> from adatune_func import rtho, sgd
    >>> loss_fn = lambda params, buffers, batch: ((params["w"] - batch).square().sum(), buffers)
    >>> tuner = rtho(loss_fn, sgd())
    >>> state, batch = tuner.init({"w": torch.zeros(2)}, {"lr": 0.1}), torch.ones(2)
    >>> step = jit(tuner.step, backend="aot_eager")
    >>> state, info = step(state, batch, batch)
    >>> 0 < len(step.graph(state, batch, batch).graph.nodes) < 500
    True
    """
    plans: dict[Kind, tuple[_Plan, Callable[..., Any]]] = {}
    compiled = compiler(backend, options)

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        if is_transforming():
            return fn(*args, **kwargs)
        leaves, kind = kind_of((args, kwargs))
        if kind not in plans:
            check_new(fn, (args, kwargs), kind, list(plans))
        plan = plans[kind][0] if kind in plans else _plan(fn, leaves, kind, donate)
        tensors = list(filter(_is_tensor, leaves))
        if donate:
            tensors = apart(tensors, plan.donated)
        if kind not in plans:
            with _plain():
                plans[kind] = plan, compiled(plan.module, examples(plan.module.graph))
        return _run(*plans[kind], tensors)

    def graph(*args: Any, **kwargs: Any) -> GraphModule:
        return _plan(fn, *kind_of((args, kwargs)), donate).module

    jitted: Any = call
    jitted.graph = graph
    return jitted


def _plan(fn: Callable[..., Any], leaves: list[Any], kind: Kind, donate: bool) -> _Plan:
    """Trace ``fn`` and clean its graph."""

    def of_leaves(leaves: list[Any]) -> Any:
        args, kwargs = tree_unflatten(kind.structure, leaves)
        return fn(*args, **kwargs)

    module, result = trace(of_leaves, leaves)
    for clean in (without_dead, without_zeros, without_duplicates, without_dead):
        clean(module.graph)
    args, _ = tree_unflatten(kind.structure, leaves)
    taken = donated(module.graph, _count(args, result)) if donate else []
    if donate and not taken:
        raise ValueError("donate=True: no result lies in memory as its old value does")
    module.recompile()
    leaves, structure = tree_flatten(result)
    return _Plan(module, structure, leaves, taken)


def _count(args: PyTree, result: PyTree) -> int:
    """How many tensors the first argument and the new value, which has its structure, have."""
    news: list[Any] = [result, *(result[:1] if isinstance(result, tuple) else ())]
    old, structure = tree_flatten(args[0] if args else None)
    for new in news:
        leaves, its_structure = tree_flatten(new)
        if its_structure == structure and list(map(_is_tensor, leaves)) == [True] * len(old):
            return len(old)
    raise ValueError(
        "donate=True needs a function that returns a new value of its first argument, by itself or "
        "as first of a tuple, as a step returns a state; here its structure is another"
    )


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, Tensor)


def _run(plan: _Plan, run: Callable[..., Any], tensors: list[Tensor]) -> Any:
    with _plain():
        computed = iter(run(*tensors))
        taken = {i: tensors[i].detach() for i in plan.donated}
        for i in plan.donated:
            _empty(tensors[i])
    results = (
        taken[i] if i in taken else next(computed) for i in range(sum(map(_is_tensor, plan.leaves)))
    )
    leaves = [next(results) if _is_tensor(leaf) else leaf for leaf in plan.leaves]
    return tree_unflatten(plan.structure, leaves)


def _empty(tensor: Any) -> None:
    """Whoever looks at an old state finds nothing; without this it would be the new one."""
    tensor.set_()


@contextmanager
def _plain() -> Generator[None, None, None]:
    """Autocast and autograd were traced; the graph runs without them."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for device in ("cpu", "cuda"):
            if autocast_dtype(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
