"""Blocks of LLVM code for Numba's intrinsics: 512-bit registers of x86 and their dot products, which Numba does not know.

A register holds `LANES` lanes of 32 bits, each four int8, two int16 or bfloat16, or one float32; where the processor's own
have 256 bits, LLVM makes two of it. Addresses are integers, offsets and strides are in bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba import extending, types
from numba.core.registry import cpu_target

FEATURES = set(cpu_target.target_context.codegen().magic_tuple()[2].split(","))
HAS_AVX2 = {"+avx2", "+fma"} <= FEATURES
HAS_INT8_DOT = {"+avx512f", "+avx512bw", "+avx512dq", "+avx512vnni"} <= FEATURES
HAS_BFLOAT16_DOT = HAS_INT8_DOT and "+avx512bf16" in FEATURES

LANES = 16


class BFloat(ir.types.Type):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite lacks."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BFloat)

    def __hash__(self) -> int:
        return hash(BFloat)


VOID, F32 = ir.VoidType(), ir.FloatType()
I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
INTS, FLOATS = ir.VectorType(I32, LANES), ir.VectorType(F32, LANES)
BYTES, SHORTS, BFLOAT_PAIRS = (ir.VectorType(kind, 64 // size) for kind, size in ((I8, 1), (I16, 2), (BFloat(), 2)))
NO_INTS = ir.Constant(INTS, [0] * LANES)

Builder: TypeAlias = Any  # llvmlite has no types
Value: TypeAlias = Any
intrinsic: Any = extending.intrinsic  # its types leave no room for the context that Numba adds
Dot: TypeAlias = Callable[[Builder, Value, Value, Value], Value]


def floats(number: float) -> Value:
    return ir.Constant(FLOATS, [float(np.float32(number))] * LANES)


def call(b: Builder, name: str, result: Any, *arguments: Value, fastmath: tuple[str, ...] = ()) -> Value:
    function = b.module.globals.get(name)
    if function is None:
        function = ir.Function(b.module, ir.FunctionType(result, [a.type for a in arguments]), name)
    return b.call(function, arguments, fastmath=fastmath)


def fma(b: Builder, x: Value, y: Value, z: Value) -> Value:
    return call(b, "llvm.fma.v16f32", FLOATS, x, y, z)


def at(b: Builder, address: Value, offset: Value | int, kind: Any) -> Value:
    offset = I64(offset) if isinstance(offset, int) else offset
    return b.inttoptr(b.add(address, offset), kind.as_pointer())


def load(b: Builder, address: Value, offset: Value | int, kind: Any) -> Value:
    return b.load(at(b, address, offset, kind), align=4)


def store(b: Builder, value: Value, address: Value, offset: Value | int) -> None:
    b.store(value, at(b, address, offset, value.type), align=4)


def larger(b: Builder, x: Value, y: Value) -> Value:
    return b.select(b.fcmp_ordered(">", x, y), x, y)


def smaller(b: Builder, x: Value, y: Value) -> Value:
    return b.select(b.fcmp_ordered("<", x, y), x, y)


def largest(b: Builder, numbers: Value) -> Value:
    """Of all lanes."""
    return call(b, "llvm.vector.reduce.fmax.v16f32", F32, numbers)


def total(b: Builder, numbers: Value) -> Value:
    """Of all lanes."""
    return call(b, "llvm.vector.reduce.fadd.v16f32", F32, F32(0.0), numbers, fastmath=("reassoc",))


def spread(b: Builder, number: Value) -> Value:
    """The number in all lanes."""
    nothing = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
    return b.shuffle_vector(b.insert_element(nothing, number, I32(0)), nothing, NO_INTS)


def halves(b: Builder, register: Value) -> list[Value]:
    """As the 256-bit instructions of x86 take them."""
    lanes = list(range(LANES))
    parts = lanes[: LANES // 2], lanes[LANES // 2 :]
    return [b.shuffle_vector(register, register, ir.Constant(ir.VectorType(I32, len(part)), part)) for part in parts]


def joined(b: Builder, parts: list[Value]) -> Value:
    """Two registers, or halves of one, side by side."""
    lanes = parts[0].type.count + parts[1].type.count
    return b.shuffle_vector(*parts, ir.Constant(ir.VectorType(I32, lanes), list(range(lanes))))


def dot_int8(b: Builder, total: Value, left: Value, right: Value) -> Value:
    return call(b, "llvm.x86.avx512.vpdpbusd.512", INTS, total, right, left)  # unsigned by signed


def dot_int16(b: Builder, total: Value, left: Value, right: Value) -> Value:
    shorts, ints = ir.VectorType(I16, LANES), ir.VectorType(I32, LANES // 2)
    pairs = zip(halves(b, left), halves(b, right), strict=True)
    products = [call(b, "llvm.x86.avx2.pmadd.wd", ints, *(b.bitcast(half, shorts) for half in pair)) for pair in pairs]
    return b.add(total, joined(b, products))


def dot_bfloat16(b: Builder, total: Value, left: Value, right: Value) -> Value:
    left, right = b.bitcast(left, BFLOAT_PAIRS), b.bitcast(right, BFLOAT_PAIRS)
    return call(b, "llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, total, left, right)


def dot_float32(b: Builder, total: Value, left: Value, right: Value) -> Value:
    return fma(b, b.bitcast(left, FLOATS), b.bitcast(right, FLOATS), total)


def store_for_attention(b: Builder, numbers: list[Value], address: Value, offset: Value | int) -> None:
    """Two registers of float32 as attention's products take them."""
    if HAS_BFLOAT16_DOT:
        numbers = [call(b, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", BFLOAT_PAIRS, *reversed(numbers))]
    for v, register in enumerate(numbers):
        store(b, register, b.add(address, I64(64 * v)), offset)


def store_int8(b: Builder, numbers: list[Value], address: Value, offset: Value | int) -> None:
    """Two registers of int32 as int8."""
    low = ir.Constant(ir.VectorType(I32, 2 * LANES), [4 * i for i in range(2 * LANES)])
    store(b, b.shuffle_vector(*(b.bitcast(n, BYTES) for n in numbers), low), address, offset)


def store_int16(b: Builder, numbers: list[Value], address: Value, offset: Value | int) -> None:
    """Two registers of int32 as int16."""
    store(b, b.trunc(joined(b, numbers), SHORTS), address, offset)


def loop(b: Builder, steps: Value, start: list[Value], body: Callable[[Value, list[Value]], list[Value]]) -> list[Value]:
    """for i in range(steps): values = body(i, values); `steps` is at least 1."""
    before = b.block
    block, after = b.function.append_basic_block(), b.function.append_basic_block()
    b.branch(block)
    b.position_at_end(block)
    i, values = b.phi(I64), [b.phi(value.type) for value in start]
    results = body(i, values)
    following = b.add(i, I64(1))
    for phi, first, then in zip([i, *values], [I64(0), *start], [following, *results], strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(then, b.block)
    b.cbranch(b.icmp_signed("<", following, steps), block, after)
    b.position_at_end(after)
    return results


@intrinsic
def dot_bytes(_, left, right, steps):  # type: ignore[no-untyped-def]
    """Dot product, an int32, of 64 * steps uint8 at the address `left` and as many int8 at `right`; steps is at least 1."""

    def code(context: Any, b: Builder, signature: Any, arguments: list[Value]) -> Value:
        left, right, steps = arguments

        def step(i: Value, totals: list[Value]) -> list[Value]:
            place = b.mul(i, I64(64))
            unsigned, signed = (load(b, b.add(address, place), 0, INTS) for address in (left, right))
            return [dot_int8(b, totals[0], signed, unsigned)]

        [totals] = loop(b, steps, [NO_INTS], step)
        return call(b, "llvm.vector.reduce.add.v16i32", I32, totals)

    return types.int32(types.int64, types.int64, types.int64), code
