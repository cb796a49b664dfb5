"""A vector type for Numba: one register of floats, each lane a different sample.

LLVM's loop vectoriser gives up on kernels whose accumulators must stay in registers over an
inner loop, so the kernels say what they mean: :func:`load` a vector from a flat array, combine
vectors with ``+ - *`` and :func:`fma`, :func:`store` the result. All lanes do the same
arithmetic in the same order and never meet, so a sample's numbers do not depend on which other
samples are in the batch.
"""

from __future__ import annotations

import operator
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, overload, register_model
from numba.np import arrayobj

__all__ = [
    "FLOATS",
    "INTEGERS",
    "LANES",
    "address_of",
    "array_at",
    "claim",
    "fma",
    "lanes_of",
    "load",
    "masked",
    "prefetch",
    "root",
    "spread",
    "store",
    "transpose",
]

_features = llvmlite.binding.get_host_cpu_features()
# Zen 4 works through a wide register half by half: short ones are as fast and waste fewer lanes.
_halves = llvmlite.binding.get_host_cpu_name() == "znver4"
_REGISTER_BITS = 512 if _features.get("avx512f") and not _halves else 256

# For `array_at`: what a kernel reads that is not of the kind it computes in.
INTEGERS, FLOATS = np.empty(0, np.int64), np.empty(0, np.float64)

