"""How the reader's speed and memory grow with windows, passage length and questions in a call.

usage: python tests/benchmarks/reader_scaling.py SQUAD.json[.gz] [MOST_WINDOWS] [DEVICE]
Memory is what the process grows by at most while it reads, the model loaded and warm before.
"""

import gc
import sys
import time

from haystack import Document
from memory import forget_peak, peak, resident
from results import record, table

from needle.components.reader import MiniLMReader
from needle.data.squad import read_squad

path = sys.argv[1]
most = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
device = sys.argv[3] if len(sys.argv) > 3 else "cpu"
questions = [q for q in read_squad(path) if len(q.context) < 1400]  # one window each
reader = MiniLMReader(device=device)
reader.run(questions[0].question, [Document(content=questions[0].context)])


def measured(queries: list[str], documents: list[list[Document]], rounds: int = 1) -> tuple[float, float]:
    """Seconds of the best round; MiB."""
    gc.collect()
    before = resident()
    forget_peak()
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        reader.run(queries=queries, documents_per_query=documents)
        best = min(best, time.perf_counter() - started)
    return best, peak() - before


def passages(count: int) -> list[Document]:
    return [Document(content=questions[i % len(questions)].context, meta={"n": i}) for i in range(count)]


rows: list[list[object]] = []
count = 10
while count <= most:
    found = passages(count)
    queries = [questions[i].question for i in range(0, min(count, len(questions)), 10)]
    documents = [found[i * count // len(queries) : (i + 1) * count // len(queries)] for i in range(len(queries))]
    seconds, grown = measured(queries, documents, 3 if count <= 1000 else 1)
    rows.append([f"{count:,}", f"{seconds:.2f}", f"{count / seconds:.1f}", f"{grown:.0f}"])
    count *= 10
text = (
    "SQuAD passages, ten a question (the last row: 89), often the same paragraph twice, which is tokenised once:\n\n"
    + table(["windows", "seconds", "windows/s", "memory MiB"], rows)
)

rows = []
for words in (25, 50, 100, 200, 270):
    cut = [Document(content=" ".join((q.context + " " + q.context).split()[:words])) for q in questions[:200:2]]
    seconds, _ = measured([questions[0].question], [cut], 3)
    rows.append([words, f"{len(cut) / seconds:.1f}", f"{len(cut) * words / seconds:,.0f}"])
text += "\n\n100 passages cut to a length, one question:\n\n" + table(["words a passage", "windows/s", "words/s"], rows)

rows = []
for together in (1, 4, 16, 64):
    groups = [questions[i : i + together] for i in range(0, 64, together)]
    started = time.perf_counter()
    for group in groups:
        documents = [[Document(content=x.context) for x in questions[j : j + 10]] for j in range(len(group))]
        reader.run(queries=[q.question for q in group], documents_per_query=documents)
    seconds = time.perf_counter() - started
    rows.append([together, f"{1000 * seconds / 64:.0f}"])
text += "\n\n64 questions, ten passages each:\n\n" + table(["questions a call", "ms a question"], rows)
record(
    f"Reader scaling on {device.split(':')[0]}",
    "python tests/benchmarks/reader_scaling.py " + " ".join(sys.argv[1:]),
    text,
)
