"""torchvision's data sets beside whatever build of torch there is."""

import importlib
from functools import cache
from types import ModuleType
from typing import Any

import torch


def torchvision_datasets() -> ModuleType:
    """torchvision.datasets, even where torchvision was built for CUDA and torch was not.

    There its library of operators does not load and the import stops at "operator torchvision::nms
    does not exist", although data sets need no operator; two declarations carry it past that.
    """
    try:
        return importlib.import_module("torchvision.datasets")
    except ImportError:
        raise ImportError("this data set needs torchvision: pip install torchvision") from None
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    _declare_operators()
    # What the failed import finished stays in sys.modules and is used as it is: importing it again
    # would register its operators twice.
    return importlib.import_module("torchvision.datasets")


@cache  # the declarations last as long as the object
def _declare_operators() -> torch.library.Library:
    library: Any = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define(
        "qnms(Tensor dets, Tensor scores, float scale, int zero_point, float iou_threshold)"
        " -> Tensor"
    )
    return library
