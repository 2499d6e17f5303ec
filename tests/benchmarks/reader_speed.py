"""needle's reader against transformers-haystack's TransformersExtractiveReader: same weights, same passages, same run.

usage: pip install transformers-haystack
       python tests/benchmarks/reader_speed.py READER SQUAD.json[.gz] [N_QUESTIONS]
READER: a folder in Hugging Face format. A question is read against the ten passages that BM25 finds for it among the file's
paragraphs. The rival runs with each of several batch sizes; the ratio is against its best one. The readers take turns within
each round, so that a noisy machine hurts them alike, and the best round of each counts.
"""

import sys
import time
from collections.abc import Callable

import torch
from haystack import Document
from haystack.utils import ComponentDevice
from haystack_integrations.components.readers.transformers import TransformersExtractiveReader

from needle.components.passages import PassageWriter
from needle.components.reader import MiniLMReader
from needle.components.retrievers import BM25Retriever
from needle.components.store import SQLiteDocumentStore
from needle.data.squad import read_squad

model, path = sys.argv[1:3]
n = int(sys.argv[3]) if len(sys.argv) > 3 else 30
questions = read_squad(path)
store = SQLiteDocumentStore()
paragraphs = [Document(content=context) for context in dict.fromkeys(q.context for q in questions)]
PassageWriter(store, model).run(documents=paragraphs)
asked = [q.question for q in questions[:: len(questions) // n]][:n]
passages = BM25Retriever(store, top_k=10).run(queries=asked)["documents_per_query"]
pairs = list(zip(asked, passages, strict=True))

contestants: dict[str, Callable[[], object]] = {}
for batch_size in (None, 1, 4):
    rival = TransformersExtractiveReader(
        model, device=ComponentDevice.from_str("cpu"), max_batch_size=batch_size, model_kwargs={"dtype": torch.float32}
    )
    rival.warm_up()
    contestants[f"TransformersExtractiveReader, batch {batch_size}"] = lambda r=rival: [r.run(q, d) for q, d in pairs]
for engine in ("torch", "onnx", "numba"):
    ours = MiniLMReader(model, document_store=store, device="cpu", engine=engine)
    ours.warm_up()
    contestants[f"needle {engine}, one by one"] = lambda r=ours: [r.run(q, d) for q, d in pairs]
    contestants[f"needle {engine}, all at once"] = lambda r=ours: r.run(queries=asked, documents_per_query=passages)

best = dict.fromkeys(contestants, float("inf"))
for _ in range(3):
    for name, run in contestants.items():
        started = time.perf_counter()
        run()
        best[name] = min(best[name], time.perf_counter() - started)
rival_best = min(seconds for name, seconds in best.items() if name.startswith("Transformers"))
print(f"{n} questions, {sum(map(len, passages)) / n:.1f} passages each, {torch.get_num_threads()} threads")
for name, seconds in best.items():
    print(f"{name:42} {1000 * seconds / n:7.0f} ms a question  {rival_best / seconds:5.2f} x")
