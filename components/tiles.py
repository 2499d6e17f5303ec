"""Matrix products, in tiles of `ROWS` x `COLUMNS` results that stay in registers while the inner dimension goes by.

A register holds `LANES` lanes of 32 bits, each four int8 (linear layers), two bfloat16 or one float32 (attention). The left
matrix lies row by row. The right one lies as tiles read it: for `COLUMNS` columns after `COLUMNS` columns, lane after lane
of the inner dimension, in each the lanes of all the columns.

With AVX-512 a step takes one lane of each row of the left matrix, spread over a register, and `COLUMNS` lanes of the right
one; one instruction multiplies the numbers in two lanes and adds up. With AMX a step takes `LANES` lanes, of which one
instruction multiplies 16 rows by 16 columns. With AVX2 a tile is made in parts, and the int8 numbers lie as int16, two in a
lane: its products of bytes may overflow. All three give the same int32 sums.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from llvmlite import ir
from numba import types

from needle.components.llvm import (
    BYTES,
    FEATURES,
    HAS_BFLOAT16_DOT,
    HAS_INT8_DOT,
    I8,
    I32,
    I64,
    INTS,
    LANES,
    NO_INTS,
    VOID,
    Builder,
    Dot,
    Value,
    at,
    call,
    dot_bfloat16,
    dot_float32,
    dot_int8,
    dot_int16,
    floats,
    intrinsic,
    load,
    loop,
    spread,
    store,
    store_int8,
    store_int16,
)


def _may_use_amx() -> bool:
    """Linux gives the tile registers' memory only to processes that ask; threads and forked processes inherit it."""
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return platform.system() == "Linux" and ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0


HAS_AMX = HAS_INT8_DOT and HAS_BFLOAT16_DOT and {"+amx-int8", "+amx-bf16"} <= FEATURES and _may_use_amx()

#: A tile's results take 4 of AMX's 8 registers, a step's numbers the others; of AVX-512's 32 registers they take 24. Of
#: AVX2's 16, half as wide, parts of a tile take 8; the tile is higher, so that the right matrix is read less often.
ROWS, VECTORS = 32 if HAS_AMX else 12 if HAS_INT8_DOT else 24, 2
COLUMNS = LANES * VECTORS
HALF = ROWS // 2
_PART_ROWS, _PART_VECTORS = (ROWS, VECTORS) if HAS_INT8_DOT else (4, 1)

#: How linear layers' int8 numbers lie in memory, how many of them in a lane, and what writes two registers of them.
LEFT, INT8_PER_LANE, store_int8_numbers = (np.int8, 4, store_int8) if HAS_INT8_DOT else (np.int16, 2, store_int16)

#: The inner dimension's int8 numbers are filled up to a multiple of this.
INNER = INT8_PER_LANE * LANES

#: Numbers of attention in one lane.
PER_LANE = 2 if HAS_BFLOAT16_DOT else 1

#: What is added to the right matrix' int8 numbers: AVX-512 multiplies unsigned by signed ones, AMX and AVX2 two signed ones.
#: By their type Numba's cache tells code with and without AMX apart.
OFFSET, RIGHT = (128, np.uint8) if HAS_INT8_DOT and not HAS_AMX else (0, LEFT)

#: Writes what is made of a block's row, given both's numbers and `VECTORS` registers of results.
Finish: TypeAlias = Callable[[Value, Value, list[Value]], None]


class Rows(NamedTuple):
    """A matrix in memory, row by row: its address and its rows' distance in bytes."""

    address: Value
    stride: Value

    def row(self, b: Builder, r: Value | int) -> Value:
        return b.add(self.address, b.mul(self.stride, I64(r) if isinstance(r, int) else r))


class Numbers(NamedTuple):
    """How numbers are multiplied: in a vector register, from which zero on, and by which instruction of AMX."""

    dot: Dot
    zero: Value
    tile_dot: str


