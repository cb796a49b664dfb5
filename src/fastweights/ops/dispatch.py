"""Which backend runs a call, and the reason when one cannot.

A kernel gets the addresses of its tensors. PyTorch's transforms, tracers and wrappers do not see
into it, and behind some tensors there is nothing at their address, or something else than their
values. What a kernel may be given, and when, is decided here, once for all kernels.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from fastweights.ops import native

__all__ = [
    "are_plain",
    "choose_backend",
    "dispatch_is_traced",
    "forward_mode_is_on",
    "has_lost_its_memory",
    "has_plain_memory",
    "has_tangent",
    "in_a_graph",
    "kernel_cannot_follow",
    "load_step",
    "plain_addresses",
    "save_step",
    "with_plain_memory",
]

logger = logging.getLogger("fastweights")


def choose_backend(
    requested: str, reasons: Mapping[str, Callable[[], str | None]], *, operation: str
) -> str:
    """The name of the backend to run.

    Args:
        requested: "auto" or a key of ``reasons``.
        reasons: for every backend, fastest first, a function that says why it cannot run this
            call, or returns None if it can.
        operation: what is run, for messages.

    Raises:
        ValueError: ``requested`` is not known, or cannot run this call; the message says why, and
            which can.

    Example:
        >>> choose_backend("auto", {"fast": lambda: "no GPU", "plain": lambda: None}, operation="f")
        'plain'
    """
    if requested != "auto":
        if requested not in reasons:
            known = ", ".join(map(repr, ["auto", *reasons]))
            raise ValueError(f"backend must be one of {known}, got {requested!r}")
        reason = reasons[requested]()
        if reason is not None:
            able = [name for name, why_not in reasons.items() if why_not() is None]
            can = f"; backend={able[0]!r} can" if able else ""
            raise ValueError(f"backend={requested!r} cannot run this {operation}: {reason}{can}")
        return requested
    refused: list[str] = []
    for name, why_not in reasons.items():
        reason = why_not()
        if reason is None:
            if not torch.compiler.is_compiling():  # which traces no logs, and warns of caches
                _say_once(operation, name, tuple(refused))
            return name
        if not torch.compiler.is_compiling() and reason == native.missing_reason():
            _warn_once(reason)
        refused.append(f"{name}: {reason}")
    raise ValueError(f"no backend can run this {operation}: {'; '.join(refused)}")


@functools.lru_cache(maxsize=256)
def _say_once(operation: str, chosen: str, refused: tuple[str, ...]) -> None:
    why = f" ({'; '.join(refused)})" if refused else ""
    logger.info("%s: backend %s%s", operation, chosen, why)


@functools.cache
def _warn_once(missing: str) -> None:
    logger.warning("fastweights runs without its fast kernels on this machine: %s", missing)


def dispatch_is_traced() -> bool:
    """Whether anything follows the operations of this call, so that a kernel must not hide one.

    That is a compiler, an exporter or a tracer, a transform of ``torch.func``, or a mode that sees
    every operation.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._is_tracing()
    )


def forward_mode_is_on() -> bool:
    """Whether tensors may have tangents, of forward-mode differentiation."""
    return forward_ad._current_level >= 0


def has_tangent(tensor: Tensor) -> bool:
    """Whether forward-mode differentiation asks for what comes of the tensor."""
    return forward_mode_is_on() and forward_ad.unpack_dual(tensor).tangent is not None


_PLAIN_TYPES = frozenset((Tensor, nn.Parameter))


def has_plain_memory(tensor: Tensor) -> bool:
    """Whether the numbers at the tensor's address are certainly its values.

    Of a tensor of no numbers, of one on the meta device and of a subclass it is not certain.

    Example:
        >>> negated = torch.ones(2, dtype=torch.complex64).conj().imag
        >>> has_plain_memory(torch.ones(2)), has_plain_memory(negated)
        (True, False)
    """
    if type(tensor) not in _PLAIN_TYPES:
        return False
    try:
        return tensor.data_ptr() != 0 and not tensor.is_neg()
    except RuntimeError:  # it has no address: sparse, or the wrapper of a transform
        return False


def are_plain(
    tensors: Iterable[Tensor | None],
    shapes: Iterable[Sequence[int] | None],
    dtype: torch.dtype,
    device: torch.device,
) -> bool:
    """Whether all that are there have these shapes, this dtype and device, and plain memory.

    The question of :func:`has_plain_memory` for all tensors of a call at once, which is asked at
    every call. Of an unusual tensor the answer is False, whatever it is.

    Example:
        >>> x = torch.ones(2)
        >>> are_plain([x, None], [(2,), None], x.dtype, x.device)
        True
        >>> are_plain([x, x[:1]], [(2,), (2,)], x.dtype, x.device)
        False
    """
    try:
        for tensor, shape in zip(tensors, shapes, strict=True):
            if tensor is not None and (
                type(tensor) not in _PLAIN_TYPES
                or tensor.shape != shape
                or tensor.dtype is not dtype
                or tensor.device != device
                or tensor.data_ptr() == 0
                or tensor.is_neg()
            ):
                return False
    except RuntimeError:  # nested, sparse, or the wrapper of a transform
        return False
    return True


