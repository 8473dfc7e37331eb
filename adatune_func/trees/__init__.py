"""Trees of tensors, the words for them, and what is checked of them.

``types`` has the words, ``tree`` maps and inner products, ``columns`` K directions at once,
``transforms`` torch.func under types, ``checks`` errors in words, ``compat`` versions of torch.
"""

from . import columns
from .checks import (
    check_batch,
    check_bound,
    check_kind,
    checked_buffers,
    checked_params,
    checked_state,
    copied,
    type_name,
)
from .columns import first, over_columns, squares
from .compat import (
    autocast_dtype,
    global_state,
    is_compiling,
    is_transforming,
    lookup_backend,
    math_attention,
    without_modes,
)
from .prefixes import has_prefix, owners_by_prefix
from .transforms import jvp, vjp, vmap
from .tree import (
    all_finite,
    dot,
    norm,
    scalar_like,
    tree_flatten,
    tree_leaves,
    tree_map,
    tree_names,
    tree_paths,
    tree_unflatten,
    where,
)
from .types import (
    Batch,
    Buffers,
    GradFn,
    HParams,
    Hvp,
    LossFn,
    Params,
    Products,
    PyTree,
    Signal,
    is_a,
)

__all__ = [
    "Batch",
    "Buffers",
    "GradFn",
    "HParams",
    "Hvp",
    "LossFn",
    "Params",
    "Products",
    "PyTree",
    "Signal",
    "all_finite",
    "autocast_dtype",
    "check_batch",
    "check_bound",
    "check_kind",
    "checked_buffers",
    "checked_params",
    "checked_state",
    "columns",
    "copied",
    "dot",
    "first",
    "global_state",
    "has_prefix",
    "is_a",
    "is_compiling",
    "is_transforming",
    "jvp",
    "lookup_backend",
    "math_attention",
    "type_name",
    "norm",
    "over_columns",
    "owners_by_prefix",
    "scalar_like",
    "squares",
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "tree_names",
    "tree_paths",
    "tree_unflatten",
    "vjp",
    "vmap",
    "where",
    "without_modes",
]