INT8 = Numbers(dot_int8 if HAS_INT8_DOT else dot_int16, NO_INTS, "llvm.x86.tdpbssd")
ATTENTION = Numbers(dot_bfloat16 if HAS_BFLOAT16_DOT else dot_float32, floats(0), "llvm.x86.tdpbf16ps")


def product(
    b: Builder, n: Numbers, left: Rows, right: Value, lanes: Value, rows: Value, blocks: Value, finish: Finish
) -> None:
    """Finish `rows` <= `ROWS` rows' products with blocks of `COLUMNS` columns; of the left matrix `ROWS` rows are read."""
    size = b.mul(lanes, I64(4 * COLUMNS))
    if HAS_AMX:
        with b.goto_entry_block():
            memory = b.alloca(ir.ArrayType(I32, ROWS * COLUMNS))
            memory.align = 64
        sums = Rows(b.ptrtoint(memory, I64), I64(4 * COLUMNS))

        def finish_block(block: Value) -> None:
            def row(r: Value, _: list[Value]) -> list[Value]:
                finish(block, r, [load(b, sums.row(b, r), 64 * v, n.zero.type) for v in range(VECTORS)])
                return []

            loop(b, rows, [], row)

        def code(halves: int) -> None:
            def step(block: Value, _: list[Value]) -> list[Value]:
                """The last block is finished while the processor multiplies this one."""
                _amx_multiply(b, n, halves, left, b.add(right, b.mul(block, size)), lanes)
                with b.if_then(b.icmp_signed(">", block, I64(0))):
                    finish_block(b.sub(block, I64(1)))
                _amx_store(b, halves, sums)
                return []

            loop(b, blocks, [], step)
            finish_block(b.sub(blocks, I64(1)))

        _by_halves(b, rows, code)
    else:

        def step(block: Value, _: list[Value]) -> list[Value]:
            def finish_row(r: Value, results: list[Value]) -> None:
                with b.if_then(b.icmp_signed("<", r, rows)):
                    finish(block, r, results)

            _vector_product(b, n, left, b.add(right, b.mul(block, size)), lanes, rows, finish_row)
            return []

        loop(b, blocks, [], step)


def stored_product(
    b: Builder, n: Numbers, left: Rows, right: Value, lanes: Value, rows: Value, blocks: Value, out: Rows
) -> None:
    """The same, written as they are; up to `ROWS` rows may be written."""
    size = b.mul(lanes, I64(4 * COLUMNS))

    def code(halves: int) -> None:
        def step(block: Value, _: list[Value]) -> list[Value]:
            columns, place = b.add(right, b.mul(block, size)), b.add(out.address, b.mul(block, I64(4 * COLUMNS)))
            if HAS_AMX:
                _amx_multiply(b, n, halves, left, columns, lanes)
                _amx_store(b, halves, Rows(place, out.stride))
            else:

                def store_row(r: Value, results: list[Value]) -> None:
                    for v, result in enumerate(results):
                        store(b, result, Rows(place, out.stride).row(b, r), 64 * v)

                _vector_product(b, n, left, columns, lanes, rows, store_row)
            return []

        loop(b, blocks, [], step)

    _by_halves(b, rows, code)


def _by_halves(b: Builder, rows: Value, code: Callable[[int], None]) -> None:
    if not HAS_AMX:
        code(2)
        return
    with b.if_else(b.icmp_signed(">", rows, I64(HALF))) as (both, first):
        with both:
            code(2)
        with first:
            code(1)


def _vector_product(
    b: Builder, n: Numbers, left: Rows, right: Value, lanes: Value, rows: Value, use: Callable[[Value, list[Value]], None]
) -> None:
    """Give `use` each row of a tile."""

    def part(i: Value, _: list[Value]) -> list[Value]:
        numbers = [b.add(b.mul(i, I64(_PART_ROWS)), I64(r)) for r in range(_PART_ROWS)]
        results: list[list[Value]] = [[] for _ in numbers]
        for first in range(0, VECTORS, _PART_VECTORS):
            sums = _part_product(b, n, [left.row(b, r) for r in numbers], right, lanes, first)
            for row, result in zip(results, sums, strict=True):
                row += result
        for r, row in zip(numbers, results, strict=True):
            use(r, row)
        return []

    loop(b, b.udiv(b.add(rows, I64(_PART_ROWS - 1)), I64(_PART_ROWS)), [], part)


