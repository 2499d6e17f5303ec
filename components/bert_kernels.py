"""A BERT encoder for x86 processors with AVX2, AVX-512 VNNI or AMX, compiled by Numba.

`ROWS` tokens pass through all that follows a layer's attention before the next `ROWS` do, so that what one part writes is
still in the nearest cache when the next one reads it. Every row of activations has an int8 scale of its own. There is no
padding: a window's tokens follow the last one's. `encode` allocates nothing and shares nothing but the weights, so that any
number of threads may run it, each with its own `Scratch`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from needle.components.bert_rows import (
    GROUP,
    averages,
    exponentials,
    interleave,
    linear_added,
    linear_for_attention,
    linear_gelu,
    normalise_rows,
    quantise_rows,
    scores,
    turn,
)
from needle.components.cache import compiled
from needle.components.llvm import LANES
from needle.components.tiles import (
    COLUMNS,
    INNER,
    INT8_PER_LANE,
    LEFT,
    OFFSET,
    PER_LANE,
    RIGHT,
    ROWS,
    close_tiles,
    open_tiles,
)

#: Rows of scores that are still in the nearest cache when they are made weights.
QUERIES = min(ROWS, 16)


# --- The weights and the memory that `encode` works with ----------------------------------------------------------------


class Linear(NamedTuple):
    """The same linear layer of all N encoder layers: y = (x * smooth) @ weight.T * scale + bias.

    weight: (N, inputs * outputs), the int8 matrices as `tiled` has them. scale, bias: (N, outputs) float32.
    smooth: (N, inputs) float32.
    """

    weight: NDArray[np.int8] | NDArray[np.uint8] | NDArray[np.int16]
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
    """What one thread writes on; made once by `scratch` and used for every window. Lanes are uint32."""

    x: NDArray[np.float32]
    attended: NDArray[np.float32]
    qkv: NDArray[np.uint32]
    keys: NDArray[np.uint32]
    values: NDArray[np.uint32]
    scores: NDArray[np.float32]
    weights: NDArray[np.uint32]
    normaliser: NDArray[np.float32]
    wide: NDArray[np.float32]
    narrow_int8: NDArray[np.int8] | NDArray[np.int16]
    wide_int8: NDArray[np.int8] | NDArray[np.int16]
    scale: NDArray[np.float32]
    offset: NDArray[np.int32]


def zeros(shape: tuple[int, ...], kind: type[Any]) -> NDArray[Any]:
    """From where a line of the cache begins: a register is loaded faster from one line than from two."""
    size = math.prod(shape) * np.dtype(kind).itemsize
    memory = np.zeros(size + 63, np.uint8)
    first = -memory.ctypes.data % 64
    array: NDArray[Any] = memory[first : first + size].view(kind).reshape(shape)
    return array


def tiled(matrix: NDArray[np.int8]) -> NDArray[Any]:
    """An (outputs, inputs) matrix as tiles read it, its inputs filled up with zeros."""
    outputs, inputs = matrix.shape
    filled = np.zeros((outputs, _filled(inputs)), np.int16)
    filled[:, :inputs] = matrix
    tiles = (filled + OFFSET).reshape(outputs // COLUMNS, COLUMNS, -1, INT8_PER_LANE).transpose(0, 2, 1, 3)
    out = zeros(tiles.shape, RIGHT)
    out[:] = tiles
    return out.reshape(-1)


def _filled(inputs: int) -> int:
    return -(-inputs // INNER) * INNER


def scratch(tokens: int, hidden: int, inner: int, head_size: int) -> Scratch:
    """Memory for windows of at most `tokens` tokens in all."""
    columns, rows = -(-tokens // COLUMNS) * COLUMNS, -(-tokens // GROUP) * GROUP
    return Scratch(
        x=zeros((rows, hidden), np.float32),
        attended=zeros((rows, hidden), np.float32),
        qkv=zeros((tokens + COLUMNS, 3 * hidden // PER_LANE), np.uint32),  # the last tiles of a window reach beyond it
        keys=zeros((columns // COLUMNS, head_size // PER_LANE, COLUMNS), np.uint32),
        values=zeros((head_size // COLUMNS, columns // PER_LANE, COLUMNS), np.uint32),
        scores=zeros((QUERIES, columns), np.float32),
        weights=zeros((QUERIES, columns // PER_LANE), np.uint32),
        normaliser=zeros((QUERIES,), np.float32),
        wide=zeros((ROWS, inner), np.float32),
        narrow_int8=zeros((ROWS, _filled(hidden)), LEFT),
        wide_int8=zeros((ROWS, _filled(inner)), LEFT),
        scale=zeros((ROWS,), np.float32),
        offset=zeros((ROWS,), np.int32),
    )


# --- Layers -------------------------------------------------------------------------------------------------------------

_compiled: Any = njit(nogil=True, fastmath=True, error_model="numpy")
_inlined: Any = njit(nogil=True, inline="always")


@_inlined
def _at(array: Any, i: int, j: int) -> int:
    """The address of array[i, j]."""
    return array.ctypes.data + i * array.strides[0] + j * array.strides[1]  # type: ignore[no-any-return]


@_compiled
def _quantise(x: Any, smooth: Any, s: Any, int8: Any) -> None:
    blocks, strides = x.shape[1] // COLUMNS, (x.strides[0], int8.strides[0])
    for r in range(0, len(x), GROUP):
        scale, offset = s.scale.ctypes.data + 4 * r, s.offset.ctypes.data + 4 * r
        quantise_rows(_at(x, r, 0), strides[0], blocks, smooth.ctypes.data, scale, offset, _at(int8, r, 0), strides[1])


@_compiled
def _normalise(x: Any, norm: Any, layer: int, epsilon: Any) -> None:
    gamma, beta = _at(norm.gamma, layer, 0), _at(norm.beta, layer, 0)
    for r in range(0, len(x), GROUP):
        normalise_rows(_at(x, r, 0), x.strides[0], x.shape[1] // COLUMNS, gamma, beta, epsilon)


def _layer(intrinsic: Any) -> Any:
    @_compiled
    def linear(int8: Any, s: Any, weight: Any, scale: Any, bias: Any, out: Any) -> None:
        open_tiles()
        intrinsic(
            int8.ctypes.data,
            int8.strides[0],
            s.scale.ctypes.data,
            s.offset.ctypes.data,
            weight.ctypes.data,
            int8.shape[1] // INT8_PER_LANE,
            scale.ctypes.data,
            bias.ctypes.data,
            len(out),
            len(bias) // COLUMNS,
            out.ctypes.data,
            out.strides[0],
        )

    return linear


_linear = _layer(linear_added)
_linear_gelu = _layer(linear_gelu)
_linear_for_attention = _layer(linear_for_attention)


@_compiled
def _attend(start: int, length: int, heads: int, s: Any) -> None:
    """softmax(q k / sqrt(d)) v of one window, into `s.attended`."""
    hidden = s.x.shape[1]
    d = hidden // heads
    lanes = d // PER_LANE
    columns = -(-length // COLUMNS) * COLUMNS
    factor = np.float32(math.log2(math.e) / math.sqrt(d))
    open_tiles()
    for head in range(heads):
        for j in range(0, columns, LANES):
            for i in range(0, lanes, LANES):
                place = _at(s.qkv, start + j, (hidden + head * d) // PER_LANE + i)
                turn(place, s.qkv.strides[0], s.keys[j // COLUMNS, i].ctypes.data + 4 * (j % COLUMNS), 4 * COLUMNS)
        for j in range(0, columns, PER_LANE):
            for i in range(0, d, LANES):
                place = _at(s.qkv, start + j, 0) + (2 * hidden + head * d + i) * 4 // PER_LANE
                interleave(place, s.qkv.strides[0], s.values[i // COLUMNS, j // PER_LANE].ctypes.data + 4 * (i % COLUMNS))
        for first in range(0, length, QUERIES):
            rows = min(QUERIES, length - first)
            scores(
                _at(s.qkv, start + first, head * lanes),
                s.qkv.strides[0],
                s.keys.ctypes.data,
                lanes,
                rows,
                columns // COLUMNS,
                s.scores.ctypes.data,
                s.scores.strides[0],
            )
            for r in range(0, rows, GROUP):
                exponentials(
                    _at(s.scores, r, 0),
                    s.scores.strides[0],
                    length,
                    columns // COLUMNS,
                    factor,
                    _at(s.weights, r, 0),
                    s.weights.strides[0],
                    s.normaliser.ctypes.data + 4 * r,
                )
            for c in range(0, d, COLUMNS):
                averages(
                    s.weights.ctypes.data,
                    s.weights.strides[0],
                    s.normaliser.ctypes.data,
                    s.values[c // COLUMNS].ctypes.data,
                    columns // PER_LANE,
                    rows,
                    1,
                    _at(s.attended, start + first, head * d + c),
                    s.attended.strides[0],
                )


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
    for window in range(len(lengths)):
        for t in range(lengths[window]):
            word, kind = input_ids[window, t], min(token_type_ids[window, t], len(encoder.kinds) - 1)
            scale = encoder.word_scale[word]
            for j in range(hidden):
                s.x[tokens, j] = encoder.words[word, j] * scale + encoder.positions[t, j] + encoder.kinds[kind, j]
            tokens += 1
    _normalise(s.x[:tokens], encoder.embedding_norm, 0, epsilon)
    for layer in range(len(encoder.qkv.weight)):
        for first in range(0, tokens, ROWS):
            last = min(first + ROWS, tokens)
            linear = encoder.qkv
            _quantise(s.x[first:last], linear.smooth[layer], s, s.narrow_int8)
            arrays = linear.weight[layer], linear.scale[layer], linear.bias[layer]
            _linear_for_attention(s.narrow_int8, s, *arrays, s.qkv[first:last])
        start = 0
        for length in lengths:
            _attend(start, length, heads, s)
            start += length
        for first in range(0, tokens, ROWS):
            last = min(first + ROWS, tokens)
            x = s.x[first:last]
            linear = encoder.attention
            _quantise(s.attended[first:last], linear.smooth[layer], s, s.narrow_int8)
            _linear(s.narrow_int8, s, linear.weight[layer], linear.scale[layer], linear.bias[layer], x)
            _normalise(x, encoder.attention_norm, layer, epsilon)
            linear = encoder.inner
            wide = s.wide[: len(x)]
            _quantise(x, linear.smooth[layer], s, s.narrow_int8)
            _linear_gelu(s.narrow_int8, s, linear.weight[layer], linear.scale[layer], linear.bias[layer], wide)
            linear = encoder.outer
            _quantise(wide, linear.smooth[layer], s, s.wide_int8)
            _linear(s.wide_int8, s, linear.weight[layer], linear.scale[layer], linear.bias[layer], x)
            _normalise(x, encoder.outer_norm, layer, epsilon)
    close_tiles()
    token = 0
    for window in range(len(lengths)):
        for t in range(lengths[window]):
            start_logit, end_logit = encoder.head_bias[0], encoder.head_bias[1]
            for j in range(hidden):
                start_logit += s.x[token, j] * encoder.head[0, j]
                end_logit += s.x[token, j] * encoder.head[1, j]
            start_logits[window, t], end_logits[window, t] = start_logit, end_logit
            token += 1
