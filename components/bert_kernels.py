"""A BERT encoder for x86 processors with int8 dot products (AVX-512 VNNI), compiled by Numba.

A matrix product is made of tiles of `ROWS` x `COLUMNS` results that stay in registers while the inner dimension goes by.
A register holds `LANES` lanes of 32 bits, each four int8 (linear layers), two bfloat16 or one float32 (attention). A step
of a tile takes one lane of each row of the left matrix, spread over a register, and `COLUMNS` lanes of the right matrix,
which lie in memory in the order in which tiles read them; one instruction multiplies the numbers in two lanes and adds up.

`ROWS` tokens pass through all that follows a layer's attention before the next `ROWS` do, so that what one part writes is
still in the nearest cache when the next one reads it. Every row of activations has an int8 scale of its own. There is no
padding: a window's tokens follow the last one's. `encode` allocates nothing and shares nothing but the weights, so that any
number of threads may run it, each with its own `Scratch`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numpy.polynomial import Chebyshev, Polynomial
from numpy.typing import NDArray

from needle.components.cache import compiled
from needle.components.llvm import (
    BFLOATS,
    F32,
    FLOATS,
    HAS_BFLOAT16_DOT,
    I16,
    I32,
    I64,
    INTS,
    LANES,
    NO_INTS,
    Builder,
    Dot,
    Value,
    attention_number,
    call,
    dot_bfloat16,
    dot_float32,
    dot_int8,
    floats,
    fma,
    intrinsic,
    load,
    loop,
    spread,
    store,
)

#: Of the 32 vector registers a tile's results take 24, a step of the right matrix 2, of the left 1.
ROWS, VECTORS = 12, 2
COLUMNS = LANES * VECTORS

#: Numbers of attention in one lane.
PER_LANE = 2 if HAS_BFLOAT16_DOT else 1


# --- The weights and the memory that `encode` works with ----------------------------------------------------------------


class Linear(NamedTuple):
    """The same linear layer of all N encoder layers: y = (x * smooth) @ weight.T * scale + bias.

    weight: (N, inputs * outputs) uint8, the int8 matrices plus 128 in the order of `tiled`. scale, bias: (N, outputs)
    float32. smooth: (N, inputs) float32.
    """

    weight: NDArray[np.uint8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]
    smooth: NDArray[np.float32]


class Norm(NamedTuple):
    """LayerNorm's gamma and beta, (N, H) float32."""

    gamma: NDArray[np.float32]
    beta: NDArray[np.float32]


class Encoder(NamedTuple):
    """The weights of a span reader of N layers and hidden size H.

    words: (V, H) int8 with word_scale (V,) float32. positions: (P, H), kinds: (K, H) float32. head: (2, H), head_bias: (2,).
    """

    words: NDArray[np.int8]
    word_scale: NDArray[np.float32]
    positions: NDArray[np.float32]
    kinds: NDArray[np.float32]
    embedding_norm: Norm
    qkv: Linear
    attention: Linear
    attention_norm: Norm
    inner: Linear
    outer: Linear
    outer_norm: Norm
    head: NDArray[np.float32]
    head_bias: NDArray[np.float32]


class Scratch(NamedTuple):
    """What one thread writes on; made once by `scratch` and used for every window."""

    x: NDArray[np.float32]
    attended: NDArray[np.float32]
    qkv: NDArray[np.uint32]
    qkv_halves: NDArray[np.uint16]
    keys: NDArray[np.uint32]
    values: NDArray[np.uint32]
    scores: NDArray[np.float32]
    weights: NDArray[np.uint32]
    normaliser: NDArray[np.float32]
    narrow: NDArray[np.float32]
    wide: NDArray[np.float32]
    narrow_int8: NDArray[np.int8]
    wide_int8: NDArray[np.int8]
    largest: NDArray[np.float32]
    scale: NDArray[np.float32]
    offset: NDArray[np.int32]


