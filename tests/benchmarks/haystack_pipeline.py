"""needle against Haystack 3's own pipeline, from question to answer, same weights, same corpus, same questions.

usage: pip install transformers-haystack
       python tests/benchmarks/haystack_pipeline.py READER SQUAD.json[.gz] [QUESTIONS]
READER: the reader's folder in Hugging Face format. Two corpora: all paragraphs of the SQuAD file, and the shipped corpus as
needle cuts it into passages. QUESTIONS (default 300), answerable ones, evenly taken. Both systems give their best span,
whether or not they would rather say "no answer", read ten passages a question, and are asked one question at a time; needle
also in one call.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import ComponentDevice
from haystack_integrations.components.readers.transformers import TransformersExtractiveReader
from results import record, table

from needle.components.metrics import answer_score
from needle.data import SHIPPED_CORPUS
from needle.data.squad import Question, read_squad
from needle.pipelines import QA

TOP_K = 10

Row = list[object]


def row(corpus: str, name: str, questions: list[Question], ask: Callable[[list[str]], list[str]]) -> Row:
    ask([q.question for q in questions[:3]])
    start = time.perf_counter()
    texts = ask([q.question for q in questions])
    ms = 1000 * (time.perf_counter() - start) / len(questions)
    scores = [answer_score(text, (*q.answers, *q.also)) for text, q in zip(texts, questions, strict=True)]
    em, f1 = (100 * sum(values) / len(questions) for values in zip(*scores, strict=True))
    found: Row = [corpus, name, f"{em:.2f}", f"{f1:.2f}", f"{ms:,.0f}"]
    print(*found, sep=" | ", flush=True)
    return found


def haystacks(passages: list[Document], reader: str) -> Callable[[list[str]], list[str]]:
    store = InMemoryDocumentStore()
    store.write_documents([Document(content=p.content) for p in passages])
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(store, top_k=TOP_K))
    device = ComponentDevice.from_str("cpu")
    kwargs = {"torch_dtype": torch.float32}
    part = TransformersExtractiveReader(model=reader, device=device, no_answer=False, top_k=1, model_kwargs=kwargs)
    pipeline.add_component("reader", part)
    pipeline.connect("retriever.documents", "reader.documents")

    def ask(queries: list[str]) -> list[str]:
        texts = []
        for query in queries:
            found = pipeline.run({"retriever": {"query": query}, "reader": {"query": query}})["reader"]["answers"]
            texts.append(found[0].data or "" if found else "")
        return texts

    return ask


def best_texts(qa: QA, queries: list[str]) -> list[str]:
    return [result.answers[0].data or "" if result.answers else "" for result in qa.ask_many(queries)]


def measured(corpus: str, qas: dict[str, QA], questions: list[Question], reader: str) -> list[Row]:
    first = next(iter(qas.values()))
    rows = [row(corpus, "Haystack 3", questions, haystacks(first.store.filter_documents(), reader))]
    for name, qa in qas.items():
        rows.append(row(corpus, f"needle {name}", questions, lambda qs, qa=qa: [best_texts(qa, [q])[0] for q in qs]))
        rows.append(row(corpus, f"needle {name}, in one call", questions, lambda qs, qa=qa: best_texts(qa, qs)))
    return rows


def sample(questions: list[Question], n: int) -> list[Question]:
    answerable = [question for question in questions if not question.is_impossible]
    return answerable[:: max(1, len(answerable) // n)][:n]


reader, file = sys.argv[1:3]
n = int(sys.argv[3]) if len(sys.argv) > 3 else 300
squad = read_squad(file)
on_squad: dict[str, QA] = {}
for name in ("bm25_qa", "hybrid_qa"):
    on_squad[name] = QA.from_documents([], pipeline=name, model=reader)
    on_squad[name].store.write_documents([Document(content=text) for text in dict.fromkeys(q.context for q in squad)])
on_corpus = {name: QA.from_documents([], pipeline=name, model=reader) for name in on_squad}
for qa in on_corpus.values():
    qa.index([SHIPPED_CORPUS / "documents"])
rows = measured("SQuAD, open", on_squad, sample(squad, n), reader)
rows += measured("shipped corpus", on_corpus, sample(read_squad(SHIPPED_CORPUS / "questions.json"), n), reader)
record(
    "Haystack 3's pipeline",
    f"python tests/benchmarks/haystack_pipeline.py {' '.join(sys.argv[1:])}",
    f"Up to {n} answerable questions a corpus, evenly taken; top-1, the best span whether or not it beats no answer.\n\n"
    + table(["corpus", "pipeline", "exact_match", "f1", "ms a question"], rows),
    packages=("haystack-ai", "transformers", "transformers-haystack"),
)