LANES = {numba.float32: _REGISTER_BITS // 32, numba.float64: _REGISTER_BITS // 64}


def lanes_of(itemsize: int) -> int:
    """Samples per vector for floats of ``itemsize`` bytes."""
    return _REGISTER_BITS // (8 * itemsize)


class Vector(types.Type):
    """LANES[element] floats in one value."""

    def __init__(self, element: types.Float) -> None:
        self.element = element
        super().__init__(name=f"Vector({element}x{LANES[element]})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, _llvm_type(kind))


def _llvm_type(kind: Vector) -> ir.VectorType:
    scalar = ir.FloatType() if kind.element == numba.float32 else ir.DoubleType()
    return ir.VectorType(scalar, LANES[kind.element])


def _address(context: Any, builder: Any, kind: types.Array, array: Any, index: Any) -> Any:
    data = cgutils.create_struct_proxy(kind)(context, builder, value=array).data
    vector = _llvm_type(Vector(kind.dtype))
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


@intrinsic
def array_at(typing: Any, address: Any, like: Any, shape: Any) -> Any:
    """The contiguous array of this shape whose first number is at ``address``, in like's dtype.

    For a kernel that gets many tensors: an address costs a tenth of a NumPy view. Nobody counts
    references to it.
    """
    kind = types.Array(like.dtype, len(shape), "C")

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = arrayobj.make_array(kind)(context, builder)
        lengths = cgutils.unpack_tuple(builder, args[2], len(shape))
        itemsize = context.get_constant(types.intp, kind.dtype.bitwidth // 8)
        steps = [itemsize]
        for length in lengths[:0:-1]:
            steps.insert(0, builder.mul(steps[0], length))
        data = builder.inttoptr(args[0], array.data.type)
        arrayobj.populate_array(array, data, lengths, steps, itemsize, None)
        return array._getvalue()

    return kind(types.intp, like, shape), generate


@intrinsic
def address_of(typing: Any, pointer: Any) -> Any:
    """Where a pointer points."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], context.get_value_type(types.intp))

    return types.intp(pointer), generate


@intrinsic
def claim(typing: Any, array: Any, index: Any) -> Any:
    """The number at ``index``, which goes up by one: no two threads get the same.

    Whoever finds it raised sees what the others wrote before they raised it.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0]).data
        one = context.get_constant(array.dtype, 1)
        return builder.atomic_rmw("add", builder.gep(data, [args[1]]), one, "acq_rel")

    return array.dtype(array, types.intp), generate


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """The vector that starts at ``index`` of a flat contiguous array."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.load(_address(context, builder, signature.args[0], *args))
        value.align = signature.args[0].dtype.bitwidth // 8
        return value

    return Vector(array.dtype)(array, types.intp), generate


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write a vector at ``index`` of a flat contiguous array."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array, index, value = args
        address = _address(context, builder, signature.args[0], array, index)
        builder.store(value, address).align = signature.args[0].dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


@intrinsic
def prefetch(typing: Any, array: Any, index: Any) -> Any:
    """Begin to bring the cache line of ``index`` near, to be written to or read."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0]).data
        address = builder.bitcast(builder.gep(data, [args[1]]), _BYTES)
        kind = ir.FunctionType(ir.VoidType(), [_BYTES, *[ir.IntType(32)] * 3])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [address, _int(_WRITE), _int(_NEAREST), _int(_DATA)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


_BYTES = ir.IntType(8).as_pointer()
_WRITE, _NEAREST, _DATA = 1, 3, 1  # as LLVM numbers them


@intrinsic
def transpose(
    typing: Any, out: Any, out_at: Any, out_step: Any, x: Any, x_at: Any, x_step: Any
) -> Any:
    """A square of as many rows as a vector has lanes, transposed: out[i, j] = x[j, i].

    Rows are vectors ``step`` numbers apart in the arrays. The transposition is one of blocks of
    two by two, once for each bit of the row number.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        out, out_at, out_step, x, x_at, x_step = args
        vector = _llvm_type(Vector(signature.args[3].dtype))
        count, align = vector.count, signature.args[3].dtype.bitwidth // 8

        def row(kind: Any, array: Any, at: Any, step: Any, index: int) -> Any:
            offset = builder.mul(step, ir.Constant(step.type, index))
            return _address(context, builder, kind, array, builder.add(at, offset))

        rows = []
        for i in range(count):
            rows.append(builder.load(row(signature.args[3], x, x_at, x_step, i)))
            rows[i].align = align
        distance = count // 2
        while distance:
            for i in range(count):
                if i & distance:
                    continue
                a, b = rows[i], rows[i + distance]
                low = [j ^ distance | count if j & distance else j for j in range(count)]
                high = [j | count if j & distance else j | distance for j in range(count)]
                rows[i] = builder.shuffle_vector(a, b, _lanes(low))
                rows[i + distance] = builder.shuffle_vector(a, b, _lanes(high))
            distance //= 2
        for i in range(count):
            address = row(signature.args[0], out, out_at, out_step, i)
            builder.store(rows[i], address).align = align
        return context.get_dummy_value()

    index = types.intp
    return types.void(out, index, index, x, index, index), generate


def _lanes(numbers: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), numbers)


@intrinsic
def spread(typing: Any, scalar: Any) -> Any:
    """A vector with the scalar in every lane."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = _llvm_type(signature.return_type)
        first = builder.insert_element(ir.Constant(vector, ir.Undefined), args[0], _int(0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None)
        return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), lanes)

    return Vector(scalar)(scalar), generate


def _int(value: int) -> ir.Constant:
    return ir.Constant(ir.IntType(32), value)


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a · b + c, fused where the machine can."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, b, c = args
        return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))

    return a(a, b, c), generate


@intrinsic
def masked(typing: Any, value: Any, by: Any) -> Any:
    """``value`` where ``by`` is positive, 0 elsewhere; ``masked(x, x)`` is ReLU."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, by = args
        zero = ir.Constant(_llvm_type(signature.return_type), None)
        # unordered: a NaN must come through, not turn into a quiet zero
        return builder.select(builder.fcmp_unordered(">", by, zero), value, zero)

    return value(value, by), generate


@intrinsic
def root(typing: Any, value: Any) -> Any:
    """The square root of every lane."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = _llvm_type(signature.return_type)
        suffix = f"v{vector.count}f{signature.return_type.element.bitwidth}"
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector]), f"llvm.sqrt.{suffix}"
        )
        return builder.call(function, args)

    return value(value), generate


def _define(symbol: Any, method: str) -> None:
    """Let Numba code write ``a symbol b`` for two vectors."""

    @intrinsic
    def operation(typing: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, method)(*args)

        return a(a, b), generate

    @overload(symbol, strict=False)
    def _of_vectors(a: Any, b: Any) -> Any:
        if isinstance(a, Vector) and a == b:
            return lambda a, b: operation(a, b)
        return None


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")
_define(operator.truediv, "fdiv")