def tiled(matrix: NDArray[np.int8]) -> NDArray[np.uint8]:
    """An (outputs, inputs) matrix as tiles read it: for `COLUMNS` outputs after `COLUMNS` outputs, inputs four by four.

    128 is added because the instruction multiplies unsigned by signed numbers; `_quantise` notes what that adds.
    """
    outputs, inputs = matrix.shape
    unsigned = (matrix.astype(np.int16) + 128).astype(np.uint8)
    return unsigned.reshape(outputs // COLUMNS, COLUMNS, inputs // 4, 4).transpose(0, 2, 1, 3).reshape(-1)


def scratch(tokens: int, hidden: int, inner: int, head_size: int) -> Scratch:
    """Memory for windows of at most `tokens` tokens in all."""
    rows = -(-tokens // ROWS) * ROWS + ROWS  # the last tiles of a window reach beyond it
    padded = -(-tokens // COLUMNS) * COLUMNS
    qkv = np.zeros((rows, 3 * hidden // PER_LANE), np.uint32)
    return Scratch(
        x=np.zeros((rows, hidden), np.float32),
        attended=np.zeros((rows, hidden), np.float32),
        qkv=qkv,
        qkv_halves=qkv.view(np.uint16),
        keys=np.zeros((head_size // PER_LANE, padded), np.uint32),
        values=np.zeros((padded // PER_LANE, head_size), np.uint32),
        scores=np.zeros((ROWS, padded), np.float32),
        weights=np.zeros((ROWS, padded // PER_LANE), np.uint32),
        normaliser=np.zeros(ROWS, np.float32),
        narrow=np.zeros((ROWS, hidden), np.float32),
        wide=np.zeros((ROWS, inner), np.float32),
        narrow_int8=np.zeros((ROWS, hidden), np.int8),
        wide_int8=np.zeros((ROWS, inner), np.int8),
        largest=np.ones(ROWS, np.float32),
        scale=np.zeros(ROWS, np.float32),
        offset=np.zeros(ROWS, np.int32),
    )


# --- Tiles and exponentials, in LLVM's language because Numba knows no dot product instruction ----------------------------


def _tile(
    b: Builder,
    dot: Dot,
    zero: Value,
    left: Value,
    left_stride: Value,
    right: Value,
    right_stride: Value,
    steps: Value,
) -> list[list[Value]]:
    """Products of `ROWS` rows at `left` and `COLUMNS` columns at `right`, `VECTORS` registers a row. Strides in bytes."""
    rows = [b.add(left, b.mul(left_stride, I64(r))) for r in range(ROWS)]

    def step(i: Value, totals: list[Value]) -> list[Value]:
        place, lane = b.mul(i, right_stride), b.mul(i, I64(4))
        columns = [load(b, b.add(right, place), 64 * v, INTS) for v in range(VECTORS)]
        lefts = [spread(b, load(b, row, lane, I32)) for row in rows]
        return [dot(b, totals[r * VECTORS + v], lefts[r], columns[v]) for r in range(ROWS) for v in range(VECTORS)]

    sums = loop(b, steps, [zero] * (ROWS * VECTORS), step)
    return [sums[r * VECTORS : (r + 1) * VECTORS] for r in range(ROWS)]


def _linear_tile(number: Callable[[Builder, Value], Value]) -> Any:
    """Int8 products, scaled: out = (sums - offset) * scale * column_scale + bias, stored as `number` makes them."""

    @intrinsic
    def tile(_, left, left_stride, scale, offset, right, steps, column_scale, bias, out, out_stride):  # type: ignore[no-untyped-def]
        def code(context: Any, b: Builder, signature: Any, arguments: list[Value]) -> Value:
            left, left_stride, scale, offset, right, steps, column_scale, bias, out, out_stride = arguments
            sums = _tile(b, dot_int8, NO_INTS, left, left_stride, right, I64(4 * COLUMNS), steps)
            scales, biases = ([load(b, a, 64 * v, FLOATS) for v in range(VECTORS)] for a in (column_scale, bias))
            for r in range(ROWS):
                row_scale = spread(b, load(b, scale, 4 * r, F32))
                row_offset = spread(b, load(b, offset, 4 * r, I32))
                place = b.add(out, b.mul(out_stride, I64(r)))
                for v in range(VECTORS):
                    y = b.fmul(b.sitofp(b.sub(sums[r][v], row_offset), FLOATS), row_scale)
                    y = number(b, fma(b, y, scales[v], biases[v]))
                    store(b, y, place, v * (32 if y.type == BFLOATS else 64))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 10), code

    return tile


_tile_to_float32 = _linear_tile(lambda b, numbers: numbers)
_tile_to_attention = _linear_tile(attention_number)


@intrinsic
def _attention_tile(_, left, left_stride, right, right_stride, steps, out, out_stride):  # type: ignore[no-untyped-def]
    """Products of attention's numbers, stored as float32."""

    def code(context: Any, b: Builder, signature: Any, arguments: list[Value]) -> Value:
        left, left_stride, right, right_stride, steps, out, out_stride = arguments
        dot = dot_bfloat16 if HAS_BFLOAT16_DOT else dot_float32
        sums = _tile(b, dot, floats(0), left, left_stride, right, right_stride, steps)
        for r in range(ROWS):
            for v in range(VECTORS):
                store(b, sums[r][v], b.add(out, b.mul(out_stride, I64(r))), 64 * v)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), code


#: 2^x for -0.5 <= x <= 0.5, highest power first; the relative error is below 5e-6.
_POWER_OF_TWO = Chebyshev.interpolate(np.exp2, 4, domain=[-0.5, 0.5]).convert(kind=Polynomial).coef[::-1].tolist()


@intrinsic
def _exponentials(_, scores, vectors, factor, out):  # type: ignore[no-untyped-def]
    """Write 2^(factor * (score - largest score)) of a row as attention's numbers; returns their sum."""

    def code(context: Any, b: Builder, signature: Any, arguments: list[Value]) -> Value:
        scores, vectors, factor, out = arguments

        def larger(i: Value, values: list[Value]) -> list[Value]:
            score = load(b, scores, b.mul(i, I64(64)), FLOATS)
            return [b.select(b.fcmp_ordered(">", score, values[0]), score, values[0])]

        [largest] = loop(b, vectors, [floats(-3e38)], larger)
        largest = call(b, "llvm.vector.reduce.fmax.v16f32", F32, largest)
        factors, shift = spread(b, factor), spread(b, b.fneg(b.fmul(largest, factor)))

        def power(i: Value, values: list[Value]) -> list[Value]:
            x = fma(b, load(b, scores, b.mul(i, I64(64)), FLOATS), factors, shift)
            whole = call(b, "llvm.rint.v16f32", FLOATS, x)
            rest = b.fsub(x, whole)
            y = floats(_POWER_OF_TWO[0])
            for coefficient in _POWER_OF_TWO[1:]:
                y = fma(b, y, rest, floats(coefficient))
            everywhere, rounding = I16(-1), I32(4)
            y = call(b, "llvm.x86.avx512.mask.scalef.ps.512", FLOATS, y, whole, y, everywhere, rounding)  # y * 2^whole
            store(b, attention_number(b, y), out, b.mul(i, I64(64 // PER_LANE)))
            return [b.fadd(values[0], y)]

        [sums] = loop(b, vectors, [floats(0)], power)
        return call(b, "llvm.vector.reduce.fadd.v16f32", F32, F32(0.0), sums, fastmath=("reassoc",))

    return types.float32(types.int64, types.int64, types.float32, types.int64), code


@intrinsic
def _bits(_, number):  # type: ignore[no-untyped-def]
    return types.int32(types.float32), lambda context, b, signature, arguments: b.bitcast(arguments[0], I32)


@intrinsic
def _float_of(_, bits):  # type: ignore[no-untyped-def]
    return types.float32(types.int32), lambda context, b, signature, arguments: b.bitcast(arguments[0], F32)


# --- Rows ---------------------------------------------------------------------------------------------------------------

_float = np.float32
_int = np.int32
_compiled: Any = njit(nogil=True, fastmath=True, error_model="numpy")
_inlined: Any = njit(nogil=True, fastmath=True, error_model="numpy", inline="always")

#: No row's largest magnitude counts as less: its inverse is finite.
_LEAST = np.float32(1e-12)


@_inlined
def _magnitude(x: Any) -> Any:
    """Float bits that compare as |x|: the compiler turns a maximum of integers, not one of floats, into vector code."""
    return _bits(x) & _int(0x7FFFFFFF)


@_compiled
def _largest(x: Any, first: int, smooth: Any, largest: Any) -> None:
    """The largest |x * smooth| of each row."""
    for r in range(ROWS):
        most = _int(0)
        for j in range(x.shape[1]):
            most = max(most, _magnitude(x[first + r, j] * smooth[j]))
        largest[r] = max(_float_of(most), _LEAST)


@_compiled
def _quantise(x: Any, first: int, smooth: Any, s: Any, int8: Any) -> None:
    """Rows of x * smooth as int8: value = int8 * scale. offset: what 128 in every weight adds to their products."""
    for r in range(ROWS):
        inverse = _float(127) / s.largest[r]
        total = _int(0)
        for j in range(x.shape[1]):
            value = _int(np.rint(x[first + r, j] * smooth[j] * inverse))
            int8[r, j] = value
            total += value
        s.scale[r] = s.largest[r] / _float(127)
        s.offset[r] = _int(128) * total


@_compiled
def _add_and_norm(x: Any, first: int, y: Any, gamma: Any, beta: Any, epsilon: Any) -> None:
    """x = LayerNorm(x + y)."""
    n = x.shape[1]
    for r in range(ROWS):
        total, squares = _float(0), _float(0)
        for j in range(n):
            value = x[first + r, j] + y[r, j]
            x[first + r, j] = value
            total += value
        mean = total / _float(n)
        for j in range(n):
            squares += (x[first + r, j] - mean) * (x[first + r, j] - mean)
        inverse = _float(1) / np.sqrt(squares / _float(n) + epsilon)
        for j in range(n):
            x[first + r, j] = (x[first + r, j] - mean) * inverse * gamma[j] + beta[j]


def _normal_distribution(square: float) -> float:
    """(P(X <= x) - 1/2) / x of the standard normal distribution, x = sqrt(square)."""
    x = math.sqrt(square)
    return math.erf(x / math.sqrt(2)) / 2 / x


#: GELU(x) = x * (1/2 + c * polynomial(c^2)), c = x cut to +-4.5; for |x| < 20 the error is below 2e-4, less than int8's.
_CUT = np.float32(4.5)
_GELU = tuple(
    Chebyshev.interpolate(np.vectorize(_normal_distribution), 9, domain=[0, 4.5**2])
    .convert(kind=Polynomial)
    .coef.astype(np.float32)
)


@_compiled
def _gelu(x: Any) -> None:
    """x * P(X <= x) (Hendrycks and Gimpel 2016, arXiv 1606.08415), in place."""
    for r in range(ROWS):
        for j in range(x.shape[1]):
            c = min(max(x[r, j], -_CUT), _CUT)
            u = c * c
            y = u * _GELU[9] + _GELU[8]
            y = u * y + _GELU[7]
            y = u * y + _GELU[6]
            y = u * y + _GELU[5]
            y = u * y + _GELU[4]
            y = u * y + _GELU[3]
            y = u * y + _GELU[2]
            y = u * y + _GELU[1]
            y = u * y + _GELU[0]
            x[r, j] *= _float(0.5) + c * y


@_compiled
def _linear(int8: Any, s: Any, weight: Any, column_scale: Any, bias: Any, out: Any) -> None:
    inputs, outputs = int8.shape[1], out.shape[1]
    for c in range(0, outputs, COLUMNS):
        _tile_to_float32(
            int8.ctypes.data,
            inputs,
            s.scale.ctypes.data,
            s.offset.ctypes.data,
            weight.ctypes.data + c * inputs,
            inputs // 4,
            column_scale.ctypes.data + 4 * c,
            bias.ctypes.data + 4 * c,
            out.ctypes.data + 4 * c,
            4 * outputs,
        )


@_compiled
def _query_key_value(x: Any, first: int, layer: int, qkv: Any, s: Any) -> None:
    _largest(x, first, qkv.smooth[layer], s.largest)
    _quantise(x, first, qkv.smooth[layer], s, s.narrow_int8)
    inputs, outputs, size = x.shape[1], 3 * x.shape[1], 4 // PER_LANE
    for c in range(0, outputs, COLUMNS):
        _tile_to_attention(
            s.narrow_int8.ctypes.data,
            inputs,
            s.scale.ctypes.data,
            s.offset.ctypes.data,
            qkv.weight[layer].ctypes.data + c * inputs,
            inputs // 4,
            qkv.scale[layer].ctypes.data + 4 * c,
            qkv.bias[layer].ctypes.data + 4 * c,
            s.qkv.ctypes.data + size * (first * outputs + c),
            size * outputs,
        )


@_compiled
def _attend(start: int, length: int, heads: int, s: Any) -> None:
    """softmax(q k / sqrt(d)) v of one window, into `s.attended`."""
    hidden = s.x.shape[1]
    d = hidden // heads
    lanes, width = d // PER_LANE, s.qkv.shape[1]
    padded = -(-length // COLUMNS) * COLUMNS
    factor = _float(math.log2(math.e) / math.sqrt(d))
    for head in range(heads):
        first = (hidden + head * d) // PER_LANE
        for j in range(length):
            for i in range(lanes):
                s.keys[i, j] = s.qkv[start + j, first + i]
        first = 2 * hidden + head * d
        if HAS_BFLOAT16_DOT:
            for j in range(length // 2):
                for i in range(d):
                    low, high = s.qkv_halves[start + 2 * j, first + i], s.qkv_halves[start + 2 * j + 1, first + i]
                    s.values[j, i] = np.uint32(low) | (np.uint32(high) << np.uint32(16))
            if length % 2:
                for i in range(d):
                    s.values[length // 2, i] = np.uint32(s.qkv_halves[start + length - 1, first + i])
        else:
            for j in range(length):
                for i in range(d):
                    s.values[j, i] = s.qkv[start + j, first + i]
        for r in range(start, start + length, ROWS):
            for c in range(0, padded, COLUMNS):
                _attention_tile(
                    s.qkv.ctypes.data + 4 * (r * width + head * lanes),
                    4 * width,
                    s.keys.ctypes.data + 4 * c,
                    4 * s.keys.shape[1],
                    lanes,
                    s.scores.ctypes.data + 4 * c,
                    4 * s.scores.shape[1],
                )
            for i in range(ROWS):
                for j in range(length, padded):
                    s.scores[i, j] = _float(-3e38)
                scores = s.scores.ctypes.data + 4 * i * s.scores.shape[1]
                weights = s.weights.ctypes.data + 4 * i * s.weights.shape[1]
                s.normaliser[i] = _float(1) / _exponentials(scores, padded // LANES, factor, weights)
            for c in range(0, d, COLUMNS):
                _attention_tile(
                    s.weights.ctypes.data,
                    4 * s.weights.shape[1],
                    s.values.ctypes.data + 4 * c,
                    4 * d,
                    -(-length // PER_LANE),
                    s.attended.ctypes.data + 4 * (r * hidden + head * d + c),
                    4 * hidden,
                )
            for i in range(ROWS):
                for j in range(head * d, head * d + d):
                    s.attended[r + i, j] *= s.normaliser[i]


@compiled(fastmath=True, error_model="numpy")
def encode(
    encoder: Any,
    heads: int,
    epsilon: Any,
    input_ids: Any,
    token_type_ids: Any,
    lengths: Any,
    s: Any,
    start_logits: Any,
    end_logits: Any,
) -> None:
    """Windows -> start and end logits (Devlin et al. 2019, arXiv 1810.04805).

    :param encoder: an `Encoder`. epsilon: LayerNorm's, float32.
    :param input_ids, token_type_ids: (B, L) int32. lengths: (B,) int32.
    :param s: a `Scratch` for at least as many tokens as the windows have.
    :param start_logits, end_logits: (B, L) float32, written at tokens that are not padding.
    """
    hidden = encoder.words.shape[1]
    tokens = 0
    s.narrow[:] = 0
    for window in range(len(lengths)):
        for t in range(lengths[window]):
            word, kind = input_ids[window, t], min(token_type_ids[window, t], len(encoder.kinds) - 1)
            scale = encoder.word_scale[word]
            for j in range(hidden):
                s.x[tokens, j] = encoder.words[word, j] * scale + encoder.positions[t, j] + encoder.kinds[kind, j]
            tokens += 1
    norm = encoder.embedding_norm
    for r in range(0, tokens, ROWS):
        _add_and_norm(s.x, r, s.narrow, norm.gamma[0], norm.beta[0], epsilon)
    for layer in range(len(encoder.qkv.weight)):
        for r in range(0, tokens, ROWS):
            _query_key_value(s.x, r, layer, encoder.qkv, s)
        start = 0
        for length in lengths:
            _attend(start, length, heads, s)
            start += length
        for r in range(0, tokens, ROWS):
            linear = encoder.attention
            _largest(s.attended, r, linear.smooth[layer], s.largest)
            _quantise(s.attended, r, linear.smooth[layer], s, s.narrow_int8)
            _linear(s.narrow_int8, s, linear.weight[layer], linear.scale[layer], linear.bias[layer], s.narrow)
            norm = encoder.attention_norm
            _add_and_norm(s.x, r, s.narrow, norm.gamma[layer], norm.beta[layer], epsilon)
            linear = encoder.inner
            _largest(s.x, r, linear.smooth[layer], s.largest)
            _quantise(s.x, r, linear.smooth[layer], s, s.narrow_int8)
            _linear(s.narrow_int8, s, linear.weight[layer], linear.scale[layer], linear.bias[layer], s.wide)
            _gelu(s.wide)
            linear = encoder.outer
            _largest(s.wide, 0, linear.smooth[layer], s.largest)
            _quantise(s.wide, 0, linear.smooth[layer], s, s.wide_int8)
            _linear(s.wide_int8, s, linear.weight[layer], linear.scale[layer], linear.bias[layer], s.narrow)
            norm = encoder.outer_norm
            _add_and_norm(s.x, r, s.narrow, norm.gamma[layer], norm.beta[layer], epsilon)
    token = 0
    for window in range(len(lengths)):
        for t in range(lengths[window]):
            start_logit, end_logit = encoder.head_bias[0], encoder.head_bias[1]
            for j in range(hidden):
                start_logit += s.x[token, j] * encoder.head[0, j]
                end_logit += s.x[token, j] * encoder.head[1, j]
            start_logits[window, t], end_logits[window, t] = start_logit, end_logit
            token += 1
