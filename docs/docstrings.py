"""What mkdocs needs to show our docstrings: doctests as code, Sphinx's roles as links."""

from __future__ import annotations

import re
from typing import Any

import adatune_func
import griffe


class Markdown(griffe.Extension):
    """Google docstrings with doctests and roles become Markdown before they are parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of each object found."""
        if obj.docstring:
            obj.docstring.value = linked(fenced(obj.docstring.value))


def fenced(text: str) -> str:
    """``>>>`` lines, and what follows them up to an empty line, as fenced code."""
    return re.sub(
        r"^>>> .*(?:\n.+)*",
        lambda match: f"```pycon\n{match[0]}\n```",
        text,
        flags=re.M,
    )


def linked(text: str) -> str:
    """``:func:`marthe``` as a link to it, and as plain code where no page shows it."""
    return re.sub(r":(?:func|class|mod):`([\w.]+)`", _link, text)


def _link(match: re.Match[str]) -> str:
    name = match[1].removeprefix("adatune_func.")
    return f"[`{name}`][adatune_func.{name}]" if name in adatune_func.__all__ else f"`{name}`"