def plain_addresses(
    columns: Iterable[Sequence[Tensor | None]], like: Sequence[Tensor], dtype: torch.dtype
) -> list[int] | None:
    """Where the values of tensors on the CPU lie, one after another, or None if that is uncertain.

    The question of :func:`has_plain_memory` for lists of tensors that each have the shapes of
    ``like``, which is asked at every step of an optimizer. The address of no tensor is 0.

    Example:
        >>> w, g = torch.ones(2), torch.ones(2)
        >>> plain_addresses([[w], [g]], [w], w.dtype) == [w.data_ptr(), g.data_ptr()]
        True
        >>> plain_addresses([[g.expand(2, 2)]], [torch.ones(2, 2)], g.dtype) is None
        True
    """
    wanted = [(x.shape, x.nbytes) for x in like]
    item, plain = dtype.itemsize, _PLAIN_TYPES
    found: list[int] = []
    try:
        for column in columns:
            for tensor, (shape, size) in zip(column, wanted, strict=True):
                if tensor is None:
                    found.append(0)
                    continue
                if (
                    type(tensor) not in plain
                    or tensor.dtype is not dtype
                    or tensor.shape != shape
                    or not tensor.is_cpu
                    or tensor.is_neg()
                    or not tensor.is_contiguous()
                    or tensor.untyped_storage().nbytes() < tensor.storage_offset() * item + size
                ):
                    return None
                found.append(address := tensor.data_ptr())
                if address == 0:
                    return None
    except RuntimeError:  # sparse, or the wrapper of a transform
        return None
    return found


def with_plain_memory(tensor: Tensor) -> Tensor:
    """The same values, written out where they were only promised: negations and zeros.

    Example:
        >>> has_plain_memory(with_plain_memory(torch.ones(2, dtype=torch.complex64).conj().imag))
        True
    """
    if tensor._is_zerotensor():
        tensor = tensor.clone()
    return tensor.resolve_neg() if tensor.is_neg() else tensor


def in_a_graph(tensor: Tensor) -> bool:
    """Whether anything is differentiated through the tensor, at any level of any transform.

    ``requires_grad`` alone tells of the innermost.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> in_a_graph(x), in_a_graph(x.detach())
        (True, False)
        >>> seen = []
        >>> watched = torch.func.vmap(lambda x: seen.append((x.requires_grad, in_a_graph(x))) or x)
        >>> _ = torch.func.grad(lambda x: watched(x).sum())(torch.ones(2)); seen
        [(False, True)]
    """
    if torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        return True  # a compiler cannot look below, and must not lose a gradient
    functorch = torch._C._functorch
    while not tensor.requires_grad:
        if torch.compiler.is_compiling():
            return False
        batched = functorch.is_batchedtensor(tensor)  # has no tangent of its own
        if not batched and has_tangent(tensor):
            return True
        if not batched and not functorch.is_functorch_wrapped_tensor(tensor):
            return False
        tensor = functorch.get_unwrapped(tensor)
    return True


def kernel_cannot_follow(tensors: Iterable[Tensor], *, registered: bool = True) -> str | None:
    """Why no kernel may run this call on these tensors, or None if one may.

    Where the answer is None and :func:`dispatch_is_traced`, it must run as an op that is registered
    with PyTorch, which compilers, exporters and modes see. Without such an op (``registered`` is
    false) no kernel may run there.

    Example:
        >>> kernel_cannot_follow([torch.ones(2)]) is None
        True
        >>> torch.func.vmap(lambda x: print(kernel_cannot_follow([x])) or x)(torch.ones(2))
        torch.func and vmap do not see into a kernel
        tensor([1., 1.])
    """
    if torch._C._are_functorch_transforms_active():
        return "torch.func and vmap do not see into a kernel"
    if torch.compiler.is_compiling():
        if not registered:
            return "torch.compile cannot look into another compiler's kernel"
        return "ONNX has no operator for a kernel" if _exports_to_onnx() else None
    if torch._C._is_tracing():
        return "torch.jit.trace does not see into a kernel"
    if not registered:
        if torch._C._len_torch_dispatch_stack():
            return "a mode that sees every operation does not see into a kernel"
        if forward_mode_is_on():
            return "forward-mode differentiation does not see into a kernel"
    if any(_counts_flops(mode) for mode in _get_current_dispatch_mode_stack()):
        return "FlopCounterMode does not see into a kernel"
    for tensor in tensors:
        if has_tangent(tensor):
            return "forward-mode differentiation does not see into a kernel"
        if _acts_differently(type(tensor)):
            return f"{type(tensor).__name__} is a subclass with operations of its own"
        if _is_wrapper(tensor):
            return "a tensor has no memory of its own"
    return None


