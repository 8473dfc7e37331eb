"""Texts: what is held out is never trained on, batch t depends on (seed, t), bytes are mapped."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import pytest
import torch

from adatune_func.data import Text, load_text, text_batches, text_in_order, to_text


@pytest.fixture
def sonnet(tmp_path):
    path = tmp_path / "sonnet.txt"
    path.write_text("Shall I compare thee to a summer’s day? " * 20, encoding="utf-8")
    return path


def places(tmp_path) -> Text:
    """A text of 256 different bytes: each says where it stands."""
    path = tmp_path / "places"
    path.write_bytes(bytes(range(256)))
    return load_text(path, held_out=0.1)


@pytest.mark.parametrize("tokens", ["bytes", "characters"])
def test_the_parts_are_the_text_in_order_without_overlap(sonnet, tokens):
    text = load_text(sonnet, tokens, held_out=0.1)
    whole = sonnet.read_bytes() if tokens == "bytes" else sonnet.read_text(encoding="utf-8")
    sizes = [len(part) for part in text[:3]]
    assert sum(sizes) == len(whole) and sizes[1] == sizes[2] == len(whole) // 10
    joined = torch.cat(text[:3])
    assert to_text(text, joined) == sonnet.read_text(encoding="utf-8")
    assert int(joined.max()) < text.vocabulary
    assert text.vocabulary == (256 if tokens == "bytes" else len(set(whole)))


def test_no_piece_reaches_into_another_part(tmp_path):
    text, seen = places(tmp_path), []
    for part in text[:3]:
        drawn = islice(text_batches(part, 64, 5, seed=0), 20)
        seen.append({int(byte) for pair in drawn for piece in pair for byte in piece.flatten()})
    assert seen == [set(part.tolist()) for part in text[:3]]  # all of its own, nothing else's
    assert not (seen[0] & seen[1] or seen[1] & seen[2] or seen[0] & seen[2])


def test_a_target_is_the_token_after(tmp_path):
    pieces, following = next(text_batches(places(tmp_path).train, 50, 7, seed=1))
    assert pieces.shape == following.shape == (50, 7)
    assert pieces.dtype == following.dtype == torch.int64
    assert torch.equal(following, pieces + 1)


def test_batch_t_is_a_function_of_seed_and_t(tmp_path):
    part = places(tmp_path).train
    whole = list(islice(text_batches(part, 4, 5, seed=3), 6))
    later = list(islice(text_batches(part, 4, 5, seed=3, start=4), 2))
    for (pieces, following), (again, after) in zip(whole[4:], later, strict=True):
        assert torch.equal(pieces, again) and torch.equal(following, after)
    torch.manual_seed(99)  # and nothing else draws from, nor is drawn from by, torch's generator
    state = torch.get_rng_state()
    assert torch.equal(next(text_batches(part, 4, 5, seed=3))[0], whole[0][0])
    assert torch.equal(torch.get_rng_state(), state)
    other = next(text_batches(part, 4, 5, seed=4))[0]
    assert not torch.equal(other, whole[0][0]) and not torch.equal(whole[1][0], whole[0][0])


def test_in_order_each_token_is_a_target_once():
    part = torch.arange(24)
    pieces = list(text_in_order(part, 2, 5))
    assert [len(piece) for piece, _ in pieces] == [2, 2]  # 4 · 5 + 1 of 24 tokens
    assert torch.equal(torch.cat([piece.flatten() for piece, _ in pieces]), part[:20])
    assert torch.equal(torch.cat([after.flatten() for _, after in pieces]), part[1:21])
    some = torch.cat([piece for piece, _ in text_in_order(part, 2, 5, most=2)])
    assert some[:, 0].tolist() == [0, 10]
    assert len(torch.cat([piece for piece, _ in text_in_order(part, 2, 5, most=9)])) == 4


def test_bytes_are_mapped_not_read(tmp_path):
    """A file of 1 GB, of which the system keeps no block but the last, is there at once."""
    path = tmp_path / "large"
    with open(path, "wb") as file:
        file.truncate(2**30)
        file.seek(2**30 - 1)
        file.write(b"z")
    before = resident()
    text = load_text(path)
    assert to_text(text, text.test[-3:]) == "\0\0z"
    next(text_batches(text.train, 8, 16, seed=0))
    assert resident() - before < 2**27


def resident() -> int:
    """Bytes that this process holds in memory."""
    status = Path("/proc/self/statm")
    if not status.exists():
        pytest.skip("only Linux says how much a process holds")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_many_characters_take_more_than_a_byte(tmp_path):
    path = tmp_path / "wide.txt"
    characters = "".join(map(chr, range(0x4E00, 0x4E00 + 300))) + "\U0001f600"
    path.write_text(characters, encoding="utf-8")
    text = load_text(path, "characters", held_out=0.1)
    assert text.vocabulary == 301
    assert to_text(text, torch.cat(text[:3])) == characters


def test_bytes_in_the_middle_of_a_character_are_shown(sonnet):
    text = load_text(sonnet)
    assert to_text(text, torch.tensor([*"’".encode()[:2], 65])) == "\ufffdA"


def test_errors_say_what_to_do(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "latin").write_bytes(b"caf\xe9 " * 50)
    refused = {
        "there is no text file at .*none": (FileNotFoundError, "none", {}),
        "there is no text file at": (FileNotFoundError, ".", {}),
        "empty' is too short: 0 bytes": (ValueError, "empty", {}),
        "empty' is too short: 0 characters": (ValueError, "empty", {"tokens": "characters"}),
        "not UTF-8 at byte 3: take its bytes": (ValueError, "latin", {"tokens": "characters"}),
        "held_out must be between 0 and 0.5": (ValueError, "latin", {"held_out": 0.5}),
    }
    for words, (kind, name, options) in refused.items():
        with pytest.raises(kind, match=words):
            load_text(tmp_path / name, **options)
    assert load_text(tmp_path / "latin", "bytes").vocabulary == 256
    for draw in (
        lambda: text_batches(torch.arange(8), 2, 8, seed=0),
        lambda: text_in_order(torch.arange(8), 2, 8),
    ):
        with pytest.raises(ValueError, match="a part of 8 tokens has no piece of 8"):
            draw()
    assert len(next(text_batches(torch.arange(9), 2, 8, seed=0))[0]) == 2
