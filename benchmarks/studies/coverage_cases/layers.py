"""The table of layers: every class of torch.nn, with its usual options."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils import parametrizations

from .entries import (
    Layer,
    Parameters,
    after,
    each,
    layer,
    unpooled,
    warmed,
)
from .sequences import ATTENTION, EMBEDDINGS, RECURRENT, ROWS, TOKENS

#: Classes of torch.nn that no table has, and why.
LEFT_OUT = {
    "Module": "the base of all",
    "Container": "the base of containers, deprecated",
    "RNNBase": "the base of RNN, LSTM and GRU",
    "RNNCellBase": "the base of the cells",
    "DataParallel": "needs several devices",
    "SyncBatchNorm": "needs a process group",
}

SERIES, IMAGE, VOLUME = (3, 4, 6), (3, 4, 6, 6), (2, 4, 4, 4, 4)


def frozen(module: nn.Module) -> Any:
    return module.requires_grad_(False)


def cayley(module: nn.Module) -> Any:
    return parametrizations.orthogonal(module, orthogonal_map="cayley")


LINEAR = [
    layer(ROWS, nn.Linear, 4, 3),
    layer(ROWS, nn.Linear, 4, 3, bias=False),
    layer([ROWS, (5, 3)], nn.Bilinear, 4, 3, 2),
    layer([ROWS, (5, 3)], nn.Bilinear, 4, 3, 2, bias=False),
    layer(ROWS, nn.LazyLinear, 3),
    warmed(layer(ROWS, nn.LazyLinear, 3)),
    Layer(
        "Sequential(Linear, Tanh, Linear)",
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)),
        layer(ROWS, nn.Identity).inputs,
    ),
    layer(ROWS, Parameters),
    after("with weight_norm", layer(ROWS, nn.Linear, 4, 3), parametrizations.weight_norm),
    after("with spectral_norm", layer(ROWS, nn.Linear, 4, 3), parametrizations.spectral_norm),
    # not the third map, "householder": it casts a diagonal of -1 to int, and jumps at its own start
    after("with orthogonal", layer(ROWS, nn.Linear, 4, 4), parametrizations.orthogonal),
    after("with cayley", layer(ROWS, nn.Linear, 4, 3), cayley),
]

CONVOLUTIONS = [
    layer(SERIES, nn.Conv1d, 4, 2, 3),
    layer(SERIES, nn.Conv1d, 4, 4, 3, groups=2, padding=1),
    layer(IMAGE, nn.Conv2d, 4, 2, 3),
    layer(IMAGE, nn.Conv2d, 4, 2, 3, stride=2, padding=1, bias=False),
    layer(IMAGE, nn.Conv2d, 4, 4, 3, groups=4),
    layer(IMAGE, nn.Conv2d, 4, 2, 3, dilation=2),
    layer(IMAGE, nn.Conv2d, 4, 2, 3, padding="same"),
    layer(IMAGE, nn.Conv2d, 4, 2, 3, padding=1, padding_mode="reflect"),
    layer(IMAGE, nn.Conv2d, 4, 2, 3, padding=1, padding_mode="circular"),
    layer(IMAGE, nn.Conv2d, 4, 2, 3, padding=1, padding_mode="replicate"),
    layer(VOLUME, nn.Conv3d, 4, 2, 2),
    layer(SERIES, nn.ConvTranspose1d, 4, 2, 3),
    layer(IMAGE, nn.ConvTranspose2d, 4, 2, 3, stride=2, output_padding=1),
    layer(IMAGE, nn.ConvTranspose2d, 4, 4, 3, groups=2, dilation=2),
    layer(VOLUME, nn.ConvTranspose3d, 4, 2, 2),
    *(
        entry
        for kind, shape in [
            (nn.LazyConv1d, SERIES),
            (nn.LazyConv2d, IMAGE),
            (nn.LazyConv3d, VOLUME),
            (nn.LazyConvTranspose1d, SERIES),
            (nn.LazyConvTranspose2d, IMAGE),
            (nn.LazyConvTranspose3d, VOLUME),
        ]
        for entry in (layer(shape, kind, 2, 2), warmed(layer(shape, kind, 2, 2)))
    ),
]

NORMS = [
    layer(ROWS, nn.BatchNorm1d, 4),
    layer(SERIES, nn.BatchNorm1d, 4, momentum=None),
    layer(IMAGE, nn.BatchNorm2d, 4),
    layer(IMAGE, nn.BatchNorm2d, 4, affine=False),
    layer(IMAGE, nn.BatchNorm2d, 4, track_running_stats=False),
    layer(VOLUME, nn.BatchNorm3d, 4),
    after("in eval mode", layer(IMAGE, nn.BatchNorm2d, 4), lambda m: m.eval()),
    after("frozen", layer(IMAGE, nn.BatchNorm2d, 4), frozen),
    layer(SERIES, nn.InstanceNorm1d, 4, affine=True),
    layer(IMAGE, nn.InstanceNorm2d, 4),
    layer(IMAGE, nn.InstanceNorm2d, 4, affine=True, track_running_stats=True),
    layer(VOLUME, nn.InstanceNorm3d, 4, affine=True),
    layer(IMAGE, nn.GroupNorm, 2, 4),
    layer(IMAGE, nn.GroupNorm, 2, 4, affine=False),
    after("frozen", layer(IMAGE, nn.GroupNorm, 2, 4), frozen),
    layer(TOKENS, nn.LayerNorm, 4),
    layer(TOKENS, nn.LayerNorm, 4, bias=False),
    layer(TOKENS, nn.LayerNorm, [3, 4], elementwise_affine=False),
    after("frozen", layer(TOKENS, nn.LayerNorm, 4), frozen),
    layer(TOKENS, nn.RMSNorm, 4),
    layer(TOKENS, nn.RMSNorm, 4, elementwise_affine=False),
    after("frozen", layer(TOKENS, nn.RMSNorm, 4), frozen),
    layer(IMAGE, nn.LocalResponseNorm, 2),
    layer(IMAGE, nn.CrossMapLRN2d, 2),
    *(
        entry
        for kind, shape in [
            (nn.LazyBatchNorm1d, SERIES),
            (nn.LazyBatchNorm2d, IMAGE),
            (nn.LazyBatchNorm3d, VOLUME),
            (nn.LazyInstanceNorm1d, SERIES),
            (nn.LazyInstanceNorm2d, IMAGE),
            (nn.LazyInstanceNorm3d, VOLUME),
        ]
        for entry in (layer(shape, kind), warmed(layer(shape, kind, affine=True)))
    ),
]

ACTIVATIONS = [
    *each(ROWS, nn.CELU, nn.ELU, nn.GELU, nn.GLU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish),
    *each(ROWS, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.PReLU),
    *each(ROWS, nn.ReLU, nn.ReLU6, nn.RReLU, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus),
    *each(ROWS, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink),
    layer(ROWS, nn.CELU, alpha=0.5),
    layer(ROWS, nn.ELU, alpha=0.5),
    layer(ROWS, nn.GELU, approximate="tanh"),
    layer(ROWS, nn.Hardtanh, -0.5, 0.7),
    layer(ROWS, nn.LeakyReLU, 0.2),
    layer(IMAGE, nn.LogSoftmax, dim=1),
    layer(ROWS, nn.PReLU, 4),
    layer(ROWS, nn.Softmax, dim=1),
    layer(IMAGE, nn.Softmax2d),
    layer(ROWS, nn.Softmin, dim=1),
    layer(ROWS, nn.Softplus, beta=2, threshold=1),
    layer(ROWS, nn.Threshold, 0.1, 0.3),
    after("in eval mode", layer(ROWS, nn.RReLU), lambda m: m.eval()),
    *(layer(ROWS, kind, inplace=True) for kind in (nn.ReLU, nn.ELU, nn.SiLU, nn.Hardtanh)),
]

DROPOUTS = [
    layer(ROWS, nn.Dropout, 0.3),
    layer(ROWS, nn.Dropout, 0.3, inplace=True),
    layer(SERIES, nn.Dropout1d, 0.3),
    layer(IMAGE, nn.Dropout2d, 0.3),
    layer(VOLUME, nn.Dropout3d, 0.3),
    layer(ROWS, nn.AlphaDropout, 0.3),
    layer(IMAGE, nn.FeatureAlphaDropout, 0.3),
]

POOLING = [
    *(layer(SERIES, kind, 2) for kind in (nn.AvgPool1d, nn.MaxPool1d)),
    *(layer(IMAGE, kind, 2) for kind in (nn.AvgPool2d, nn.MaxPool2d)),
    *(layer(VOLUME, kind, 2) for kind in (nn.AvgPool3d, nn.MaxPool3d)),
    layer(IMAGE, nn.MaxPool2d, 3, stride=2, padding=1, ceil_mode=True),
    layer(IMAGE, nn.MaxPool2d, 2, dilation=2),
    layer(IMAGE, nn.AvgPool2d, 3, padding=1, count_include_pad=False),
    layer(SERIES, nn.LPPool1d, 2, 2),
    layer(IMAGE, nn.LPPool2d, 2, 2),
    layer(IMAGE, nn.LPPool2d, 4, 2),
    layer(VOLUME, nn.LPPool3d, 2, 2),
    *(layer(SERIES, kind, 2) for kind in (nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d)),
    *(layer(IMAGE, kind, 2) for kind in (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)),
    *(layer(VOLUME, kind, 2) for kind in (nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d)),
    layer(IMAGE, nn.FractionalMaxPool2d, 2, output_size=3),
    layer(VOLUME, nn.FractionalMaxPool3d, 2, output_size=2),
    unpooled(SERIES, nn.MaxPool1d, nn.MaxUnpool1d),
    unpooled(IMAGE, nn.MaxPool2d, nn.MaxUnpool2d),
    unpooled(VOLUME, nn.MaxPool3d, nn.MaxUnpool3d),
]

SHAPES = [
    layer(ROWS, nn.Identity),
    layer(IMAGE, nn.Flatten),
    layer(ROWS, nn.Unflatten, 1, (2, 2)),
    layer(IMAGE, nn.Unfold, 2),
    layer((2, 8, 4), nn.Fold, (3, 3), 2),
    layer(IMAGE, nn.ChannelShuffle, 2),
    layer(IMAGE, nn.PixelShuffle, 2),
    layer(IMAGE, nn.PixelUnshuffle, 2),
    *(layer(SERIES, getattr(nn, f"{p}Pad1d"), 1) for p in ("Reflection", "Replication")),
    *(layer(SERIES, getattr(nn, f"{p}Pad1d"), 1) for p in ("Circular", "Zero")),
    *(layer(IMAGE, getattr(nn, f"{p}Pad2d"), 1) for p in ("Reflection", "Replication")),
    *(layer(IMAGE, getattr(nn, f"{p}Pad2d"), 1) for p in ("Circular", "Zero")),
    *(layer(VOLUME, getattr(nn, f"{p}Pad3d"), 1) for p in ("Reflection", "Replication")),
    *(layer(VOLUME, getattr(nn, f"{p}Pad3d"), 1) for p in ("Circular", "Zero")),
    layer(SERIES, nn.ConstantPad1d, 1, 0.5),
    layer(IMAGE, nn.ConstantPad2d, 1, 0.5),
    layer(VOLUME, nn.ConstantPad3d, 1, 0.5),
    *(layer(IMAGE, nn.Upsample, scale_factor=2, mode=m) for m in ("nearest", "bilinear")),
    layer(IMAGE, nn.Upsample, scale_factor=2, mode="bicubic", align_corners=True),
    layer(IMAGE, nn.UpsamplingNearest2d, scale_factor=2),
    layer(IMAGE, nn.UpsamplingBilinear2d, scale_factor=2),
]

DISTANCES = [
    layer([ROWS, ROWS], nn.CosineSimilarity),
    layer([ROWS, ROWS], nn.PairwiseDistance),
    layer([ROWS, ROWS], nn.PairwiseDistance, p=1),
    layer([ROWS, ROWS], nn.PairwiseDistance, p=3, keepdim=True),
]

LAYERS = [
    *(LINEAR + CONVOLUTIONS + NORMS + ACTIVATIONS + DROPOUTS + POOLING + SHAPES),
    *(DISTANCES + EMBEDDINGS + RECURRENT + ATTENTION),
]
