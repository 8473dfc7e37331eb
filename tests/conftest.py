"""What every test starts from."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo


@pytest.fixture(autouse=True)
def fresh_start():
    """Seeds and compiled code of one test never reach another."""
    torch.manual_seed(0)
    torch._dynamo.reset()


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "cuda" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device here"))
