"""The table of layers, continued: embeddings, recurrent networks, attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .entries import Layer, called, indices, layer, packed

ROWS = (5, 4)
TOKENS = (4, 3, 4)  # steps, batch, features


def attention(*args: Any, **kwargs: Any) -> Layer:
    return layer([TOKENS, TOKENS, TOKENS], nn.MultiheadAttention, 4, 2, *args, **kwargs)


def causal(module: nn.Module, x: Tensor) -> Any:
    mask = nn.Transformer.generate_square_subsequent_mask(len(x), dtype=x.dtype)
    return module(x, mask, is_causal=True)


def padded(module: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Any:
    mask = torch.zeros(3, 4, dtype=torch.bool)
    mask[0, 2:] = True
    return module(q, k, v, key_padding_mask=mask)


EMBEDDINGS = [
    layer(indices(5, 2), nn.Embedding, 7, 3),
    layer(indices(5, 2), nn.Embedding, 7, 3, padding_idx=1),
    layer(indices(5, 2), nn.Embedding, 7, 3, scale_grad_by_freq=True),
    layer(indices(5, 2), nn.Embedding, 7, 3, max_norm=1.0),
    layer(indices(5, 2), nn.Embedding, 7, 3, sparse=True),
    *(layer(indices(5, 2), nn.EmbeddingBag, 7, 3, mode=m) for m in ("sum", "mean", "max")),
    layer(indices(6, beside=[[0, 2, 3]]), nn.EmbeddingBag, 7, 3, padding_idx=1),
]

RECURRENT = [
    *(layer(TOKENS, kind, 4, 3) for kind in (nn.RNN, nn.LSTM, nn.GRU)),
    layer(TOKENS, nn.RNN, 4, 3, nonlinearity="relu", batch_first=True),
    layer(TOKENS, nn.LSTM, 4, 3, num_layers=2, bidirectional=True),
    layer(TOKENS, nn.LSTM, 4, 3, num_layers=2, dropout=0.3),
    layer(TOKENS, nn.LSTM, 4, 3, proj_size=2),
    layer(TOKENS, nn.GRU, 4, 3, num_layers=2, bias=False, batch_first=True),
    called("over packed sequences", layer(TOKENS, nn.GRU, 4, 3), packed),
    called("over packed sequences", layer(TOKENS, nn.LSTM, 4, 3), packed),
    layer([ROWS, (5, 3)], nn.RNNCell, 4, 3),
    layer([ROWS, (5, 3)], nn.RNNCell, 4, 3, nonlinearity="relu"),
    layer(ROWS, nn.LSTMCell, 4, 3),
    layer([ROWS, (5, 3)], nn.GRUCell, 4, 3),
]

ENCODER = layer(TOKENS, nn.TransformerEncoderLayer, 4, 2, 6, 0.0)

ATTENTION = [
    attention(),
    attention(bias=False, add_zero_attn=True),
    attention(add_bias_kv=True, batch_first=True),
    attention(dropout=0.3),
    layer([TOKENS, (5, 3, 3), (5, 3, 2)], nn.MultiheadAttention, 4, 2, kdim=3, vdim=2),
    called("with padding", attention(), padded),
    called("without weights", attention(), lambda m, *x: m(*x, need_weights=False)),
    ENCODER,
    layer(TOKENS, nn.TransformerEncoderLayer, 4, 2, 6, 0.3),
    layer(TOKENS, nn.TransformerEncoderLayer, 4, 2, 6, 0.0, "gelu", norm_first=True),
    layer(TOKENS, nn.TransformerEncoderLayer, 4, 2, 6, 0.0, batch_first=True, bias=False),
    called("with a causal mask", ENCODER, causal),
    Layer(
        "TransformerEncoder",
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 6, 0.0), 2),
        ENCODER.inputs,
    ),
    layer([TOKENS, TOKENS], nn.TransformerDecoderLayer, 4, 2, 6, 0.0),
    Layer(
        "TransformerDecoder",
        lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 6, 0.0), 2),
        layer([TOKENS, TOKENS], nn.Identity).inputs,
    ),
    layer([TOKENS, TOKENS], nn.Transformer, 4, 2, 1, 1, 6, 0.0),
]
