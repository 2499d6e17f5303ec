"""needle's reader against transformers-haystack's TransformersExtractiveReader, and against the machine's own limit.

usage: pip install transformers-haystack
       python tests/benchmarks/reader_speed.py READER SQUAD.json[.gz] [N_QUESTIONS] [DEVICE]
READER: a folder in Hugging Face format.

All readers have the same weights. A question is read against the ten passages that BM25 finds for it among the file's
paragraphs. The rival runs with each of several batch sizes; ratios are against its best one. The readers take turns within
each round, so that a noisy machine hurts them alike, and the best round of each counts. Memory is what a fresh process grows
by at most while it reads, the model loaded before.
"""

import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from haystack import Document
from haystack.utils import ComponentDevice
from haystack_integrations.components.readers.transformers import TransformersExtractiveReader
from memory import forget_peak, peak, resident
from results import record, table

from needle.components.llvm import HAS_AVX2, HAS_INT8_DOT
from needle.components.passages import PassageWriter
from needle.components.reader import MiniLMReader
from needle.components.retrievers import BM25Retriever
from needle.components.store import SQLiteDocumentStore
from needle.components.tiles import HAS_AMX
from needle.components.tokenizer import PassageTokenizer
from needle.components.weights import open_checkpoint
from needle.data.squad import read_squad

model, path = sys.argv[1:3]
n = int(sys.argv[3]) if len(sys.argv) > 3 else 20
device = sys.argv[4] if len(sys.argv) > 4 else "cpu"
only = sys.argv[5] if len(sys.argv) > 5 else None  # this program starts itself to measure memory

