"""Recording calls of the C++ kernels, to run them again where there is no Python.

``pytest --record-kernel-calls FOLDER …`` writes what each call of the tests is given and what it
leaves into a file of its own; ``native/replay.cpp`` says what is in it, runs it and compares.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastweights.ops import native
from tests.tolerances import TOLERANCES

__all__ = ["recording"]

LARGEST = 1 << 23  # bytes; emulators are slow
KEPT, CHANGED, WRITTEN = 0, 1, 2  # what a call does to a buffer
ARGUMENTS = -1


class Call:
    """The memory that a call's pointers lead to, block by block."""

    def __init__(self, tensors: dict[int, Tensor]) -> None:
        self._tensors = tensors  # by where they begin
        self.addresses: dict[int, int] = {}  # and their number
        self.elements: list[int] = []  # bytes of a real number, 0 where there are others
        self.before: list[bytes] = []
        self.pointers: list[tuple[int, int, int, int]] = []  # holder, place, target, offset

    def follow(self, arguments: Any, holder: int, place: int, kept: dict[int, Any]) -> None:
        """Find what the pointers in a struct lead to.

        Args:
            arguments: the struct.
            holder: the block that it is in, at ``place``.
            kept: the ctypes arrays that its pointers lead to, by address.
        """
        for owner in reversed(type(arguments).__mro__):
            for name, kind in vars(owner).get("_fields_", ()):
                at = place + getattr(type(arguments), name).offset
                value = getattr(arguments, name)
                if kind is ctypes.c_void_p:
                    if value:
                        self._point(holder, at, value)
                elif issubclass(kind, ctypes._Pointer) and value:
                    array = kept[ctypes.addressof(value.contents)]
                    block = self._block(ctypes.addressof(array), ctypes.sizeof(array), 0)
                    self.pointers.append((holder, at, block, 0))
                    for index, item in enumerate(array):
                        self.follow(item, block, index * ctypes.sizeof(item), kept)

    def after(self) -> list[bytes]:
        pairs = zip(self.addresses, self.before, strict=True)
        return [ctypes.string_at(address, len(before)) for address, before in pairs]

    def _point(self, holder: int, place: int, address: int) -> None:
        tensor = self._tensors[address]
        storage = tensor.untyped_storage()
        real = tensor.element_size() if tensor.is_floating_point() else 0
        block = self._block(storage.data_ptr(), storage.nbytes(), real)
        self.pointers.append((holder, place, block, address - storage.data_ptr()))

    def _block(self, address: int, size: int, element: int) -> int:
        if address not in self.addresses:
            self.addresses[address] = len(self.addresses)
            self.elements.append(element)
            self.before.append(ctypes.string_at(address, size))
        return self.addresses[address]


def _arrays(arguments: ctypes.Structure) -> dict[int, Any]:
    """The ctypes arrays that a struct keeps alive, by address."""
    found: dict[int, Any] = {}
    waiting: list[Any] = [arguments._objects]
    while waiting:
        item = waiting.pop()
        if isinstance(item, ctypes.Array):
            found[ctypes.addressof(item)] = item
        elif isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, tuple):
            waiting += item
    return found


@contextlib.contextmanager
def recording(folder: Path) -> Iterator[None]:
    """Inside, every call of a kernel is written to a file in the folder.

    Uninitialised tensors are filled with NaN meanwhile, which finds kernels that read them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run, data_ptr = native.run, Tensor.data_ptr
    strict = torch.are_deterministic_algorithms_enabled()
    tensors: dict[int, Tensor] = {}
    numbers = itertools.count()

    def noted(tensor: Tensor) -> int:
        address = data_ptr(tensor)
        tensors[address] = tensor
        return address

    def recorded(kernel: native.Kernel, arguments: native.Work, threads: int = 1) -> None:
        call = Call(tensors)
        call.follow(arguments, ARGUMENTS, 0, _arrays(arguments))
        before = bytes(arguments)
        run(kernel, arguments, threads)
        tensors.clear()
        if sum(map(len, call.before)) <= LARGEST:
            content = _content(kernel.call.__name__, threads, before, call)
            path = folder / f"{next(numbers):05d}-{kernel.call.__name__}.call"
            path.write_bytes(content)

    native.run = recorded
    Tensor.data_ptr = noted  # type: ignore[method-assign]
    torch.use_deterministic_algorithms(True)  # which fills them
    try:
        yield
    finally:
        native.run = run
        del Tensor.data_ptr  # what it inherits
        torch.use_deterministic_algorithms(strict)


def _content(name: str, threads: int, arguments: bytes, call: Call) -> bytes:
    dtype = torch.float64 if name.endswith("64") else torch.float32
    out = [_block(name.encode()), struct.pack("<qd", threads, TOLERANCES[dtype])]
    out += [_block(arguments), struct.pack("<q", len(call.before))]
    for before, after, element in zip(call.before, call.after(), call.elements, strict=True):
        role = KEPT if before == after else WRITTEN if _undefined(before, element) else CHANGED
        out += [struct.pack("<qq", role, element), _block(before)]
        out += [] if role == KEPT else [_block(after)]
    out += [struct.pack("<q", len(call.pointers))]
    out += [struct.pack("<qqqq", *pointer) for pointer in call.pointers]
    return b"".join(out)


def _block(content: bytes) -> bytes:
    return struct.pack("<q", len(content)) + content


def _undefined(content: bytes, element: int) -> bool:
    if not element:
        return False
    dtype = torch.float64 if element == 8 else torch.float32
    return bool(torch.frombuffer(bytearray(content), dtype=dtype).isnan().all())
