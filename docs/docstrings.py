"""What mkdocs needs to show our docstrings: comments of fields, doctests as code, links."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Markdown(griffe.Extension):
    """Docstrings become Markdown before they are parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of each object found."""
        if obj.is_attribute and not obj.docstring and (text := comment_of(obj)):
            obj.docstring = griffe.Docstring(text, parent=obj)
        if obj.docstring:
            obj.docstring.value = linked(fenced(obj.docstring.value))


def comment_of(attribute: griffe.Object) -> str:
    """What ``#:`` says in the line above an attribute, or ``#`` at the end of its own."""
    filepath, line = attribute.filepath, attribute.lineno
    if isinstance(filepath, list) or line is None:
        return ""
    above, own = filepath.read_text().splitlines()[line - 2 : line]
    text = above[2:] if above.startswith("#:") else own.partition("  # ")[2]
    return text.strip()


def fenced(text: str) -> str:
    """``>>>`` lines, and what follows them up to an empty line, as fenced code."""
    return re.sub(r"^>>> .*(?:\n.+)*", r"```pycon\n\g<0>\n```", text, flags=re.M)


def linked(text: str) -> str:
    """Sphinx's ``:func:`marthe``` as a link where a page shows it, else as plain code."""
    return re.sub(
        r":(?:func|class|mod):`(?:adatune_func\.)?([\w.]+)`",
        r'<autoref identifier="adatune_func.\1" optional><code>\1</code></autoref>',
        text,
    )