questions = read_squad(path)
store = SQLiteDocumentStore()
PassageWriter(store, model).run(documents=[Document(content=c) for c in dict.fromkeys(q.context for q in questions)])
asked = [q.question for q in questions[:: len(questions) // n]][:n]
passages = BM25Retriever(store, top_k=10).run(queries=asked)["documents_per_query"]


def rival(batch_size: int | None) -> Callable[[], object]:
    kwargs = {"dtype": torch.float32 if device == "cpu" else torch.bfloat16}
    reader = TransformersExtractiveReader(
        model, device=ComponentDevice.from_str(device), max_batch_size=batch_size, model_kwargs=kwargs
    )
    reader.warm_up()
    return lambda: [reader.run(q, d) for q, d in zip(asked, passages, strict=True)]


def ours(engine: str, at_once: bool) -> Callable[[], object]:
    reader = MiniLMReader(model, document_store=store, device=device, engine=engine)  # type: ignore[arg-type]
    reader.warm_up()
    if at_once:
        return lambda: reader.run(queries=asked, documents_per_query=passages)
    return lambda: [reader.run(q, d) for q, d in zip(asked, passages, strict=True)]


def makers() -> dict[str, Callable[[], Callable[[], object]]]:
    found: dict[str, Callable[[], Callable[[], object]]] = {}
    for size in (None, 1, 4):
        found[f"TransformersExtractiveReader, {f'batches of {size}' if size else 'all passages in one batch'}"] = (
            lambda s=size: rival(s)
        )
    cpu_engines = ("torch", "onnx", "numba") if HAS_AVX2 else ("torch", "onnx")
    for engine in cpu_engines if device == "cpu" else ("torch",):
        found[f"needle {engine}, one question at a time"] = lambda e=engine: ours(e, False)
        found[f"needle {engine}, all at once"] = lambda e=engine: ours(e, True)
    return found


def memory(name: str) -> float:
    arguments = [model, path, str(n), device, name]
    run = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    return float(run.stdout.split()[-1])


def gemm_peak(kind: torch.dtype) -> float:
    """Operations a second of torch's own product of two large matrices, best of ten."""
    size = 4096 if device != "cpu" else 1536
    left, right = ((torch.randn(size, size) * 20).to(device, kind) for _ in range(2))
    product = torch._int_mm if kind == torch.int8 else torch.mm
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        product(left, right)
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def tile_peak() -> float:
    """The same of the numba engine's own tiles, on both cores, on matrices of a feed-forward layer's size."""
    from concurrent.futures import ThreadPoolExecutor

    from numba import njit

    from needle.components.bert_kernels import ROWS, _linear, scratch, tiled
    from needle.components.cores import available_cores

    s, repeats = scratch(ROWS, 1536, 384, 32), 3000
    weight = tiled(np.random.default_rng(0).integers(-127, 127, (384, 1536)).astype(np.int8))
    scale = np.ones(384, np.float32)

    @njit(nogil=True)  # type: ignore[untyped-decorator]
    def repeat(int8, s, weight, scale, out):  # type: ignore[no-untyped-def]
        for _ in range(repeats):
            _linear(int8, s, weight, scale, scale, out)

    def work(_: int) -> None:
        repeat(s.narrow_int8, s, weight, scale, np.zeros((ROWS, 384), np.float32))

    best = float("inf")
    with ThreadPoolExecutor(available_cores()) as pool:
        for _ in range(5):
            started = time.perf_counter()
            list(pool.map(work, range(available_cores())))
            best = min(best, time.perf_counter() - started)
    return 2 * ROWS * 1536 * 384 * repeats * available_cores() / best


if only is not None:
    run = makers()[only]()
    before = resident()
    forget_peak()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        on_gpu = torch.cuda.memory_allocated(device)
    run()
    grown = peak() - before if device == "cpu" else (torch.cuda.max_memory_allocated(device) - on_gpu) / 2**20
    print(grown)
    sys.exit()

contestants = {name: make() for name, make in makers().items()}
best = dict.fromkeys(contestants, float("inf"))
for _ in range(3):
    for name, run in contestants.items():
        started = time.perf_counter()
        run()
        best[name] = min(best[name], time.perf_counter() - started)
rival_best = min(seconds for name, seconds in best.items() if name.startswith("Transformers"))

tokenizer = PassageTokenizer.from_folder(open_checkpoint(model).folder)
windows = sum(map(len, passages))
words = [len(t.ids) for t in tokenizer.encode(asked)]
inside = [sum(len(t.ids) for t in tokenizer.encode([d.content or "" for d in docs])) for docs in passages]
lengths = [3 * len(docs) + q * len(docs) + p for q, docs, p in zip(words, passages, inside, strict=True)]
tokens = sum(lengths)
config = open_checkpoint(model).config
hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
linear = layers * 2 * (4 * hidden * hidden + 2 * hidden * inner)  # operations a token
attention = layers * 4 * hidden * tokens / windows
operations = tokens * (linear + attention)

rows: list[list[object]] = []
for name, seconds in best.items():
    rows.append(
        [
            name,
            f"{1000 * seconds / n:.0f}",
            f"{windows / seconds:.1f}",
            f"{tokens / seconds:,.0f}",
            f"{memory(name):.0f}",
            f"{rival_best / seconds:.2f}",
        ]
    )
header = ["reader", "ms a question", "windows/s", "real tokens/s", "memory MiB", "against the rival's best"]
text = (
    f"{n} questions, {windows / n:.1f} passages each, windows of {tokens / windows:.0f} tokens on average, device {device}, "
    f"{torch.get_num_threads()} threads in torch. {' '.join((__doc__ or '').split('format.')[1].split())}\n\n"
    + table(header, rows)
)
peaks = {str(kind): gemm_peak(kind) for kind in (torch.float32, torch.bfloat16, torch.int8)}
if device == "cpu" and HAS_AVX2:
    peaks["int8, needle's tiles"] = tile_peak()
fastest = min((name for name in best if name.startswith("needle")), key=lambda name: best[name])
rate = operations / best[fastest]
text += (
    "\n\nMatrix products alone, giga-operations a second: "
    + ", ".join(f"{name.removeprefix('torch.')} {value / 1e9:,.0f}" for name, value in peaks.items())
    + f". The fastest reader ({fastest}) does {rate / 1e9:,.0f}: "
    + f"{linear / (linear + attention):.0%} of it in linear layers, the rest in attention; "
    + ", ".join(f"{rate / value:.0%} of {name.removeprefix('torch.')}" for name, value in peaks.items())
    + "."
)
way = "AMX" if HAS_AMX else "AVX-512" if HAS_INT8_DOT else "AVX2"
record(
    f"Reader speed on cpu with {way}" if device == "cpu" else "Reader speed on cuda",
    "python tests/benchmarks/reader_speed.py " + " ".join(sys.argv[1:]),
    text,
    ("transformers", "transformers-haystack"),
)
