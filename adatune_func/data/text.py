"""One text as numbers, in three parts, and pieces drawn from them: what a language model trains on.

The parts are contiguous and a piece lies inside one part, so no held-out character is ever trained
on, not as a target either. As for images, randomness is counter-based: batch number t is a function
of (seed, t) alone.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .batches import generator_for


class Text(NamedTuple):
    """The parts of a text (N,), in order, and what their numbers stand for."""

    train: Tensor
    validation: Tensor
    test: Tensor
    characters: str | None  # number i is the i-th of them; of a text in bytes None

    @property
    def vocabulary(self) -> int:
        """How many numbers there are."""
        return 256 if self.characters is None else len(self.characters)


def load_text(
    path: str | Path, tokens: Literal["bytes", "characters"] = "bytes", *, held_out: float = 0.05
) -> Text:
    """The text in a file: all but its end to train on, then two parts of the size ``held_out``.

    Bytes are not read but mapped into memory, so that any file will do, however large, in any
    encoding. Characters are those of UTF-8, numbered in the order of their code points, and are
    held in memory, a byte for each while there are no more than 256 different ones.

    Raises:
        OSError: where there is no such file; ValueError: for a share that leaves nothing to train
            on, for a text too short for three parts, and for characters that are not UTF-8.
    """
    if not 0 < held_out < 0.5:
        raise ValueError(f"held_out must be between 0 and 0.5, the share of a part, not {held_out}")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no text file at {str(path)!r}")
    numbers, characters = (_mapped(path), None) if tokens == "bytes" else _in_characters(path)
    part = int(held_out * len(numbers))
    if part == 0:
        raise ValueError(f"the text in {str(path)!r} is too short: {len(numbers)} {tokens}")
    train, validation = len(numbers) - 2 * part, len(numbers) - part
    return Text(numbers[:train], numbers[train:validation], numbers[validation:], characters)


def text_batches(
    part: Tensor, batch_size: int, context: int, *, seed: int, start: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pieces (batch_size, context) and the same one token on, drawn at random without end.

    Batch t, counted from ``start`` on, is a function of (seed, t).

    Raises ValueError, at once, for a part without a piece and the token after it.

    >>> pieces, following = next(text_batches(torch.arange(9), 2, 4, seed=0))
    >>> torch.equal(following, pieces + 1)
    True
    """
    _check(part, context)
    return _drawn(part, batch_size, context, seed, start)


def text_in_order(
    part: Tensor, batch_size: int, context: int, *, most: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """A part's pieces one after the other, each token a target once; the last batch may be short.

    What does not fill a last piece is left out. Of more than ``most`` pieces, so many are taken,
    evenly spaced.

    Raises ValueError, at once, for a part without a piece and the token after it.
    """
    _check(part, context)
    count = (len(part) - 1) // context
    taken = min(count, count if most is None else most)
    starts = torch.arange(taken) * count // taken * context
    return (_pieces(part, some, context) for some in torch.split(starts, batch_size))


def to_text(text: Text, numbers: Tensor) -> str:
    """The characters that numbers (N,) stand for; bytes that are not UTF-8 become question marks.

    >>> text = Text(*torch.tensor([[1], [0], [0]]), "ab")
    >>> to_text(text, torch.tensor([0, 1, 1]))
    'abb'
    """
    if text.characters is None:
        return bytes(int(number) for number in numbers).decode(errors="replace")
    return "".join(text.characters[int(number)] for number in numbers)


def _mapped(path: Path) -> Tensor:
    size = path.stat().st_size
    if size == 0:  # there is nothing to map
        return torch.empty(0, dtype=torch.uint8)
    return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)


def _in_characters(path: Path) -> tuple[Tensor, str]:
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{str(path)!r} is not UTF-8 at byte {error.start}: take its bytes for tokens"
        ) from None
    characters = "".join(sorted(set(text)))
    numbers = torch.searchsorted(_code_points(characters), _code_points(text), out_int32=True)
    return numbers.to(torch.uint8) if len(characters) <= 256 else numbers, characters


def _code_points(text: str) -> Tensor:
    encoded = bytearray(text.encode("utf-32-le"))
    return torch.frombuffer(encoded, dtype=torch.int32) if encoded else torch.empty(0)


def _check(part: Tensor, context: int) -> None:
    if len(part) <= context:
        raise ValueError(
            f"a part of {len(part)} tokens has no piece of {context} and the token after it: take "
            "a longer text, a larger held_out or a smaller context"
        )


def _drawn(
    part: Tensor, batch_size: int, context: int, seed: int, start: int
) -> Iterator[tuple[Tensor, Tensor]]:
    step = start
    while True:
        generator = generator_for(seed, "text", step)
        yield _pieces(
            part, torch.randint(len(part) - context, (batch_size,), generator=generator), context
        )
        step += 1


def _pieces(part: Tensor, starts: Tensor, context: int) -> tuple[Tensor, Tensor]:
    pieces = part[starts[:, None] + torch.arange(context + 1)].long()
    return pieces[:, :-1], pieces[:, 1:]
