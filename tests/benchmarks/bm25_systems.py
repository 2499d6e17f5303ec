"""The BM25 systems that `bm25_speed.py` measures, all of one shape.

A System makes an index of passages, which are rows 0, 1, 2, ..., and answers a question with the ten best rows and their
scores. Analysis of the question is part of every search.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.components.analysis import Analyzer

TOP_K = 10
ADD_BATCH = 50_000  # as BM25Retriever does

Found = tuple[Sequence[int], Sequence[float]]  # rows, scores


def filter_rows(n: int) -> dict[str, NDArray[np.int64]]:
    """What the filters let through: a random half of all rows, and a random hundredth."""
    order = np.random.default_rng(1).permutation(n)
    return {"half": np.sort(order[: n // 2]), "hundredth": np.sort(order[: n // 100])}


class System:
    """What to override, and below what a system can do."""

    name: str
    modules: tuple[str, ...]  # imported before any clock starts
    takes_texts = True  # `build`
    takes_tokens = True  # `build_tokens`, called last: that index is saved
    many_cores_build = False
    batches = True  # `search_many` on several cores
    on_disk = False  # built where it is saved
    saves = True
    changes = True
    filters = True
    slow = False

    def __init__(self, folder: Path, n: int):
        """folder: where the index is saved; it is there, and empty at first. n: passages that are built of, not added."""
        self.folder = folder
        self.n = n
        self.analyzer = Analyzer()

    @cached_property
    def among(self) -> dict[str, NDArray[np.int64]]:
        return filter_rows(self.n)

    @cached_property
    def marks(self) -> dict[str, set[int]]:
        """`among` for those that filter by a field."""
        return {name: set(rows.tolist()) for name, rows in self.among.items()}

    def build(self, texts: list[str]) -> None:
        raise NotImplementedError

    def build_tokens(self, tokens: list[list[str]]) -> None:
        raise NotImplementedError

    def save(self) -> None:
        pass

    def load(self) -> None:
        raise NotImplementedError

    def search(self, question: str) -> Found:
        raise NotImplementedError

    def search_many(self, questions: list[str], threads: int) -> list[Found]:
        return [self.search(question) for question in questions]

    def search_filtered(self, question: str, rows: str) -> Found:
        """rows: a key of `filter_rows`."""
        raise NotImplementedError

    def open_for_changes(self) -> None:
        """What is done once, before the first change is timed."""

    def add(self, rows: range, texts: list[str]) -> None:
        raise NotImplementedError

    def remove(self, rows: NDArray[np.int64]) -> None:
        raise NotImplementedError


class Needle(System):
    name = "needle"
    modules = ("needle.components.bm25_files",)

    def build(self, texts: list[str]) -> None:
        self._new()
        self.add(range(len(texts)), texts)

    def build_tokens(self, tokens: list[list[str]]) -> None:
        self._new()
        for first in range(0, len(tokens), ADD_BATCH):
            batch = tokens[first : first + ADD_BATCH]
            self.index.add(range(first, first + len(batch)), batch)

    def _new(self) -> None:
        from needle.components.bm25 import BM25Index

        self.index = BM25Index()

    def save(self) -> None:
        from needle.components.bm25_files import save_index
        from needle.components.shards import BM25Shards
        from needle.components.store_index import State

        save_index(State(BM25Shards([self.index]), "r", True), self.folder, self.analyzer.key)

    def load(self) -> None:
        from needle.components.bm25_files import load_index

        loaded = load_index(self.folder, self.analyzer.key)
        assert loaded
        [self.index] = loaded.index.parts

    def search(self, question: str) -> Found:
        return self.index.scorer().top_k(self.analyzer.terms(question), TOP_K)

    def search_many(self, questions: list[str], threads: int) -> list[Found]:
        terms = [self.analyzer.terms(question) for question in questions]
        return self.index.scorer().top_k_many(terms, TOP_K)  # on the cores that the process is pinned to

    def search_filtered(self, question: str, rows: str) -> Found:
        return self.index.scorer().top_k(self.analyzer.terms(question), TOP_K, self.among[rows])

    def add(self, rows: range, texts: list[str]) -> None:
        for first in range(0, len(texts), ADD_BATCH):
            batch = texts[first : first + ADD_BATCH]
            self.index.add_texts(rows[first : first + ADD_BATCH], batch, self.analyzer)

    def remove(self, rows: NDArray[np.int64]) -> None:
        self.index.remove(rows)


class NeedleRetriever(System):
    """With the store: documents are written, found and read."""

    name = "needle, BM25Retriever with its store"
    modules = ("needle.components.retrievers",)
    takes_tokens = False
    on_disk = True

    def load(self) -> None:
        from needle.components.retrievers import BM25Retriever
        from needle.components.store import SQLiteDocumentStore

        self.store = SQLiteDocumentStore(self.folder)
        self.retriever = BM25Retriever(self.store, top_k=TOP_K)

    def open_for_changes(self) -> None:
        _ = self.marks

    def build(self, texts: list[str]) -> None:
        self.load()
        self.add(range(len(texts)), texts)
        self.retriever.warm_up()

    def search(self, question: str) -> Found:
        return self._found(self.retriever.run(question)["documents"])

    def search_many(self, questions: list[str], threads: int) -> list[Found]:
        return list(map(self._found, self.retriever.run(queries=questions)["documents_per_query"]))

    def search_filtered(self, question: str, rows: str) -> Found:
        filters = {"field": f"meta.{rows}", "operator": "==", "value": True}
        return self._found(self.retriever.run(question, filters=filters)["documents"])

    def add(self, rows: range, texts: list[str]) -> None:
        from haystack import Document

        for first in range(0, len(texts), ADD_BATCH):
            some = range(first, min(first + ADD_BATCH, len(texts)))
            metas = [{name: rows[i] in chosen for name, chosen in self.marks.items()} for i in some]
            documents = [Document(id=str(rows[i]), content=texts[i], meta=meta) for i, meta in zip(some, metas, strict=True)]
            self.store.write_documents(documents)

    def remove(self, rows: NDArray[np.int64]) -> None:
        self.store.delete_documents(list(map(str, rows.tolist())))

    @staticmethod
    def _found(documents: list[Any]) -> Found:
        return [int(document.id) for document in documents], [document.score for document in documents]


class RankBM25(System):
    name = "rank_bm25, BM25Okapi"
    modules = ("rank_bm25",)
    takes_texts = batches = saves = changes = filters = False
    slow = True

    def build_tokens(self, tokens: list[list[str]]) -> None:
        from rank_bm25 import BM25Okapi

        self.index = BM25Okapi(tokens)

    def search(self, question: str) -> Found:
        scores = self.index.get_scores(self.analyzer.terms(question))
        best = np.argpartition(scores, len(scores) - TOP_K)[-TOP_K:]
        best = best[np.argsort(-scores[best])]
        return best.tolist(), scores[best].tolist()


class HaystackInMemory(System):
    name = "Haystack, InMemoryDocumentStore"
    modules = ("haystack.document_stores.in_memory",)
    takes_tokens = batches = changes = filters = False
    slow = True

    def build(self, texts: list[str]) -> None:
        from haystack import Document
        from haystack.document_stores.in_memory import InMemoryDocumentStore

        self.store = InMemoryDocumentStore(bm25_algorithm="BM25Okapi", shared=False)
        self.store.write_documents([Document(id=str(row), content=text) for row, text in enumerate(texts)])

    def save(self) -> None:
        self.store.save_to_disk(str(self.folder / "store.json"))

    def load(self) -> None:
        from haystack.document_stores.in_memory import InMemoryDocumentStore

        self.store = InMemoryDocumentStore.load_from_disk(str(self.folder / "store.json"))

    def search(self, question: str) -> Found:
        found = self.store.bm25_retrieval(question, top_k=TOP_K)
        return [int(document.id) for document in found], [document.score or 0.0 for document in found]


class BM25S(System):
    """Built from text with bm25s's own tokenizer, from tokens and searched with needle's terms."""

    modules = ("bm25s", "Stemmer", "scipy.sparse")
    changes = False
    backend: str

    def _index(self, corpus: Any) -> None:
        import bm25s

        # scipy makes its matrix the fastest, and without the compiling that its Numba form does in every new object.
        self.index = bm25s.BM25(backend=self.backend, csc_backend="scipy")
        self.index.index(corpus, show_progress=False)

    def build(self, texts: list[str]) -> None:
        import bm25s
        import Stemmer

        self._index(bm25s.tokenize(texts, stopwords="en", stemmer=Stemmer.Stemmer("english"), show_progress=False))

    def build_tokens(self, tokens: list[list[str]]) -> None:
        self._index(tokens)

    def save(self) -> None:
        self.index.save(self.folder, show_progress=False)

    def load(self) -> None:
        import bm25s

        self.index = bm25s.BM25.load(self.folder, mmap=True, backend=self.backend)  # the saved form doesn't hold the backend

    @cached_property
    def masks(self) -> dict[str, NDArray[np.float32]]:
        return {name: np.isin(np.arange(self.n), rows).astype(np.float32) for name, rows in self.among.items()}

    def search(self, question: str) -> Found:
        return self._retrieve([question])[0]

    def search_many(self, questions: list[str], threads: int) -> list[Found]:
        return self._retrieve(questions, n_threads=0 if threads == 1 else threads)

    def search_filtered(self, question: str, rows: str) -> Found:
        return self._retrieve([question], weight_mask=self.masks[rows])[0]

    def _retrieve(self, questions: list[str], **options: Any) -> list[Found]:
        tokens = list(map(self.analyzer.terms, questions))
        rows, scores = self.index.retrieve(tokens, k=TOP_K, show_progress=False, **options)
        return list(zip(rows, scores, strict=True))


class BM25SNumpy(BM25S):
    name = "bm25s, numpy"
    backend = "numpy"


class BM25SNumba(BM25S):
    name = "bm25s, numba"
    backend = "numba"


class Tantivy(System):
    """With its own English analysis, which stems and keeps stop words. Without positions, which BM25 has no use for."""

    name = "tantivy, its `en_stem`"
    modules = ("tantivy",)
    tokenizer = "en_stem"
    takes_tokens = False
    many_cores_build = True
    on_disk = True

    def build(self, texts: list[str]) -> None:
        import tantivy

        fields = tantivy.SchemaBuilder().add_text_field("body", tokenizer_name=self.tokenizer, index_option="freq")
        fields.add_integer_field("row", indexed=True, fast=True)
        for name in filter_rows(0):
            fields.add_integer_field(name, indexed=True)
        self.index = tantivy.Index(fields.build(), path=str(self.folder), reuse=False)
        self.open_for_changes()
        self.add(range(len(texts)), texts)
        self.writer.wait_merging_threads()  # which takes the writer with it

    def open_for_changes(self) -> None:
        _ = self.marks
        cores = len(os.sched_getaffinity(0))
        self.writer = self.index.writer(heap_size=256_000_000 * cores, num_threads=cores)

    def load(self) -> None:
        import tantivy

        self.index = tantivy.Index.open(str(self.folder))
        self.searcher = self.index.searcher()

    def search(self, question: str) -> Found:
        return self._found(self._query(question))

    def search_many(self, questions: list[str], threads: int) -> list[Found]:
        if threads == 1:
            return [self.search(question) for question in questions]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(self.search, questions))

    def search_filtered(self, question: str, rows: str) -> Found:
        """By an indexed field, as tantivy's users would; its scores don't count."""
        from tantivy import Occur, Query

        only = Query.boost_query(Query.term_query(self.index.schema, rows, 1), 0.0)
        return self._found(Query.boolean_query([(Occur.Must, self._query(question)), (Occur.Must, only)]))

    def _query(self, question: str) -> Any:
        # Its query language gives a meaning to punctuation and to capital AND, OR, NOT and IN.
        return self.index.parse_query(" ".join(re.findall(r"\w+", question)).lower(), ["body"])

    def _found(self, query: Any) -> Found:
        hits = self.searcher.search(query, TOP_K, count=False).hits
        return self.searcher.fast_field_values("row", [at for _, at in hits]), [score for score, _ in hits]

    def add(self, rows: range, texts: list[str]) -> None:
        from tantivy import Document

        for row, text in zip(rows, texts, strict=True):
            marks = {name: [int(row in chosen)] for name, chosen in self.marks.items()}
            self.writer.add_document(Document(body=[text], row=[row], **marks))
        self._commit()

    def remove(self, rows: NDArray[np.int64]) -> None:
        from tantivy import Query

        self.writer.delete_documents_by_query(Query.term_set_query(self.index.schema, "row", rows.tolist()))
        self._commit()

    def _commit(self) -> None:
        self.writer.commit()
        self.index.reload()
        self.searcher = self.index.searcher()


class TantivyTerms(Tantivy):
    """With needle's terms, as words between blanks."""

    name = "tantivy, needle's terms"
    tokenizer = "whitespace"
    takes_texts = False
    takes_tokens = True

    def build_tokens(self, tokens: list[list[str]]) -> None:
        super().build(list(map(" ".join, tokens)))

    def add(self, rows: range, texts: list[str]) -> None:
        """When it is being built, `texts` are terms already."""
        super().add(rows, texts if rows.start == 0 else [" ".join(self.analyzer.terms(text)) for text in texts])

    def _query(self, question: str) -> Any:
        from tantivy import Occur, Query

        terms = self.analyzer.terms(question)
        schema = self.index.schema
        return Query.boolean_query([(Occur.Should, Query.term_query(schema, "body", term, "freq")) for term in terms])


SYSTEMS: dict[str, type[System]] = {
    s.name: s for s in (Needle, NeedleRetriever, RankBM25, HaystackInMemory, BM25SNumpy, BM25SNumba, Tantivy, TantivyTerms)
}
