"""Transformers: a decoder for tokens, an encoder, and the encoder on the patches of an image.

    x ← x + out(attention(norm1(x)));   x ← x + down(gelu(up(norm2(x))))

Names are made for rules by name: ``embedding``, ``positions``, ``blocks.0``, ``norm``, ``head`` are
layers from the input up; in a block ``qkv``, ``out``, ``up``, ``down`` are its matrices.

Source: Vaswani et al. 2017 (arXiv 1706.03762); the norm before each part: Xiong et al. 2020
(arXiv 2002.04745); patches: Dosovitskiy et al. 2021 (arXiv 2010.11929).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """(N, T, width) -> the same: attention, then an MLP of four times the width, each added."""

    def __init__(self, width: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, not {width} of {heads}")
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.out(self._attention(self.norm1(x)))
        return x + self.down(F.gelu(self.up(self.norm2(x))))

    def _attention(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], is_causal=self.causal)
        return mixed.transpose(1, 2).flatten(2)


class Encoder(nn.Module):
    """(N, T, width) -> the same, normalised: each of the T vectors sees all others."""

    def __init__(self, width: int = 64, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.blocks(x))


class Decoder(nn.Module):
    """(N, T) tokens -> (N, T, vocabulary) logits of each next one, which see none that is later.

    Args:
        context: the largest T.
        tied: whether the logits are products with the embedding itself: there is no ``head``.

    Raises:
        ValueError: when ``width`` is no multiple of ``heads``; at a call with T above ``context``.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        context: int = 64,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        tied: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, 0, 0.02)
        self.positions = nn.Parameter(0.02 * torch.randn(context, width))
        self.blocks = nn.Sequential(*(Block(width, heads, causal=True) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = None if tied else nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        length, context = tokens.shape[1], self.positions.shape[0]
        if length > context:
            raise ValueError(f"{length} tokens are more than the context of {context}")
        x = self.norm(self.blocks(self.embedding(tokens) + self.positions[:length]))
        # Not a second name for one parameter: what goes by name meets each parameter once.
        return F.linear(x, self.embedding.weight) if self.head is None else self.head(x)


class VisionTransformer(nn.Module):
    """(N, in_channels, image_size, image_size) -> (N, num_classes) logits of its patches' mean.

    Raises ValueError when patches of `patch` x `patch` pixels do not fill the image.
    """

    def __init__(
        self,
        width: int = 64,
        layers: int = 4,
        heads: int = 4,
        *,
        patch: int = 4,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
    ) -> None:
        super().__init__()
        if image_size % patch:
            raise ValueError(
                f"images of {image_size} x {image_size} pixels are not filled by patches of "
                f"{patch} x {patch}"
            )
        self.patches = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn((image_size // patch) ** 2, width))
        self.encoder = Encoder(width, layers, heads)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2)
        return self.head(self.encoder(patches + self.positions).mean(1))
