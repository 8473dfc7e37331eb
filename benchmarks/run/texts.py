"""Language models as jobs: a text and a decoder, judged by the loss of each next token."""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import adatune_func as atf
from adatune_func import data, networks
from benchmarks.run import jobs, record
from benchmarks.run.jobs import Job, Kind, Score

#: How many pieces of a part, evenly spaced, tell how good a model is.
JUDGED = 2000

#: Below 1, likely tokens are sampled more often than the model says.
TEMPERATURE = 0.8

#: Folders beside Python's own modules: what others wrote, tests, tables and lists of words.
LEFT_OUT = {
    *("site-packages", "dist-packages", "test", "tests", "idle_test"),
    *("encodings", "pydoc_data", "lib2to3"),
}


def prepare(args: argparse.Namespace) -> Job:
    """Text and decoder on their device, everything checked that can be before training."""
    device = jobs.device_of(args)
    path = python_sources(Path(args.data_root)) if args.text is None else Path(args.text)
    text = data.load_text(path, args.tokens)
    for part in text[:3]:
        data.text_in_order(part, 1, args.context)  # raises where a part is too short
    digest = _digest(path)
    if getattr(args, "text_digest", digest) != digest:
        raise ValueError(f"--resume: {path} is not the text that the run began with")
    args.text_digest = digest
    torch.manual_seed(args.seed)
    module = networks.Decoder(
        text.vocabulary, context=args.context, width=args.width, layers=args.layers,
        heads=args.heads, tied=args.tied,
    ).to(device)  # fmt: skip
    return Job(
        data=text,
        module=module,
        model=atf.functionalize(module, cross_entropy),
        device=device,
        steps_per_epoch=args.validate_every,
        steps=min(args.steps, args.max_steps or args.steps),
        kind=TEXT,
    )


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Nats a token."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def evaluate(job: Job, state: atf.TunerState, part: str) -> Score:
    """Accuracy and mean loss of the next token on pieces from the whole part."""
    module = job.module.eval()
    atf.write_back(module, state)
    correct, total, size = torch.zeros(()), torch.zeros(()), 0
    context = module.get_parameter("positions").shape[0]
    with torch.no_grad():
        for batch in data.text_in_order(getattr(job.data, part), 100, context, most=JUDGED):
            tokens, targets = (side.to(job.device) for side in batch)
            logits = module(tokens)
            correct += (logits.argmax(-1) == targets).sum().cpu()
            total += targets.numel() * cross_entropy(logits, targets).cpu()
            size += targets.numel()
    return Score(float(correct) / size, float(total) / size)


def batches(job: Job, args: argparse.Namespace, part: str, start: int) -> Iterator[Any]:
    """Batches of a part from step ``start`` on."""
    drawn = data.text_batches(
        getattr(job.data, part), args.batch_size, args.context, seed=args.seed, start=start
    )
    return (tuple(side.to(job.device) for side in batch) for batch in drawn)


def sample(job: Job, args: argparse.Namespace, folder: Path) -> None:
    """Print and keep how the model goes on with the first words of the test part."""
    prompt = job.data.test[: args.context].long()
    following = sampled(job.module, prompt.to(job.device), args.sample, args.seed)
    said = f"{data.to_text(job.data, prompt)}⟶{data.to_text(job.data, following)}\n"
    record.write(folder / "sample.txt", said)
    print(f"\n{said}")


@torch.no_grad()
def sampled(module: torch.nn.Module, prompt: Tensor, length: int, seed: int) -> Tensor:
    """``length`` tokens drawn one after the other, each given as many before it as fit."""
    generator = torch.Generator().manual_seed(seed)
    tokens, context = prompt, len(prompt)
    for _ in range(length):
        logits = module(tokens[None, -context:])[0, -1].cpu() / TEMPERATURE
        token = torch.multinomial(logits.softmax(0), 1, generator=generator)
        tokens = torch.cat([tokens, token.to(tokens.device)])
    return tokens[len(prompt) :]


def python_sources(folder: Path) -> Path:
    """The sources of Python's standard library as one file in ``folder``, made if not there.

    The files come in an order that is drawn, always the same, so that the parts are alike.
    """
    path = folder / f"python-{platform.python_version()}.txt"
    if path.exists():
        return path
    root = Path(sysconfig.get_paths()["stdlib"])
    sources = sorted(
        source
        for source in root.rglob("*.py")
        if not LEFT_OUT & set(source.relative_to(root).parts)
    )
    if not sources:
        raise ValueError(f"there are no sources of Python under {root}: give a text, --text FILE")
    random.Random(0).shuffle(sources)
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(b"".join(source.read_bytes() for source in sources))
    os.replace(part, path)
    return path


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=8)
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


#: Texts are judged by the loss.
TEXT = Kind(
    batches=batches,
    evaluate=lambda job, state, part: evaluate(job, state, part),
    better=lambda score, best: score.loss < best.loss,
    says=lambda score: f"loss {score.loss:.4f} nats",
    leaves=sample,
)
