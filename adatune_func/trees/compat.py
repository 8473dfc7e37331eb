"""What differs between versions of torch, in one place. The oldest is 2.0."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import overrides
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.utils import _python_dispatch as python_dispatch
from torch.utils._device import DeviceContext

# private parts of torch, or parts that come and go
_torch: Any = torch
_forward_ad: Any = forward_ad
_python_dispatch: Any = python_dispatch
_overrides: Any = overrides


def torch_version() -> tuple[int, int]:
    """The first two numbers of torch's version."""
    major, minor, *_ = torch.__version__.split(".")
    return int(major), int(minor)


def _never() -> bool:
    return False


#: torch 2.0 has no ``torch.compiler``, and no step compiles there.
is_compiling: Callable[[], bool] = getattr(getattr(torch, "compiler", None), "is_compiling", _never)

try:  # torch 2.3 and newer
    import torch.nn.attention as attention

    _attention: Any = attention

    def math_attention() -> AbstractContextManager[Any]:
        """``scaled_dot_product_attention`` as plain matrix products, differentiable at will."""
        return _attention.sdpa_kernel(_attention.SDPBackend.MATH)

except ImportError:

    def math_attention() -> AbstractContextManager[Any]:
        """``scaled_dot_product_attention`` as plain matrix products, differentiable at will."""
        # the flags of the CPU's kernels are kept there as well
        return _torch.backends.cuda.sdp_kernel(
            enable_flash=False, enable_math=True, enable_mem_efficient=False
        )


try:  # torch 2.4 and newer
    _torch.is_autocast_enabled("cpu")

    def autocast_dtype(device: str) -> torch.dtype | None:
        """What autocast on "cpu" or "cuda" casts to, ``None`` where it is off."""
        on = _torch.is_autocast_enabled(device)
        return _torch.get_autocast_dtype(device) if on else None

except TypeError:

    def autocast_dtype(device: str) -> torch.dtype | None:
        """What autocast on "cpu" or "cuda" casts to, ``None`` where it is off."""
        if device == "cpu":
            return _torch.get_autocast_cpu_dtype() if _torch.is_autocast_cpu_enabled() else None
        return _torch.get_autocast_gpu_dtype() if _torch.is_autocast_enabled() else None


def _default_device() -> tuple[Any, ...]:
    """Where ``torch.zeros(3)`` lies; torch 2.4 says it of no ``with torch.device(...)``."""
    stack: list[Any] = _overrides._get_current_function_mode_stack()
    return tuple(mode.device for mode in stack if isinstance(mode, DeviceContext))


def global_state() -> tuple[Any, ...]:
    """The modes and flags of torch that change which operations a function calls."""
    cuda, cudnn = _torch.backends.cuda, _torch.backends.cudnn
    return (
        _torch.is_grad_enabled(),
        _torch.is_inference_mode_enabled(),
        autocast_dtype("cpu"),
        autocast_dtype("cuda"),
        _torch.get_default_dtype(),
        _default_device(),
        _torch.are_deterministic_algorithms_enabled(),
        _torch.get_float32_matmul_precision(),
        cudnn.allow_tf32,
        cudnn.enabled,
        _torch._C._get_mkldnn_enabled(),
        cuda.flash_sdp_enabled(),
        cuda.mem_efficient_sdp_enabled(),
        cuda.math_sdp_enabled(),
    )


def is_tracing() -> bool:
    """Whether tensors have no numbers, as a graph is written down."""
    if is_compiling():  # dynamo cannot look at the stack of modes
        return True
    modes = _python_dispatch._get_current_dispatch_mode_stack()
    return any(isinstance(mode, ProxyTorchDispatchMode | FakeTensorMode) for mode in modes)


def is_transforming() -> bool:
    """Whether a function is called to be traced or differentiated or mapped, not to be run."""
    return (
        is_tracing()
        or _torch._C._functorch.peek_interpreter_stack() is not None
        or _forward_ad._current_level >= 0
    )


def left_forward_level() -> bool:
    """Leave a level of forward mode that nobody is in, as an error in compiled code has left one.

    Returns whether there was one.
    """
    if _forward_ad._current_level >= 0:
        return False
    try:
        _torch._C._exit_dual_level(level=0)
    except RuntimeError:
        return False
    return True


def lookup_backend(name: str) -> Callable[..., Any]:
    """What ``torch.compile`` calls by this name with a graph and its inputs."""
    import torch._dynamo as dynamo  # only who compiles pays for the import

    of: Any = dynamo
    return of.lookup_backend(name)


def _vector_units() -> Any:
    try:  # torch 2.5 and newer
        import torch._inductor.cpu_vec_isa as units
    except ImportError:
        import torch._inductor.codecache as units
    return units


def _yes(*_: object) -> bool:
    return True


@contextmanager
def vector_units_believed() -> Generator[None, None, None]:
    """No file is compiled to see whether the C++ compiler knows AMX or the later parts of AVX-512.

    Those are asked for by themselves, whatever ``cpp.vec_isa_ok`` says.
    """
    unit = _vector_units().VecISA
    asks = getattr(unit, "check_build", None)  # not before torch 2.5
    if asks is not None:
        unit.check_build = _yes
    try:
        yield
    finally:
        if asks is not None:
            unit.check_build = asks


def forget_vector_units() -> None:
    """Let inductor ask anew which of the processor's vector units the C++ compiler knows."""
    units = _vector_units()
    units.valid_vec_isa_list.cache_clear()
    each: list[Any] = units.supported_vec_isa_list
    for unit in each:
        kind: Any = unit.__class__
        getattr(kind.__bool__, "cache_clear", lambda: None)()
        kept: dict[str, Any] = unit.__dict__
        for name in [name for name in kept if name.endswith("_supported")]:
            del kept[name]  # what an answer left behind


def without_modes() -> AbstractContextManager[Any]:
    """Where operations run on real numbers, in the midst of tracing."""
    return _python_dispatch._disable_current_modes()
