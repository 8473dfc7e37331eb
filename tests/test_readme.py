"""Every python block of README runs as printed, its figures are those of the JSON files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
        assert target.startswith("https://") or (README.parent / target.split("#")[0]).exists(), (
            target
        )


def test_a_type_checker_takes_what_a_user_writes(tmp_path):
    """The blocks of README are clean, and a name that is not there is seen."""
    pytest.importorskip("pyright")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
    snippet = tmp_path / "snippet.py"
    snippet.write_text("\n".join([*blocks, "atf.nothing_of_this_name"]))
    python = ["--pythonpath", sys.executable, str(snippet)]
    ended = subprocess.run(
        [sys.executable, "-m", "pyright", *python],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(README.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.findall(r"error: (.*?) \(", ended.stdout) == [
        '"nothing_of_this_name" is not a known attribute of module "adatune_func"'
    ], ended.stdout
