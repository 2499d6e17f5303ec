"""What a BERT does to rows of numbers: intrinsics for `bert_kernels`.

Rows have blocks of `COLUMNS` numbers, `VECTORS` registers each. Arguments that name arrays are addresses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numpy.polynomial import Chebyshev, Polynomial

from needle.components.llvm import (
    F32,
    FLOATS,
    HAS_INT8_DOT,
    I16,
    I32,
    I64,
    INTS,
    LANES,
    NO_INTS,
    Builder,
    Value,
    call,
    floats,
    fma,
    halves,
    intrinsic,
    joined,
    larger,
    largest,
    load,
    loop,
    smaller,
    spread,
    store,
    store_for_attention,
    total,
)
from needle.components.tiles import (
    ATTENTION,
    COLUMNS,
    INT8,
    INT8_PER_LANE,
    OFFSET,
    PER_LANE,
    VECTORS,
    Rows,
    product,
    store_int8_numbers,
    stored_product,
)

#: Rows that go together: while one row's sum waits for its last step, the others take theirs.
GROUP = 4

_HALVES = ir.VectorType(I16, LANES)


def _group(b: Builder, matrix: Value, stride: Value) -> list[Value]:
    return [Rows(matrix, stride).row(b, r) for r in range(GROUP)]


def _vectors(b: Builder, array: Value, block: Value) -> list[Value]:
    """The `COLUMNS` float32 numbers of a row's block."""
    return [load(b, array, b.add(b.mul(block, I64(4 * COLUMNS)), I64(64 * v)), FLOATS) for v in range(VECTORS)]


def _write(b: Builder, numbers: list[Value], array: Value, block: Value) -> None:
    for v, number in enumerate(numbers):
        store(b, number, array, b.add(b.mul(block, I64(4 * COLUMNS)), I64(64 * v)))


# --- Linear layers ------------------------------------------------------------------------------------------------------


def _linear(write: Callable[[Builder, list[Value], Value, Value], None]) -> Any:
    """Int8 products, scaled: (sums - offset) * scale * column_scale + bias, which `write` writes to a block of a row."""

    @intrinsic
    def layer(_, left, left_stride, scale, offset, right, lanes, column_scale, bias, rows, blocks, out, out_stride):  # type: ignore[no-untyped-def]
        def code(context: Any, b: Builder, signature: Any, arguments: list[Value]) -> Value:
            left, left_stride, scale, offset, right, lanes, column_scale, bias, rows, blocks, *out = arguments

            def finish(block: Value, r: Value, sums: list[Value]) -> None:
                place = b.mul(r, I64(4))
                row_scale = spread(b, load(b, scale, place, F32))
                if OFFSET:
                    row_offset = spread(b, load(b, offset, place, I32))
                    sums = [b.sub(s, row_offset) for s in sums]
                ys = [b.fmul(b.sitofp(s, FLOATS), row_scale) for s in sums]
                parts = zip(ys, _vectors(b, column_scale, block), _vectors(b, bias, block), strict=True)
                write(b, [fma(b, *part) for part in parts], Rows(*out).row(b, r), block)

            product(b, INT8, Rows(left, left_stride), right, lanes, rows, blocks, finish)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 12), code

    return layer


def _add(b: Builder, ys: list[Value], row: Value, block: Value) -> None:
    _write(b, [b.fadd(x, y) for x, y in zip(_vectors(b, row, block), ys, strict=True)], row, block)


