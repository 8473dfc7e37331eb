"""The notebooks are in step with the percent scripts they are made from, and these run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch

FOLDER = Path(__file__).parent.parent / "notebooks"
SCRIPTS = sorted(FOLDER.glob("[0-9]*.py"))


def cells_of(script: str) -> list[tuple[str, str]]:
    """``[(cell type, source)]`` of a percent script."""
    cells = []
    for part in re.split(r"^# %%", script, flags=re.M)[1:]:
        kind, _, source = part.partition("\n")
        if kind == " [markdown]":
            lines = [
                line.removeprefix("#").removeprefix(" ") for line in source.strip().split("\n")
            ]
            cells.append(("markdown", "\n".join(lines)))
        else:
            cells.append(("code", source.strip()))
    return cells


def outputs_of(notebook: Any) -> list[Any]:
    return [output for cell in notebook["cells"] for output in cell.get("outputs", [])]


def test_there_are_notebooks():
    assert len(SCRIPTS) >= 4


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_notebook_is_what_its_script_says(script):
    notebook = json.loads(script.with_suffix(".ipynb").read_text())
    made = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    assert made == cells_of(script.read_text()), "run: make notebooks"
    counts = [cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_notebook_has_pictures_and_no_complaints(script):
    outputs = outputs_of(json.loads(script.with_suffix(".ipynb").read_text()))
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for output in outputs:
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr", output["text"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_notebook_says_nothing_of_where_it_was_made(script):
    notebook = json.loads(script.with_suffix(".ipynb").read_text())
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert all(cell["metadata"] == {} for cell in notebook["cells"])
    for output in outputs_of(notebook):
        assert output.get("metadata", {}) == {}
        text = "".join(output.get("text", [])) + "".join(
            output.get("data", {}).get("text/plain", [])
        )
        assert not re.search(r"(?<!\S)/\w+/|site-packages|0x[0-9a-f]{6}", text)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive:UserWarning")
def test_the_script_runs(script, monkeypatch, capsys):
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    monkeypatch.chdir(FOLDER)
    monkeypatch.setenv("SMALL", "1")
    dtype = torch.get_default_dtype()
    try:
        with matplotlib.rc_context():
            exec(compile(script.read_text(), str(script), "exec"), {"__name__": "__main__"})
    finally:
        torch.set_default_dtype(dtype)
        plt.close("all")
    if script.stem == "04_what_it_costs":  # it prints what benchmarks/results/*.json say today
        outputs = outputs_of(json.loads(script.with_suffix(".ipynb").read_text()))
        printed = "".join("".join(output.get("text", [])) for output in outputs)
        assert printed == capsys.readouterr().out, "run: make notebooks ARGS=04_what_it_costs.py"
