"""language_model.py: resumes bit for bit, leaves a sample, is judged on what it never saw."""

from __future__ import annotations

import functools
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import adatune_func as atf
from adatune_func import data, networks
from benchmarks import language_model
from benchmarks.run import outputs, texts, training
from tests.test_resume import KilledError, kill_at_step, left

STEPS = 8
TINY = ["--context", "6", "--width", "4", "--layers", "1", "--heads", "2", "--batch-size", "3"]
TINY += ["--steps", str(STEPS), "--max-steps", str(STEPS), "--validate-every", "3", "--no-compile"]
TINY += ["--checkpoint-every", "2", "--sample", "12", "--lr", "0.01"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a text of 50 lines and a whole run on it; steps 0 to 2 tune, then 5 and 6."""
    folder = tmp_path_factory.mktemp("place")
    lines = [f"{n} times {n} is {n * n}, isn't it?\n" for n in range(50)]
    (folder / "text.txt").write_text("".join(lines))
    short = functools.partial(atf.recipe, due=atf.windows(3, 2, 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(training, "draw", lambda folder: None)
        patch.setattr(atf, "recipe", short)
        train("whole")
        yield folder


@pytest.fixture(autouse=True)
def inside(place, tmp_path, monkeypatch):
    """Each test has a copy of the place to itself, and is in it."""
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def train(folder: str, *options: str) -> None:
    where = [] if "--resume" in options else [*TINY, "--text", "text.txt", "--out", folder]
    assert language_model.main([*where, *options]) == 0


def all_of(folder: str) -> dict[str, Any]:
    return {**left(Path(folder)), "sample": (Path(folder) / "sample.txt").read_bytes()}


@pytest.mark.parametrize("step", [1, 6])
def test_killed_and_resumed_is_never_killed(step):
    with pytest.raises(KilledError), pytest.MonkeyPatch.context() as patch:
        kill_at_step(patch, step)
        train("killed")
    torch.manual_seed(step)  # the new process knows nothing of the old one
    train("killed", "--resume", "killed")
    assert all_of("killed") == all_of("whole")


def test_stopped_and_continued():
    train("stopped", "--max-steps", "4")
    train("stopped", "--resume", "stopped", "--max-steps", str(STEPS))
    assert all_of("stopped") == all_of("whole")


def test_a_run_says_what_the_other_scripts_say():
    lines = outputs.read_log(Path("whole"))
    steps = [line for line in lines if "step" in line]
    assert [line["step"] for line in steps if line["tuned"]] == [0, 1, 2, 5, 6]
    assert steps[-1]["lr_in_use"] < steps[-1]["lr"]  # the last fifth cools down
    assert [line["steps"] for line in lines if "epoch" in line] == [3, 6]
    summary = json.loads(Path("whole/summary.json").read_text())
    best = min(line["val_loss"] for line in lines if "epoch" in line)
    assert summary["validation_loss"] == best and 0 < summary["test_loss"] < 1.2 * math.log(256)


def test_a_sample_goes_on_from_the_test_part(monkeypatch, capsys):
    """Of one short run, in characters; and the test part is seen once."""
    seen, evaluate = [], texts.evaluate

    def spying(job, state, part):
        seen.append(part)
        return evaluate(job, state, part)

    monkeypatch.setattr(texts, "evaluate", spying)
    train("run", "--tokens", "characters", "--max-steps", "4")
    assert seen == ["validation", "test"]
    text = Path("text.txt").read_text()
    prompt, following = Path("run/sample.txt").read_text().split("⟶")
    assert prompt == text[-int(0.05 * len(text)) :][:6]
    assert len(following) == 12 + 1 and set(following) <= set(text)
    said = capsys.readouterr().out
    assert "test loss" in said and "nats" in said and f"{prompt}⟶{following}" in said


def test_each_token_is_sampled_given_those_before():
    """A model that is sure of the successor counts on, and is shown no more than it takes."""

    def successor(tokens: torch.Tensor) -> torch.Tensor:
        assert tokens.shape == (1, 3)
        return 1e3 * F.one_hot((tokens + 1) % 5, 5).float()

    got = texts.sampled(successor, torch.tensor([0, 1, 2]), 6, seed=0)  # pyright: ignore[reportArgumentType]
    assert got.tolist() == [3, 4, 0, 1, 2, 3]


def test_the_score_is_the_mean_over_each_token_once():
    torch.manual_seed(0)
    module = networks.Decoder(256, context=6, width=4, layers=1, heads=2)
    model = atf.functionalize(module, texts.cross_entropy)
    text = data.load_text("text.txt")
    job: Any = SimpleNamespace(data=text, module=module, device=torch.device("cpu"))
    score = texts.evaluate(job, model, "test")  # pyright: ignore[reportArgumentType]
    pieces = (len(text.test) - 1) // 6
    tokens = text.test[: pieces * 6].view(pieces, 6).long()
    targets = text.test[1 : pieces * 6 + 1].view(pieces, 6).long()
    logits = module(tokens).detach()
    assert score.loss == pytest.approx(float(texts.cross_entropy(logits, targets)), rel=1e-6)
    assert score.accuracy == pytest.approx(float((logits.argmax(-1) == targets).float().mean()))


def test_without_a_text_it_reads_pythons_own_sources():
    path = texts.python_sources(Path("sources"))
    written = path.read_bytes()
    import heapq

    assert Path(heapq.__file__).read_bytes() in written
    assert b"class TestHeap" not in written and len(written) > 2e6
    path.write_bytes(b"as it was")  # made once
    assert texts.python_sources(Path("sources")).read_bytes() == b"as it was"
    assert {p.name for p in Path("sources").iterdir()} == {path.name}


@pytest.mark.parametrize("options", [["--optimizer", "muon"], ["--optimizer", "muon", "--tied"]])
def test_muon_leaves_embedding_and_head_to_adamw(options):
    args = language_model.parser().parse_args([*TINY, "--text", "text.txt", *options])
    job = texts.prepare(args)
    state = language_model.optimizer_of(args).init(job.model.params)
    matrices = {name for name, square in state.exp_avg_sq.items() if square.ndim == 0}
    assert matrices == {f"blocks.0.{name}.weight" for name in ("qkv", "out", "up", "down")}


MISTAKES = {
    "--text none": "there is no text file at 'none'",
    "--context 200": "has no piece of 200 and the token after it",
    "--heads 3": "width must be a multiple of heads, not 4 of 3",
    "--steps 0": "--steps: must be a whole number above 0",
    "--tokens words": "invalid choice: 'words'",
    "--text latin --tokens characters": "is not UTF-8 at byte 3: take its bytes",
}


@pytest.mark.parametrize("options", MISTAKES)
def test_a_mistake_is_one_line(options, capsys):
    Path("latin").write_bytes(b"caf\xe9" * 50)
    with pytest.raises(SystemExit) as ended:
        language_model.main([*TINY, "--text", "text.txt", "--out", "run", *options.split()])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1 and MISTAKES[options] in said, said
    assert not Path("run").exists()


def test_another_text_is_not_resumed(capsys):
    Path("text.txt").write_text("another text " * 100)
    with pytest.raises(SystemExit):
        language_model.main(["--resume", "whole"])
    assert "text.txt is not the text that the run began with" in capsys.readouterr().err