def _for_attention(b: Builder, ys: list[Value], row: Value, block: Value) -> None:
    store_for_attention(b, ys, row, b.mul(block, I64(4 * COLUMNS // PER_LANE)))


def _normal_distribution(x: float) -> float:
    """P(X <= x) of the standard normal distribution."""
    return (1 + math.erf(x / math.sqrt(2))) / 2


#: P(X <= x) as 32 parabolas: 0 and 1 at the ends, 30 between -_CUT and _CUT; GELU's error is below 1e-4, less than int8's.
_CUT = 4.2
_WIDTH = 2 * _CUT / 30
_PARABOLAS = [
    [0.0, 0.0, 0.0],
    *(
        Chebyshev.interpolate(np.vectorize(_normal_distribution), 2, domain=[left, left + _WIDTH])
        .convert(kind=Polynomial)
        .coef.tolist()
        for left in np.arange(30) * _WIDTH - _CUT
    ),
    [1.0, 0.0, 0.0],
]


def _gelu(b: Builder, x: Value) -> Value:
    """x * P(X <= x) (Hendrycks and Gimpel 2016, arXiv 1606.08415)."""
    place = fma(b, x, floats(1 / _WIDTH), floats(16))
    place = b.fptosi(larger(b, smaller(b, place, floats(31)), floats(0)), INTS)
    c, d, e = (_chosen(b, [float(np.float32(p[power])) for p in _PARABOLAS], place) for power in range(3))
    return b.fmul(x, fma(b, fma(b, e, x, d), x, c))


def _chosen(b: Builder, table: list[float], place: Value) -> Value:
    """Of 32 numbers those at each lane's place."""
    if HAS_INT8_DOT:
        low, high = (ir.Constant(FLOATS, part) for part in (table[:LANES], table[LANES:]))
        return call(b, "llvm.x86.avx512.vpermi2var.ps.512", FLOATS, low, place, high)
    kind, chosen = ir.VectorType(F32, LANES // 2), []
    for part in halves(b, place):
        eights = [ir.Constant(kind, table[first : first + 8]) for first in range(0, 32, 8)]
        found = [call(b, "llvm.x86.avx2.permps", kind, eight, part) for eight in eights]  # by the last three bits
        for bit in (3, 4):
            is_set = b.icmp_signed("<", b.shl(part, part.type([31 - bit] * 8)), part.type([0] * 8))
            found = [b.select(is_set, two, one) for one, two in zip(found[::2], found[1::2], strict=True)]
        chosen += found
    return joined(b, chosen)


linear_added = _linear(_add)
linear_for_attention = _linear(_for_attention)
linear_gelu = _linear(lambda b, ys, row, block: _write(b, [_gelu(b, y) for y in ys], row, block))


@intrinsic
def quantise_rows(_, x, stride, blocks, smooth, scale, offset, int8, int8_stride):  # type: ignore[no-untyped-def]
    """`GROUP` rows of x * smooth as int8: value = int8 * scale. offset: what `OFFSET` in weights adds to their products."""

    def code(context: Any, b: Builder, signature: Any, arguments: list[Value]) -> Value:
        x, stride, blocks, smooth, scale, offset, *int8 = arguments
        rows, out = _group(b, x, stride), _group(b, *int8)

        def values(block: Value) -> list[list[Value]]:
            factors = _vectors(b, smooth, block)
            return [[b.fmul(*pair) for pair in zip(_vectors(b, row, block), factors, strict=True)] for row in rows]

        def magnitude(block: Value, most: list[Value]) -> list[Value]:
            sizes = [[call(b, "llvm.fabs.v16f32", FLOATS, value) for value in row] for row in values(block)]
            return [larger(b, m, larger(b, *pair)) for m, pair in zip(most, sizes, strict=True)]

        least = floats(1e-12)  # its inverse is finite
        most = [largest(b, m) for m in loop(b, blocks, [least] * GROUP, magnitude)]
        inverses = [spread(b, b.fdiv(F32(127), m)) for m in most]

        def rounded(block: Value, totals: list[Value]) -> list[Value]:
            totals = list(totals)
            for r, row in enumerate(values(block)):
                ints = [call(b, "llvm.lrint.v16i32.v16f32", INTS, b.fmul(value, inverses[r])) for value in row]
                store_int8_numbers(b, ints, out[r], b.mul(block, I64(COLUMNS * 4 // INT8_PER_LANE)))
                if OFFSET:
                    totals[r] = b.add(totals[r], b.add(*ints))
            return totals

        totals = loop(b, blocks, [NO_INTS] * GROUP if OFFSET else [], rounded)
        for r, m in enumerate(most):
            store(b, b.fdiv(m, F32(127)), scale, 4 * r)
        for r, ints in enumerate(totals):
            number = call(b, "llvm.vector.reduce.add.v16i32", I32, ints)
            store(b, b.mul(number, I32(OFFSET)), offset, 4 * r)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), code


@intrinsic
def normalise_rows(_, x, stride, blocks, gamma, beta, epsilon):  # type: ignore[no-untyped-def]
    """LayerNorm of `GROUP` rows, in place."""

    def code(context: Any, b: Builder, signature: Any, arguments: list[Value]) -> Value:
        x, stride, blocks, gamma, beta, epsilon = arguments
        rows, n = _group(b, x, stride), b.uitofp(b.mul(blocks, I64(COLUMNS)), F32)

        def add(block: Value, sums: list[Value]) -> list[Value]:
            return [b.fadd(s, b.fadd(*_vectors(b, row, block))) for s, row in zip(sums, rows, strict=True)]

        means = [spread(b, b.fdiv(total(b, s), n)) for s in loop(b, blocks, [floats(0)] * GROUP, add)]

        def square(block: Value, sums: list[Value]) -> list[Value]:
            sums = list(sums)
            for r, row in enumerate(rows):
                for number in _vectors(b, row, block):
                    difference = b.fsub(number, means[r])
                    sums[r] = fma(b, difference, difference, sums[r])
            return sums

        variances = [b.fdiv(total(b, s), n) for s in loop(b, blocks, [floats(0)] * GROUP, square)]
        roots = [call(b, "llvm.sqrt.f32", F32, b.fadd(variance, epsilon)) for variance in variances]
        inverses = [spread(b, b.fdiv(F32(1), root)) for root in roots]

        def write(block: Value, _: list[Value]) -> list[Value]:
            factors, biases = _vectors(b, gamma, block), _vectors(b, beta, block)
            for row, mean, inverse in zip(rows, means, inverses, strict=True):
                ys = [b.fmul(b.fsub(number, mean), inverse) for number in _vectors(b, row, block)]
                _write(b, [fma(b, *part) for part in zip(ys, factors, biases, strict=True)], row, block)
            return []

        loop(b, blocks, [], write)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5, types.float32), code


# --- Attention ----------------------------------------------------------------------------------------------------------


@intrinsic
def scores(_, left, left_stride, right, lanes, rows, blocks, out, out_stride):  # type: ignore[no-untyped-def]
    """Products of attention's numbers, float32."""

    def code(context: Any, b: Builder, signature: Any, arguments: list[Value]) -> Value:
        left, left_stride, right, lanes, rows, blocks, *out = arguments
        stored_product(b, ATTENTION, Rows(left, left_stride), right, lanes, rows, blocks, Rows(*out))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), code


@intrinsic
def averages(_, left, left_stride, scale, right, lanes, rows, blocks, out, out_stride):  # type: ignore[no-untyped-def]
    """The same, each row times its scale."""

    def code(context: Any, b: Builder, signature: Any, arguments: list[Value]) -> Value:
        left, left_stride, scale, right, lanes, rows, blocks, *out = arguments

        def finish(block: Value, r: Value, sums: list[Value]) -> None:
            row_scale = spread(b, load(b, scale, b.mul(r, I64(4)), F32))
            _write(b, [b.fmul(s, row_scale) for s in sums], Rows(*out).row(b, r), block)

        product(b, ATTENTION, Rows(left, left_stride), right, lanes, rows, blocks, finish)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9), code


#: 2^x for 0 <= x <= 1, highest power first; the relative error is below 1.1e-4, that of bfloat16 is 2e-3.
_POWER_OF_TWO = Chebyshev.interpolate(np.exp2, 3, domain=[0, 1]).convert(kind=Polynomial).coef[::-1].tolist()


@intrinsic
def exponentials(_, scores, stride, n, blocks, factor, out, out_stride, inverse):  # type: ignore[no-untyped-def]
    """Write 2^(factor * (score - largest score)) of `GROUP` rows of n scores as attention's numbers, zeros after them.

    The scores lie in `blocks` blocks of `COLUMNS`, of which the last may have places beyond n. inverse: of each row's sum.
    """

    def code(context: Any, b: Builder, signature: Any, arguments: list[Value]) -> Value:
        scores, stride, n, blocks, factor, *out, inverse = arguments
        rows, outs = _group(b, scores, stride), _group(b, *out)
        last = b.sub(blocks, I64(1))
        rest = spread(b, b.trunc(b.sub(n, b.mul(last, I64(COLUMNS))), I32))
        lanes = (ir.Constant(INTS, list(range(v * LANES, (v + 1) * LANES))) for v in range(VECTORS))
        inside = [b.icmp_signed("<", lane, rest) for lane in lanes]
        for row in rows:
            parts = zip(inside, _vectors(b, row, last), strict=True)
            _write(b, [b.select(here, score, floats(-3e38)) for here, score in parts], row, last)

        def more(block: Value, most: list[Value]) -> list[Value]:
            return [larger(b, m, larger(b, *_vectors(b, row, block))) for row, m in zip(rows, most, strict=True)]

        most = loop(b, blocks, [floats(-3e38)] * GROUP, more)
        factors, shifts = spread(b, factor), [spread(b, b.fneg(b.fmul(largest(b, m), factor))) for m in most]

        def powers(block: Value, sums: list[Value]) -> list[Value]:
            sums = list(sums)
            for r, row in enumerate(rows):
                ys = [_power_of_two(b, fma(b, score, factors, shifts[r])) for score in _vectors(b, row, block)]
                store_for_attention(b, ys, outs[r], b.mul(block, I64(4 * COLUMNS // PER_LANE)))
                sums[r] = b.fadd(sums[r], b.fadd(*ys))
            return sums

        for r, sums in enumerate(loop(b, blocks, [floats(0)] * GROUP, powers)):
            store(b, b.fdiv(F32(1), total(b, sums)), inverse, 4 * r)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4, types.float32, *[types.int64] * 3), code


def _power_of_two(b: Builder, x: Value) -> Value:
    """2^(x - floor(x)) * 2^floor(x); without AVX-512 the latter by the exponent's bits, and 0 below the least of them."""
    everywhere, less_floor, rounding = I16(-1), I32(9), I32(4)
    if HAS_INT8_DOT:
        rest = call(b, "llvm.x86.avx512.mask.reduce.ps.512", FLOATS, x, less_floor, x, everywhere, rounding)
    else:
        floor = call(b, "llvm.floor.v16f32", FLOATS, x)
        rest = b.fsub(x, floor)
    y = floats(_POWER_OF_TWO[0])
    for coefficient in _POWER_OF_TWO[1:]:
        y = fma(b, y, rest, floats(coefficient))
    if HAS_INT8_DOT:
        return call(b, "llvm.x86.avx512.mask.scalef.ps.512", FLOATS, y, x, y, everywhere, rounding)
    exponent = b.shl(b.fptosi(floor, INTS), ir.Constant(INTS, [23] * LANES))
    y = b.bitcast(b.add(b.bitcast(y, INTS), exponent), FLOATS)
    return b.select(b.fcmp_ordered("<", x, floats(-126)), floats(0), y)


@intrinsic
def turn(_, matrix, stride, out, out_stride):  # type: ignore[no-untyped-def]
    """`LANES` rows of as many lanes -> columns."""

    def code(context: Any, b: Builder, signature: Any, arguments: list[Value]) -> Value:
        matrix, out = Rows(*arguments[:2]), Rows(*arguments[2:])
        rows = [load(b, matrix.row(b, r), 0, INTS) for r in range(LANES)]
        size = 1
        while size < LANES:  # the blocks right above and left below the diagonal change places, of 1 x 1, 2 x 2, ... lanes
            for r in range(LANES):
                if not r & size:
                    upper, lower = rows[r], rows[r + size]
                    places = [(j, LANES + j - size)[bool(j & size)] for j in range(LANES)]
                    rows[r] = b.shuffle_vector(upper, lower, ir.Constant(INTS, places))
                    places = [(j + size, LANES + j)[bool(j & size)] for j in range(LANES)]
                    rows[r + size] = b.shuffle_vector(upper, lower, ir.Constant(INTS, places))
            size *= 2
        for r, row in enumerate(rows):
            store(b, row, out.row(b, r), 0)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), code


@intrinsic
def interleave(_, rows, stride, out):  # type: ignore[no-untyped-def]
    """`LANES` of attention's numbers in each of `PER_LANE` rows -> as many lanes."""

    def code(context: Any, b: Builder, signature: Any, arguments: list[Value]) -> Value:
        rows, out = Rows(*arguments[:2]), arguments[2]
        if PER_LANE == 1:
            store(b, load(b, rows.address, 0, INTS), out, 0)
        else:
            low, high = (b.zext(load(b, rows.row(b, r), 0, _HALVES), INTS) for r in range(2))
            store(b, b.or_(low, b.shl(high, ir.Constant(INTS, [16] * LANES))), out, 0)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), code
