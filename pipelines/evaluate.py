"""Evaluation of retrieval: test collections -> runs of a pipeline's retrieving part -> measures, comparisons.

```python
collection = squad_collection("dev-v2.0.json.gz")
found = retrieve("bm25_qa", collection, top_k=100)
print(means(measure(found.run, collection.qrels, measures(100)))["recall@10"])
```
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from haystack import Document, Pipeline

from needle.components.metrics import normalise_answer
from needle.components.store import SQLiteDocumentStore
from needle.data.errors import PipelineError, UnreadableFile
from needle.data.squad import Question, read_squad
from needle.data.trec import Qrels, Run, read_documents, read_qrels, read_topics
from needle.pipelines.loading import load_pipeline, run_pipeline, takers

#: Query id -> measure -> value.
Scores = dict[str, dict[str, float]]

#: Queries run at a time: bounds the memory that their documents take.
_BATCH = 256
_IR_MEASURES = {"recall": "R", "mrr": "RR", "ndcg": "nDCG", "map": "AP"}
_RESAMPLES, _RESAMPLES_BATCH = 9_999, 500


@dataclass(frozen=True)
class Collection:
    """Documents (one passage each), queries by id, and what is relevant to them; `note` is what a user should know."""

    documents: list[Document]
    queries: dict[str, str]
    qrels: Qrels
    note: str = ""


@dataclass(frozen=True)
class Retrieval:
    """What was found, seconds for writing and indexing the documents, and milliseconds a query after that."""

    run: Run
    index_s: float
    query_ms: float


@dataclass(frozen=True)
class Comparison:
    """A measure of a run against another run's: means, their difference, the number of queries, and how likely a difference
    this large is if the two were equally good."""

    mean: float
    other: float
    difference: float
    better: int
    worse: int
    equal: int
    p: float


def squad_collection(path: str | Path, relevant: Literal["own", "answer"] = "own", limit: int | None = None) -> Collection:
    """The different paragraphs of a SQuAD-format file that have questions, and its answerable questions.

    :param relevant: "own": a question's own paragraph is relevant to it; "answer": so is every other that contains one of
        its answers, as whole words, after SQuAD's normalisation.
    :param limit: only the first so many questions; the paragraphs are all there.
    :raises UnreadableFile: if the file is not in SQuAD's format, has no answerable question, or two of one id.
    """
    questions = read_squad(path)
    documents: dict[str, Document] = {}  # by content
    counts: Counter[str] = Counter()
    for question in questions:
        if question.context not in documents:
            title = _word(question.title) or "paragraph"
            counts[title] += 1
            meta = {"title": question.title}
            documents[question.context] = Document(id=f"{title}-{counts[title]}", content=question.context, meta=meta)
    asked = [question for question in questions if not question.is_impossible][:limit]
    queries = {_word(question.id): question.question for question in asked}
    if not queries:
        raise UnreadableFile(f"'{path}' has no answerable question.")
    if len(queries) < len(asked):
        [(twice, _)] = Counter(_word(question.id) for question in asked).most_common(1)
        raise UnreadableFile(f"'{path}' has two questions with the id '{twice}'.")
    holding = _holding(list(documents.values())) if relevant == "answer" else lambda _: set()
    qrels = {_word(q.id): dict.fromkeys([documents[q.context].id, *sorted(holding(q))], 1) for q in asked}
    return Collection(list(documents.values()), queries, qrels)


def trec_collection(documents: str | Path, topics: str | Path, qrels: str | Path) -> Collection:
    """TREC files (see `needle.data.trec`); the queries are the topics that were judged.

    Some collections, Cranfield among them, number their topics one way and their judgements from 1 in the topics' order: if
    the qrels' ids are not the topics' but 1 to the number of topics, they are taken for that, and `note` says so.

    :raises UnreadableFile: if a file is not in its format, or the three do not belong together; the message says why.
    """
    found, queries, judged, note = read_documents(documents), read_topics(topics), read_qrels(qrels), ""
    if unknown := [topic for topic in judged if topic not in queries]:
        ordinals = [str(n) for n in range(1, len(queries) + 1)]
        if set(judged) != set(ordinals):
            listed = ", ".join(unknown[:10]) + ", ..." * (len(unknown) > 10)
            raise UnreadableFile(f"'{qrels}' judges topics that '{topics}' does not have: {listed}.")
        queries = dict(zip(ordinals, queries.values(), strict=True))
        note = f"'{qrels}' numbers the topics 1 to {len(queries)}, '{topics}' does not: taken in the order of the topics."
    if not any(document.id in judgements for judgements in judged.values() for document in found):
        raise UnreadableFile(f"'{qrels}' judges none of the documents of '{documents}'.")
    return Collection(found, {topic: query for topic, query in queries.items() if topic in judged}, judged, note)


def retrieve(
    pipeline: str | Path,
    collection: Collection,
    top_k: int,
    progress: Callable[[int, int], None] | None = None,
    embedder: str | None = None,
) -> Retrieval:
    """Put a collection's documents, unsplit, in a temporary store and its queries to a question answering pipeline without
    its reader.

    :param pipeline: a YAML file, or the name of a definition that comes with needle.
    :param top_k: documents a query; the components before the last one find at least as many as their definition says.
    :param progress: called with the number of queries done and of all, after every batch.
    :param embedder: the embedding model of its dense retrievers; None leaves what the definition says.
    :raises PipelineError: if the pipeline can't be loaded, lacks a query or a single list of documents, or fails.
    """
    store = SQLiteDocumentStore()
    loaded = load_pipeline(pipeline, store.folder, embedder=embedder)
    for name in [name for name, sockets in loaded.outputs().items() if "answers" in sockets]:
        loaded.remove_component(name)
    ask = _asker(loaded, top_k)
    start = time.perf_counter()
    store.write_documents(collection.documents)
    loaded.warm_up()
    indexed = time.perf_counter()
    run: Run = {}
    ids = list(collection.queries)
    for batch in (ids[i : i + _BATCH] for i in range(0, len(ids), _BATCH)):
        for query_id, documents in zip(batch, ask([collection.queries[i] for i in batch]), strict=True):
            run[query_id] = {d.id: -rank if d.score is None else d.score for rank, d in enumerate(documents)}
        if progress is not None:
            progress(len(run), len(ids))
    return Retrieval(run, indexed - start, 1000 * (time.perf_counter() - indexed) / len(ids))


def measures(top_k: int) -> list[str]:
    """What is measured on the first `top_k` documents of a query; `map` is that of trec_eval, over all of them."""
    recalls = [f"recall@{k}" for k in (1, 5, 10, 20, 100) if k <= top_k]
    return [*recalls, f"mrr@{min(10, top_k)}", f"ndcg@{min(10, top_k)}", "map"]


def measure(run: Run, qrels: Qrels, names: Sequence[str]) -> Scores:
    """Each judged query's measures, by ir_measures; 0 where nothing was found.

    :param names: such as "recall@10", "mrr@10", "ndcg@10" (linear gain, as trec_eval's) and "map".
    """
    import ir_measures  # here: asking does without it

    wanted = {}
    for name in names:
        kind, at, k = name.partition("@")
        wanted[ir_measures.parse_measure(_IR_MEASURES[kind] + at + k)] = name
    # Scores that only tell the order: trec_eval would put equal ones in that of their ids.
    ranked = {q: {d: -float(rank) for rank, d in enumerate(run[q])} for q in qrels if run.get(q)}
    scores: Scores = {query: dict.fromkeys(names, 0.0) for query in qrels}
    for found in ir_measures.iter_calc(list(wanted), qrels, ranked):
        scores[found.query_id][wanted[found.measure]] = float(found.value)
    return scores


def means(scores: Scores) -> dict[str, float]:
    """Each measure's mean over the queries."""
    names = next(iter(scores.values()))
    return {name: sum(values[name] for values in scores.values()) / len(scores) for name in names}


def compare(scores: Scores, other: Scores) -> dict[str, Comparison]:
    """One run's measures against another's on the same queries.

    `p` is that of Fisher's two-sided paired randomisation test (Smucker, Allan and Carterette 2007, CIKM, pages 623-632) by
    9,999 random assignments, the same in every call: exact to about 0.005 near 0.05, and never below 0.0001. Every measure
    is tested by itself; of many, some will seem to differ by chance.
    """
    names = list(next(iter(scores.values())))
    ours = np.array([[scores[query][name] for name in names] for query in scores])  # (n_queries, n_measures)
    theirs = np.array([[other[query][name] for name in names] for query in scores])
    differences = ours - theirs
    least = np.abs(differences.sum(0)) - 1e-9  # sums of the same numbers in another order differ in their last digits
    rng, as_large = np.random.default_rng(0), np.zeros(len(names), np.int64)
    for done in range(0, _RESAMPLES, _RESAMPLES_BATCH):
        flips = rng.integers(0, 2, (min(_RESAMPLES_BATCH, _RESAMPLES - done), len(scores)), np.int8) * 2 - 1
        as_large += (np.abs(flips @ differences) >= least).sum(0)
    columns = zip(names, ours.T, theirs.T, differences.T, (as_large + 1) / (_RESAMPLES + 1), strict=True)
    return {
        name: Comparison(
            mean=float(a.mean()),
            other=float(b.mean()),
            difference=float(d.mean()),
            better=int((d > 0).sum()),
            worse=int((d < 0).sum()),
            equal=int((d == 0).sum()),
            p=float(p),
        )
        for name, a, b, d, p in columns
    }


def _asker(pipeline: Pipeline, top_k: int) -> Callable[[list[str]], list[list[Document]]]:
    """Queries -> documents of each, best first: all at once where every component takes `queries`."""

    def last(output: str) -> list[str]:
        return [name for name, sockets in pipeline.outputs().items() if output in sockets]

    # A retriever gives both; if only its `documents` go on to a ranker, that one is asked a query at a time.
    is_batched = takers(pipeline, "queries") == takers(pipeline, "query")
    is_batched = is_batched and last("documents") == last("documents_per_query")
    socket, output = ("queries", "documents_per_query") if is_batched else ("query", "documents")
    asked, givers = takers(pipeline, socket), last(output)
    if not asked or len(givers) != 1:
        raise PipelineError(
            "To be evaluated, a pipeline without its reader needs an input 'query' and one component with a free output "
            f"'{output}'; this one has the inputs {asked} and the outputs {givers}."
        )

    def ask(value: str | list[str]) -> Any:
        data: dict[str, dict[str, Any]] = {name: {socket: value} for name in asked}
        for name in takers(pipeline, "top_k"):  # what is before the last component finds no less than it would without
            own = 0 if name in givers else getattr(pipeline.get_component(name), "top_k", 0)
            data.setdefault(name, {})["top_k"] = max(top_k, own)
        return run_pipeline(pipeline, data)[givers[0]][output]

    return ask if is_batched else lambda queries: [ask(query) for query in queries]


def _holding(documents: Sequence[Document]) -> Callable[[Question], set[str]]:
    """A function from a question to the ids of the documents that contain one of its answers."""
    texts = {d.id: f" {normalise_answer(d.content or '')} " for d in documents}
    having: Mapping[str, set[str]] = defaultdict(set)  # word -> ids
    for document_id, text in texts.items():
        for word in text.split():
            having[word].add(document_id)

    def holding(question: Question) -> set[str]:
        found: set[str] = set()
        for answer in {normalise_answer(a) for a in (*question.answers, *question.also)} - {""}:
            candidates = set.intersection(*(having.get(word, set()) for word in answer.split()))
            found.update(i for i in candidates if f" {answer} " in texts[i])
        return found

    return holding


def _word(text: str) -> str:
    """Without the white space that a run's fields can't hold."""
    return "_".join(str(text).split())