def _exports_to_onnx() -> bool:
    """As ``torch.onnx.is_in_onnx_export`` says it, which the compiler takes to be False."""
    flags = sys.modules.get("torch.onnx._internal.exporter._flags")
    return getattr(flags, "_is_onnx_exporting", False) or torch.onnx.is_in_onnx_export()


def _is_wrapper(tensor: Tensor) -> bool:
    """Whether the tensor stands for another, of a transform that is at work or over."""
    return _address(tensor) is None


def has_lost_its_memory(tensor: Tensor) -> bool:
    """Whether there should be numbers, but the storage was freed, as FSDP does between uses."""
    return _address(tensor) == 0 and tensor.numel() > 0 and not tensor.is_meta


def _address(tensor: Tensor) -> int | None:
    """Of a tensor of no other class; None where there can be none, 1 where nobody may ask."""
    if type(tensor) not in _PLAIN_TYPES:
        return 1
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return None


def _counts_flops(mode: object) -> bool:
    return type(mode).__module__ == "torch.utils.flop_counter"


@functools.lru_cache(maxsize=256)
def _acts_differently(kind: type[Tensor]) -> bool:
    """Whether operations on tensors of this class may be something else than they are."""
    if kind in _PLAIN_TYPES or issubclass(kind, torch._subclasses.FakeTensor):
        return False  # a fake tensor is what the registered ops have shapes for
    function, dispatch = kind.__torch_function__, kind.__torch_dispatch__
    plain = (Tensor.__torch_function__, torch._C._disabled_torch_function_impl)
    # Bound to the class anew each time, so only what is bound can be compared.
    return getattr(function, "__func__", function) not in [
        getattr(f, "__func__", f) for f in plain
    ] or dispatch not in (Tensor.__torch_dispatch__, torch._C._disabled_torch_dispatch_impl)


# From the forward pass of a kernel to its backward pass


def save_step(ctx: Any, keep: bool, tensors: Sequence[Tensor | None]) -> None:
    """Keep tensors for the backward pass, with what :func:`load_step` compares them with."""
    ctx.save_for_backward(*tensors)
    ctx.keep = keep
    # A tracer may know sizes by name only; the op that it records compares nothing.
    ctx.looks = None
    if not dispatch_is_traced():
        ctx.looks = [
            None if x is None else (x.data_ptr(), x.shape, x.dtype, x.device) for x in tensors
        ]


def load_step(ctx: Any) -> tuple[Any, ...]:
    """What :func:`save_step` kept.

    Raises:
        RuntimeError: it is not what it was: a hook on saved tensors, or a cast or another use of a
            module's parameters between the passes; or nothing was kept.
    """
    if not ctx.keep:
        raise RuntimeError(
            "this call of the fused fast-weights recurrence kept nothing for a backward pass: it "
            "was exported or traced where no gradient was wanted; do that with gradients enabled"
        )
    tensors: tuple[Any, ...] = ctx.saved_tensors
    if ctx.looks is None:
        return tensors
    for tensor, look in zip(tensors, ctx.looks, strict=True):
        if look is not None:
            address, shape, dtype, _ = look
            try:
                if (
                    tensor.data_ptr() == address
                    and tensor.shape == shape
                    and tensor.dtype is dtype
                    and not tensor.is_neg()
                ):
                    continue
            except RuntimeError:  # of no memory
                pass
            _check_values(tensor, look)
    return tensors


def _check_values(
    tensor: Tensor, look: tuple[int, Sequence[int], torch.dtype, torch.device]
) -> None:
    """Raise unless a tensor that is elsewhere now, as after a hook, can hold what was saved."""
    address, *was = look
    numbers = address != 0
    now = [tensor.shape, tensor.dtype, tensor.device]
    if now != was or has_plain_memory(tensor) != numbers:
        raise RuntimeError(
            f"a tensor of {_described(was, numbers)} was saved for the backward pass of the fused "
            "fast-weights recurrence, and came back as one of "
            f"{_described(now, has_plain_memory(tensor))}: parameters must not be cast, moved or "
            "freed between the passes, and hooks on saved tensors must return what they were given"
        )


def _described(look: Sequence[Any], numbers: bool) -> str:
    shape, dtype, device = look
    return f"shape {tuple(shape)}, {dtype}, on {device}{'' if numbers else ', without numbers'}"
