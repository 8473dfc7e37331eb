"""Every python block of README runs as printed, its figures are those of the JSON files."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.studies import readme

README = Path(__file__).parent.parent / "README.md"


def test_every_python_block_runs():
    """One after the other, in one namespace."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)


def test_figures_are_drawn_from_the_results():
    """After ``python -m benchmarks.studies.readme`` nothing changes, and no part was left out."""
    texts = [page.read_text() for page in readme.PAGES]
    names = [name for text in texts for _, name, _ in readme.MARKED.findall(text)]
    assert sorted(names) == sorted(readme.PARTS)
    assert [readme.rewritten(text) for text in texts] == texts


def test_it_is_read_in_a_minute():
    """Short, its figures small in number, its links alive."""
    text = README.read_text()
    assert len(text.splitlines()) < 200
    for target in re.findall(r"\]\((\S+?)\)", text):
        assert target.startswith("https://") or (README.parent / target).exists(), target
