"""Operations on vector registers for compiled loops: several float32 numbers at once (extra ``fast``).

numba compiles a short loop over the numbers of a row, such as the 20 of a small student, number by number. These
functions always compile to vector instructions. An address is an index into the flat memory of a contiguous array.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

WIDTH = 8
"""Numbers in the registers of rows of any length."""

BYTE_POINTER, INDEX, FLAG = ir.IntType(8).as_pointer(), ir.IntType(64), ir.IntType(32)
LINE = 16
"""Numbers in one line of the cache."""

POLYNOMIAL = (
    1.535336188319500e-4, 1.339887440266574e-3, 9.618437357674640e-3, 5.550332471162809e-2, 2.402264791363012e-1,
    6.931472028550421e-1, 1.0,
)  # fmt: skip
"""Factors of :func:`power_of_two`, the highest power first."""

operation: Any = intrinsic(prefer_literal=True)
"""Decorates a function that returns a signature and what writes the code; kernels call it without the context."""


class Lanes(types.Type):
    """The type of ``width`` float32 numbers in a register."""

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__(name=f"Lanes({width})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _vector(kind.width))


def _vector(width: int, kind: Any = None) -> Any:
    return ir.VectorType(ir.FloatType() if kind is None else kind, width)


def _address(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [at])


def _in_every_lane(builder: Any, value: Any, vector: Any) -> Any:
    zeros = ir.Constant(_vector(vector.count, FLAG), None)
    nothing = ir.Constant(vector, ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(nothing, value, FLAG(0)), nothing, zeros)


@operation
def load(context: Any, array: Any, at: Any, width: Any) -> Any:
    """Return the numbers at ``at`` to ``at + width``; the width is a constant."""
    if not isinstance(width, types.IntegerLiteral):
        return None
    found = Lanes(width.literal_value)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(context, builder, signature.args[0], args[0], args[1])
        return builder.load(builder.bitcast(address, _vector(found.width).as_pointer()), align=4)

    return found(array, types.intp, width), codegen


@operation
def store(context: Any, array: Any, at: Any, lanes: Any) -> Any:
    """Write the numbers to ``at`` and behind."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(context, builder, signature.args[0], args[0], args[1])
        builder.store(args[2], builder.bitcast(address, _vector(lanes.width).as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), codegen


@operation
def spread(context: Any, value: Any, width: Any) -> Any:
    """Return ``width`` times the same float32 number."""
    if not isinstance(width, types.IntegerLiteral):
        return None
    found = Lanes(width.literal_value)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _in_every_lane(builder, args[0], _vector(found.width))

    return found(types.float32, width), codegen


@operation
def fma(context: Any, left: Any, right: Any, added: Any) -> Any:
    """Return ``left * right + added`` of three registers, rounded once."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = _vector(left.width)
        kind = ir.FunctionType(vector, [vector, vector, vector])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{left.width}f32"), args)

    return left(left, left, left), codegen


@operation
def power_of_two(context: Any, lanes: Any) -> Any:
    """Return 2 to the power of each number, from -126 to 127, to a relative error of 2e-7.

    2^x = 2^n 2^r with r in [-1/2, 1/2]; 2^r by the minimax polynomial of the Cephes library's exp2f.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector, whole = _vector(lanes.width), _vector(lanes.width, FLAG)

        def call(name: str, *given: Any) -> Any:
            kind = ir.FunctionType(vector, [vector] * len(given))
            function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{lanes.width}f32")
            return builder.call(function, given)

        nearest = call("nearbyint", args[0])
        rest, found = builder.fsub(args[0], nearest), ir.Constant(vector, [POLYNOMIAL[0]] * lanes.width)
        for factor in POLYNOMIAL[1:]:
            found = call("fma", found, rest, ir.Constant(vector, [factor] * lanes.width))
        shift = ir.Constant(whole, [23] * lanes.width)
        exponent = builder.shl(builder.fptosi(nearest, whole), shift)
        return builder.bitcast(builder.add(builder.bitcast(found, whole), exponent), vector)

    return lanes(lanes), codegen


@operation
def store_totals(context: Any, array: Any, at: Any, first: Any, second: Any, third: Any, fourth: Any) -> Any:
    """Write the sums of four registers of 8 numbers to ``at`` and behind."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def joined(left: Any, right: Any, *places: Sequence[int]) -> Any:
            """Return the sum of two selections from the numbers of both registers."""
            chosen = [ir.Constant(_vector(len(some), FLAG), list(some)) for some in places]
            return builder.fadd(*(builder.shuffle_vector(left, right, some) for some in chosen))

        pairs = [joined(*args[i : i + 2], (0, 8, 2, 10, 4, 12, 6, 14), (1, 9, 3, 11, 5, 13, 7, 15)) for i in (2, 4)]
        halves = joined(*pairs, (0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15))
        totals = joined(halves, halves, (0, 1, 2, 3), (4, 5, 6, 7))
        address = _address(context, builder, signature.args[0], args[0], args[1])
        builder.store(totals, builder.bitcast(address, totals.type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, *4 * [Lanes(WIDTH)]), codegen


@operation
def reaching(context: Any, lanes: Any, least: Any) -> Any:
    """Return an int64 whose bit j says whether number j is at least ``least``; NaN is not."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        reached = builder.fcmp_ordered(">=", args[0], _in_every_lane(builder, args[1], _vector(lanes.width)))
        return builder.zext(builder.bitcast(reached, ir.IntType(lanes.width)), INDEX)

    return types.int64(lanes, types.float32), codegen


@operation
def lowest_bit(context: Any, bits: Any) -> Any:
    """Return the number of the lowest bit of an int64 that is set; one must be."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen


@operation
def fetch(context: Any, array: Any, at: Any, count: Any) -> Any:
    """Begin to bring the lines of ``count`` numbers into the cache, without waiting for them."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first = _address(context, builder, signature.args[0], args[0], args[1])
        kind = ir.FunctionType(ir.VoidType(), [BYTE_POINTER, FLAG, FLAG, FLAG])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [BYTE_POINTER], kind)
        with cgutils.for_range_slice(builder, INDEX(0), args[2], INDEX(LINE)) as (place, _):
            line = builder.bitcast(builder.gep(first, [place]), BYTE_POINTER)
            builder.call(prefetch, [line, FLAG(0), FLAG(3), FLAG(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp), codegen
