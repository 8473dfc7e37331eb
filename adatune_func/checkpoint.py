"""Save a state and load it again, bit for bit, as a flat dict that ``weights_only=True`` reads.

The file holds ``{"format": 1, "torch": version, "tensors": {path: tensor}, "types": {path: name},
"notes": {...}}``. A path joins field names, keys and indices with "/", as in
``opt_state/momentum_buffer/fc.weight``; types are the NamedTuples on the way (``SGDState``).
"""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from .trees import is_a

FORMAT = 1
State = TypeVar("State")


def save(
    state: Any, path: str | Path, notes: Mapping[str, str | int | float] | None = None
) -> None:
    """Write a pytree of tensors (a TunerState, generator states, ...) to ``path``, atomically.

    ``notes`` are strings and numbers kept beside it; :func:`notes` reads them. Whatever fails, the
    file that was there stays as it was.

    Raises:
        OSError: when ``path`` cannot be written.
        TypeError, ValueError: for what a checkpoint cannot hold: a leaf that is not a tensor, a
            note that is not a string or a number, two entries of one name.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save({"w": torch.ones(2)}, f"{folder}/w.pt", {"step": 7})
    ...     load(f"{folder}/w.pt", like={"w": torch.zeros(2)}), notes(f"{folder}/w.pt")["step"]
    ({'w': tensor([1., 1.])}, 7)
    """
    path = Path(path)
    content = {
        "format": FORMAT,
        "torch": str(torch.__version__),
        # Cloned, as torch.save writes the whole storage of which a leaf may be a small view.
        "tensors": {name: leaf.detach().cpu().clone() for name, leaf in _leaves(state).items()},
        "types": _types(state),
        "notes": _checked_notes(notes or {}),
    }
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            torch.save(content, file)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch makes a RuntimeError of a full disk
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise OSError(f"cannot write {path}: {reason}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def load(path: str | Path, like: State) -> State:
    """The state saved at ``path``, in the structure, dtypes and on the devices of ``like``.

    Raises:
        OSError: when there is no such file, or none that can be read.
        ValueError: when it is not a checkpoint, damaged or cut short, or in words on the first
            thing that differs from ``like``: another optimizer, a missing or unknown entry, a
            shape, a dtype.
    """
    content = _read(Path(path))
    for name, kind in _types(like).items():
        saved = content["types"].get(name, kind)
        if saved != kind:
            hint = "; it comes from another optimizer" if "opt_state" in name else ""
            raise ValueError(f"{path}: {name or 'the state'} is {saved}, here it is {kind}{hint}")
    tensors, wanted = content["tensors"], _leaves(like)
    missing, unknown = sorted(wanted.keys() - tensors), sorted(tensors.keys() - wanted)
    if missing or unknown:
        verb, names = ("lacks", missing) if missing else ("has, and this state lacks,", unknown)
        raise ValueError(f"{path}: the checkpoint {verb} {names[0]} ({len(names)} such entries)")
    for name, leaf in wanted.items():
        ours, theirs = (f"{tuple(t.shape)} {t.dtype}" for t in (leaf, tensors[name]))
        if ours != theirs:
            raise ValueError(f"{path}: {name} is {theirs} in the checkpoint, here it is {ours}")
    return _walk(like, lambda name, leaf: tensors[name].to(leaf.device))


def notes(path: str | Path) -> dict[str, Any]:
    """The notes of a checkpoint, with ``torch``, the version that wrote it. Raises as load does."""
    content = _read(Path(path))
    return {**content["notes"], "torch": content["torch"]}


def _read(path: Path) -> dict[str, Any]:
    try:
        file = io.BytesIO(path.read_bytes())
    except OSError as error:
        raise type(error)(f"cannot read {path}: {error.strerror or error}") from None
    try:
        with zipfile.ZipFile(file) as archive:
            if archive.testzip() is not None:  # torch writes checksums and does not read them
                raise ValueError("a checksum is wrong")
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # torch meets damaged bytes with errors of a dozen kinds
        raise ValueError(f"{path} is not a checkpoint, or it is damaged or cut short") from None
    if not is_a(content, dict) or "format" not in content:
        raise ValueError(f"{path} is not a checkpoint of adatune_func")
    if content["format"] != FORMAT:
        raise ValueError(f"{path} has format {content['format']}; this version reads {FORMAT}")
    parts = [content.get(part) for part in ("tensors", "types", "notes")]
    if not all(isinstance(part, dict) for part in parts) or not all(
        isinstance(leaf, Tensor) for leaf in content["tensors"].values()
    ):
        raise ValueError(f"{path} is not a checkpoint of adatune_func")
    return content


def _checked_notes(notes: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in notes.items():
        # Exact types: a float of numpy's is a float too, but weights_only refuses to read it.
        if type(value) not in (str, int, float, bool):
            kind = type(value).__name__
            raise TypeError(f"notes are strings and numbers, but {name!r} is {kind}")
    return dict(notes)


def _leaves(tree: Any) -> dict[str, Tensor]:
    leaves: dict[str, Tensor] = {}

    def collect(name: str, leaf: Tensor) -> None:
        if name in leaves:
            raise ValueError(f"two entries would both be called {name!r} in a checkpoint")
        leaves[name] = leaf

    _walk(tree, collect)
    return leaves


def _types(tree: Any) -> dict[str, str]:
    """The NamedTuples of a tree by path: what tells one optimizer's state from another's."""
    types: dict[str, str] = {}
    _walk(tree, lambda name, leaf: None, types.__setitem__)
    return types


def _walk(
    tree: Any,
    visit: Callable[[str, Tensor], Any],
    enter: Callable[[str, str], None] = lambda name, kind: None,
    path: tuple[str, ...] = (),
) -> Any:
    """The tree with ``visit(path, leaf)`` for its leaves; ``enter(path, type)`` at NamedTuples."""
    name = "/".join(path)
    if isinstance(tree, Tensor):
        return visit(name, tree)
    if is_a(tree, Mapping):
        made: Any = OrderedDict if is_a(tree, OrderedDict) else dict  # trees tell them apart
        return made(
            (key, _walk(value, visit, enter, (*path, str(key)))) for key, value in tree.items()
        )
    if not is_a(tree, tuple | list):
        raise TypeError(f"{name or 'the state'} is {type(tree).__name__}, not a tensor or a tree")
    fields = getattr(tree, "_fields", None)
    if fields is not None:
        enter(name, type(tree).__name__)
    keys = fields if fields is not None else map(str, range(len(tree)))
    values = [
        _walk(value, visit, enter, (*path, key)) for key, value in zip(keys, tree, strict=True)
    ]
    return type(tree)(*values) if fields is not None else type(tree)(values)