def _part_product(b: Builder, n: Numbers, rows: list[Value], right: Value, lanes: Value, first: int) -> list[list[Value]]:
    def step(i: Value, totals: list[Value]) -> list[Value]:
        place, lane = b.mul(i, I64(4 * COLUMNS)), b.mul(i, I64(4))
        columns = [load(b, b.add(right, place), 64 * (first + v), INTS) for v in range(_PART_VECTORS)]
        lefts = [spread(b, load(b, row, lane, I32)) for row in rows]
        pairs = [(left, column) for left in lefts for column in columns]
        return [n.dot(b, total, *pair) for total, pair in zip(totals, pairs, strict=True)]

    sums = loop(b, lanes, [n.zero] * (len(rows) * _PART_VECTORS), step)
    return [sums[r : r + _PART_VECTORS] for r in range(0, len(sums), _PART_VECTORS)]


def _results(halves: int) -> list[tuple[int, int, Value]]:
    return [(h, v, I8(2 * h + v)) for h in range(halves) for v in range(VECTORS)]


def _amx_move(b: Builder, name: str, register: Value, address: Value, offset: Value | int, stride: Value) -> None:
    call(b, f"llvm.x86.tile{name}64", VOID, register, at(b, address, offset, I8), stride)


def _amx_multiply(b: Builder, n: Numbers, halves: int, left: Rows, right: Value, lanes: Value) -> None:
    """Registers 0 to 3 have the results, 4 and 5 a step of the left matrix, 6 and 7 of the right one."""
    for _, _, result in _results(halves):
        call(b, "llvm.x86.tilezero", VOID, result)

    def step(i: Value, _: list[Value]) -> list[Value]:
        columns, lane = b.add(right, b.mul(i, I64(4 * COLUMNS * LANES))), b.mul(i, I64(4 * LANES))
        for v in range(VECTORS):
            _amx_move(b, "loadd", I8(6 + v), columns, 64 * v, I64(4 * COLUMNS))
        for h in range(halves):
            _amx_move(b, "loadd", I8(4 + h), left.row(b, HALF * h), lane, left.stride)
        for h, v, result in _results(halves):
            call(b, n.tile_dot, VOID, result, I8(4 + h), I8(6 + v))
        return []

    loop(b, b.udiv(lanes, I64(LANES)), [], step)


def _amx_store(b: Builder, halves: int, out: Rows) -> None:
    for h, v, result in _results(halves):
        _amx_move(b, "stored", result, out.row(b, HALF * h), 64 * v, out.stride)


@intrinsic
def open_tiles(_):  # type: ignore[no-untyped-def]
    """What each thread does before it makes products: all registers have 16 rows of 64 bytes."""

    def code(context: object, b: Builder, signature: object, arguments: list[Value]) -> Value:
        if HAS_AMX:
            sizes = np.zeros(64, np.uint8)
            sizes[0], sizes[16:32:2], sizes[48:56] = 1, 64, HALF
            with b.goto_entry_block():
                memory = b.alloca(BYTES)
            b.store(ir.Constant(BYTES, sizes.tolist()), memory)
            call(b, "llvm.x86.ldtilecfg", VOID, b.bitcast(memory, I8.as_pointer()))
        return ir.Constant(I8.as_pointer(), None)

    return types.void(), code


@intrinsic
def close_tiles(_):  # type: ignore[no-untyped-def]
    """The system need not keep this thread's tiles any longer."""

    def code(context: object, b: Builder, signature: object, arguments: list[Value]) -> Value:
        if HAS_AMX:
            call(b, "llvm.x86.tilerelease", VOID)
        return ir.Constant(I8.as_pointer(), None)

    return types.void(), code
