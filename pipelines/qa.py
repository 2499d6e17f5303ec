"""The Python API: open a store, index files or Documents, ask, say whether the answers are right.

```python
from needle.pipelines import QA

qa = QA.open("my-index")
qa.index(["handbook/"])
result = qa.ask("How many days of leave do I have?")
print(result.answer.data if result.answer else "no answer")
qa.feedback(result, "right")
```
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from haystack import Document, ExtractedAnswer, Pipeline
from haystack.core.errors import PipelineRuntimeError
from haystack.dataclasses import ByteStream
from haystack.errors import FilterError

from needle.components.external_retrievers import ExternalDenseRetriever, ExternalWriter
from needle.components.external_store import ExternalStore
from needle.components.feedback import Export, Label, Verdict, Versions, export_labels
from needle.components.passages import PassageSplitter, PassageWriter
from needle.components.reader import MiniLMReader, check_query
from needle.components.retrievers import DenseRetriever, StoreRetriever
from needle.components.store import IndexedFile, SQLiteDocumentStore
from needle.components.vector_files import VectorStoreIndex
from needle.components.weights import open_checkpoint
from needle.data import SHIPPED_READER
from needle.data.errors import NeedleError, PipelineError, QueryError, StoreError, UnreadableFile
from needle.data.files import FileConverter, SkippedFile, SourceFile, find_files
from needle.pipelines.loading import load_pipeline, open_store, run_pipeline, takers
from needle.pipelines.results import IndexReport, Result
from needle.pipelines.store_urls import is_url

#: Files are converted and committed in batches of at most this many, or this many bytes.
_BATCH_FILES, _BATCH_BYTES = 64, 8 * 2**20


class QA:
    """A store and the pipelines on it. Safe to ask from several threads."""

    def __init__(
        self,
        store: SQLiteDocumentStore | ExternalStore,
        pipeline: str | Path = "bm25_qa",
        indexing: str | Path = "indexing",
        model: str | None = None,
        embedder: str | None = None,
        shards: int | None = None,
    ):
        """
        :param store: needle's own, or one of Haystack's others: `ExternalStore(PgvectorDocumentStore(...))`.
        :param pipeline: the definition used for asking: a YAML file, or the name of one that comes with needle: "bm25_qa",
            "dense_qa", "hybrid_qa" or "rerank_qa".
        :param indexing: the definition used for indexing, with the components of needle's own "indexing".
        :param model: the reader, a folder or a hub id; None for what the definitions name. embedder: the embedding model of
            dense retrievers, likewise; where the definition names none, the one that the store's vectors are from.
        :param shards: in how many parts the indexes are kept from now on, which are searched in parallel with the same
            results; None for what the definition says, or as many as there are.
        """
        # The one that the pipelines' components have, too.
        self._store = ExternalStore.of(store.document_store) if isinstance(store, ExternalStore) else store
        self.model = model
        self.definition = str(pipeline)
        place: Any = store.document_store.to_dict() if isinstance(store, ExternalStore) else store.folder
        self.pipeline = load_pipeline(pipeline, place, model, embedder, shards)
        self._answers = _answer_component(self.pipeline)
        self._indexing = load_pipeline(indexing, place, model)
        self._converter, _ = _component(self._indexing, FileConverter)
        _, self._splitter = _component(self._indexing, PassageSplitter)
        self._writer_name, self._writer = _component(self._indexing, PassageWriter, ExternalWriter)

    @classmethod
    def open(
        cls,
        store: str | Path,
        pipeline: str | Path = "bm25_qa",
        indexing: str | Path = "indexing",
        model: str | None = None,
        embedder: str | None = None,
        shards: int | None = None,
    ) -> QA:
        """Open the store in a folder, or the one that a URL names, see `store_urls`; one that does not exist is made."""
        opened = open_store(store) if is_url(store) else SQLiteDocumentStore(store)
        return cls(opened, pipeline, indexing, model, embedder, shards)

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Document],
        pipeline: str | Path = "bm25_qa",
        indexing: str | Path = "indexing",
        model: str | None = None,
        embedder: str | None = None,
    ) -> QA:
        """Documents in a temporary store, which goes when the QA does."""
        qa = cls(SQLiteDocumentStore(), pipeline, indexing, model, embedder)
        qa.index_documents(documents)
        return qa

    @property
    def store(self) -> SQLiteDocumentStore:
        """needle's own store.

        :raises StoreError: if the passages are in another one.
        """
        if isinstance(self._store, ExternalStore):
            kind = type(self._store.document_store).__name__
            raise StoreError(f"This is kept beside passages in a folder only; these are in a {kind}. Name a store's folder.")
        return self._store

    @property
    def folder(self) -> Path | None:
        """Where the store lies on this machine's disk, None if it does not."""
        return self._store.folder

    @property
    def revision(self) -> str:
        """Another one when the store's passages have changed; of another store than needle's, only when their number has."""
        return self._store.revision

    def index(
        self,
        paths: str | Path | ByteStream | Iterable[str | Path | ByteStream],
        progress: Callable[[str, int, int], None] | None = None,
        re_embed: bool = False,
    ) -> IndexReport:
        """Index files, and all files in folders; a changed file's passages are replaced, an unchanged file is left alone.

        Every batch of files is one transaction: what was indexed before an interruption stays.

        :param paths: files, folders, or byte streams whose meta holds `file_path`.
        :param progress: called after every batch with "file", the number of files done and of all files, then likewise with
            "passage" for those that the asking pipeline's retrievers index or embed.
        :param re_embed: whether dense retrievers embed all passages anew, whatever model their vectors are from.
        :raises UnreadableFile: if a path does not exist. StoreError: if the passages were embedded by another model.
        """
        if re_embed and not any(isinstance(part, DenseRetriever | ExternalDenseRetriever) for part in self._retrievers):
            raise PipelineError(
                "There is nothing to embed anew: the pipeline has no DenseRetriever. Use dense or hybrid retrieval."
            )
        paths = [paths] if isinstance(paths, str | Path | ByteStream) else list(paths)
        sources: list[Path | ByteStream] = [s for s in paths if isinstance(s, ByteStream)]
        files = find_files([p for p in paths if not isinstance(p, ByteStream)])
        own = None if self.folder is None else Path(os.path.realpath(self.folder))
        sources += [file for file in files if own is None or not file.is_relative_to(own)]
        report, known = IndexReport(), self._store.files()
        for batch in _batches(sources, report):
            changed = []
            for stream in batch:
                path = str(stream.meta["file_path"])
                if self.has(SourceFile.of(path, stream.data), known):
                    report.unchanged.append(path)
                else:
                    changed.append(stream)
            if changed:
                data = {self._converter: {"sources": changed}}
                outputs = run_pipeline(self._indexing, data, include_outputs_from={self._converter})
                report.indexed += [file.path for file in outputs[self._converter]["files"]]
                report.skipped += outputs[self._converter]["skipped"]
                report.passages += outputs[self._writer_name]["documents_written"]
            if progress is not None:
                progress("file", len(report.indexed) + len(report.unchanged) + len(report.skipped), len(sources))
        report.skipped = [_with_what_is_kept(skipped, known) for skipped in report.skipped]
        self.update(progress, re_embed)
        return report

    def update(self, progress: Callable[[str, int, int], None] | None = None, re_embed: bool = False) -> None:
        """Bring the asking pipeline's indexes up to date, so that the first question need not wait for it; see `index`."""
        for part in self._retrievers:
            told = None if progress is None else partial(progress, "passage")
            part.update(told, anew=re_embed and isinstance(part, DenseRetriever | ExternalDenseRetriever))

    def has(self, file: SourceFile, known: Mapping[str, IndexedFile] | None = None) -> bool:
        """Whether a file is indexed as it is now, for the reader that is used. known: `store.files()`, if at hand."""
        old = (self._store.files() if known is None else known).get(file.path)
        return old is not None and (old.digest, old.tokenizer) == (file.digest, self._tokenizer)

    def index_documents(self, documents: Iterable[Document], files: Sequence[SourceFile] = ()) -> int:
        """Split Documents into passages and index these, in one transaction where the store has such; those of a Document
        with the same id are replaced.

        :param files: what was converted to the documents, whose meta then names it in `file_path`: all that was indexed of
            these files before is replaced.
        :returns: the number of passages.
        """
        passages = self._splitter.run(documents=list(documents))["documents"]
        return int(self._writer.run(documents=passages, files=list(files))["documents_written"])

    def remove(self, paths: str | Path | Iterable[str | Path]) -> int:
        """Forget files, and all files that were indexed from below folders; they need not exist any more.

        :returns: the number of files forgotten.
        :raises UnreadableFile: if a path is empty.
        """
        files = self._store.file_paths() if isinstance(self._store, ExternalStore) else list(self._store.files())
        gone = []
        for path in [paths] if isinstance(paths, str | Path) else paths:
            if path == "":
                raise UnreadableFile("An empty path names no file; say which file or folder to forget.")
            place = os.path.expanduser(path)
            names = {str(path), os.path.abspath(place), os.path.realpath(place)}  # files are known by their real folders
            gone += [f for f in files if any(f == name or f.startswith(name.rstrip(os.sep) + os.sep) for name in names)]
        self._store.remove_files(gone)
        return len(set(gone))

    @property
    def reader(self) -> str:
        """The name of the reader that passages are kept for, or of the one that reads them, if none are."""
        if isinstance(self._writer, PassageWriter):
            return _reader_name(self._writer.model)
        names = {_reader_name(part.model) for _, part in self.pipeline.walk() if isinstance(part, MiniLMReader)}
        return ", ".join(sorted(names))

    @property
    def _tokenizer(self) -> str | None:
        """The fingerprint of what passages' tokens are made with, None if none are kept."""
        return self._writer.tokenizer().fingerprint if isinstance(self._writer, PassageWriter) else None

    def status(self) -> dict[str, Any]:
        """What the store holds: `files` (path -> passages), `passages`, `reader`, `embedder`, the model whose vectors of
        passages are kept, None if there are none; and of a store in a folder `passages_with_tokens`, those whose tokens are
        kept for that reader, and `size_bytes` on disk."""
        files = {path: file.passages for path, file in self._store.files().items()}
        facts = {"files": files, "passages": self._store.count_documents()}
        if isinstance(self._store, ExternalStore):
            return {**facts, "reader": self.reader, "embedder": ", ".join(self._store.embedders()) or None}
        return {
            **facts,
            "passages_with_tokens": self._store.count_tokens(self._tokenizer or ""),
            "size_bytes": sum(f.stat().st_size for f in self._store.folder.rglob("*") if f.is_file()),
            "reader": self.reader,
            "embedder": VectorStoreIndex(self._store).saved_model,
        }

    def ask(self, query: str, top_k: int | None = None, filters: dict[str, Any] | None = None) -> Result:
        """Answer one question; see `ask_many`."""
        return self.ask_many([query], top_k, filters)[0]

    def ask_many(
        self, queries: Iterable[str], top_k: int | None = None, filters: dict[str, Any] | None = None
    ) -> list[Result]:
        """Answer questions, all in the same batches where the pipeline can.

        :param top_k: most answers to a question; None for what the pipeline says.
        :param filters: Haystack filters on the passages; None for what the pipeline says.
        :raises QueryError: if a question is blank, not valid Unicode, or too long.
        :raises PipelineError: if a component fails, or has no such input.
        """
        return [result for result, _ in self._asked(queries, top_k, filters, None)]

    def ask_with_passages(self, queries: Iterable[str]) -> list[tuple[Result, list[Document]]]:
        """`ask_many`, with the passages that were read for each question, as they were retrieved.

        :raises PipelineError: also if no single component brings the passages.
        """
        return self._asked(queries, None, None, self._giver)

    def search(self, query: str, top_k: int | None = None, filters: dict[str, Any] | None = None) -> list[Document]:
        """The passages that would be read for a question, best first, with their scores; nothing is read.

        :param top_k: how many; None for what the pipeline reads. More than that are not found where several retrievers are
            fused, or a ranker cuts.
        :raises QueryError, PipelineError: as `ask_many` and `ask_with_passages` do.
        """
        check_query(query)
        cut = {"top_k": top_k} if top_k is not None and self._giver in takers(self.pipeline, "top_k") else {}
        try:
            retrieved = self._retrieved(self._data("query", query, {self._giver: cut}, filters))
            with ThreadPoolExecutor(1) as pool:  # in this thread an event loop may run already, as in a notebook
                found = pool.submit(asyncio.run, retrieved).result()
        except PipelineRuntimeError as error:
            if isinstance(error.__cause__, NeedleError | FilterError):
                raise error.__cause__ from None
            raise PipelineError(f"The pipeline could not be run. {error}") from error
        return found[:top_k]

    async def _retrieved(self, data: dict[str, Any]) -> list[Document]:
        steps = self.pipeline.run_async_generator(data, include_outputs_from={self._giver})
        try:
            async for outputs in steps:
                if self._giver in outputs:
                    return list(outputs[self._giver]["documents"])
        finally:
            await steps.aclose()  # before what comes next, the reader, is begun
        return []

    def _asked(
        self, queries: Iterable[str], top_k: int | None, filters: dict[str, Any] | None, giver: str | None
    ) -> list[tuple[Result, list[Document]]]:
        """giver: the component whose documents are shown; None: none are."""
        if isinstance(queries, str):
            raise QueryError("ask_many takes a list of questions; ask takes one.")
        queries = list(queries)
        for query in queries:
            check_query(query)
        options = {"top_k": top_k} if top_k is not None else {}
        found: list[tuple[list[ExtractedAnswer], list[Document]]] = []
        if not self.batched:
            for query in queries:
                outputs = self._run("query", query, options, filters, giver)
                found.append((outputs[self._answers]["answers"], outputs[giver]["documents"] if giver else []))
        elif queries:
            outputs = self._run("queries", queries, options, filters, giver)
            passages = outputs[giver]["documents_per_query"] if giver else [[] for _ in queries]
            found = list(zip(outputs[self._answers]["answers_per_query"], passages, strict=True))
        return [(Result.of(q, answers), passages) for q, (answers, passages) in zip(queries, found, strict=True)]

    def feedback(self, answer: Result | ExtractedAnswer, verdict: Verdict | str, correction: str | None = None) -> Label:
        """Keep a verdict on an answer in the store, whatever becomes of its documents.

        The versions kept with it are this QA's: give feedback to the one that answered.

        :param answer: a Result, which stands for what it says, its best answer or "no answer"; or one of its answers.
        :param verdict: "right", "wrong", "wrong span", or "no answer", which says that the passage holds none.
        :param correction: the right answer, for "wrong" and "wrong span"; only words that stand in the answer's passage,
            whatever their case and white space, can be exported.
        :returns: what was stored.
        :raises QueryError: if the question is blank or not valid Unicode.
        :raises ValueError: if there is no such verdict, or it does not go with the answer or the correction.
        """
        if not isinstance(answer, Result | ExtractedAnswer):
            raise ValueError(f"Feedback is on a Result, also where it says 'no answer', or on an answer, not {answer!r}.")
        given = answer.said if isinstance(answer, Result) else answer
        check_query(given.query)
        label = Label.of(given, verdict, correction, self._versions)
        self.store.add_label(label)
        return label

    def labels(self) -> list[Label]:
        """All feedback that was given, oldest first."""
        return self.store.labels()

    def export_labels(self, path: str | Path) -> Export:
        """Write feedback as questions in the format of SQuAD 2.0, for evaluation and training; see `export_labels`.

        Labels that don't tell what is right are left out, and counted in what is returned.

        :raises NeedleError: if the file can't be written.
        """
        return export_labels(self.labels(), path)

    @cached_property
    def _versions(self) -> Versions:
        readers = [part for _, part in self.pipeline.walk() if isinstance(part, MiniLMReader)]
        if len(readers) != 1:
            answering = self.pipeline.get_component(self._answers)
            return Versions(version("needle-qa"), type(answering).__name__, None, self.definition)
        checkpoint = open_checkpoint(readers[0].model)
        fingerprint = None if checkpoint.weights_file is None else checkpoint.fingerprint()
        return Versions(version("needle-qa"), _reader_name(readers[0].model), fingerprint, self.definition)

    @cached_property
    def _retrievers(self) -> list[StoreRetriever]:
        return [part for _, part in self.pipeline.walk() if isinstance(part, StoreRetriever)]

    @cached_property
    def _giver(self) -> str:
        """The component that brings the passages."""
        edges = self.pipeline.graph.in_edges(self._answers, data=True)
        givers = {giver for giver, _, edge in edges if edge["to_socket"].name in ("documents", "documents_per_query")}
        if len(givers) != 1:
            raise PipelineError(
                f"'{self._answers}' reads passages of {sorted(givers)}; to be shown, they must be of one component."
            )
        return str(givers.pop())

    @cached_property
    def batched(self) -> bool:
        """Whether many questions go through the pipeline at once, with their passages, from end to end."""
        edges = self.pipeline.graph.in_edges(self._answers, data="to_socket")
        given = {socket.name for _, _, socket in edges}
        whole = "documents" not in given or "documents_per_query" in given
        return whole and takers(self.pipeline, "queries") == takers(self.pipeline, "query")

    def _run(
        self, socket: str, value: Any, options: dict[str, Any], filters: dict[str, Any] | None, giver: str | None
    ) -> dict[str, Any]:
        data = self._data(socket, value, {self._answers: options}, filters)
        shown = {"include_outputs_from": {giver}} if giver else {}
        return run_pipeline(self.pipeline, data, **shown)

    def _data(
        self, socket: str, value: Any, options: Mapping[str, Mapping[str, Any]], filters: dict[str, Any] | None
    ) -> dict[str, Any]:
        """What the pipeline is given; options: by component."""
        data: dict[str, Any] = {name: {socket: value} for name in takers(self.pipeline, socket)}
        if filters is not None:
            for name in takers(self.pipeline, "filters"):
                data.setdefault(name, {})["filters"] = filters
        for name, values in options.items():
            data.setdefault(name, {}).update(values)
        return data


def _component(pipeline: Pipeline, *kinds: type[Any]) -> tuple[str, Any]:
    """The one component of these types, with its name."""
    found = [(name, part) for name, part in pipeline.walk() if isinstance(part, kinds)]
    if len(found) != 1:
        raise PipelineError(f"An indexing pipeline needs one {kinds[0].__name__}; this one has {len(found)}.")
    return found[0]


def _reader_name(model: str | None) -> str:
    return model or f"{SHIPPED_READER.name} (shipped)"


def _with_what_is_kept(skipped: SkippedFile, known: Mapping[str, IndexedFile]) -> SkippedFile:
    kept = "; what was indexed of it before is kept" if skipped.path in known else ""
    return SkippedFile(skipped.path, skipped.reason + kept)


def _answer_component(pipeline: Pipeline) -> str:
    names = [name for name, sockets in pipeline.outputs().items() if "answers" in sockets]
    if len(names) != 1 or not takers(pipeline, "query"):
        raise PipelineError(
            "To be asked, a pipeline needs an input 'query' and one component with an output 'answers'; "
            f"this one has the inputs {sorted({s for i in pipeline.inputs().values() for s in i})} and answers from {names}."
        )
    return names[0]


def _batches(sources: Sequence[Path | ByteStream], report: IndexReport) -> Iterator[list[ByteStream]]:
    """Read files into batches of bounded size; those that can't be opened go to the report."""
    batch: list[ByteStream] = []
    size = 0
    for source in sources:
        if not isinstance(source, ByteStream):
            try:
                source = ByteStream(source.read_bytes(), meta={"file_path": str(source)})
            except OSError as error:
                report.skipped.append(SkippedFile(str(source), error.strerror or str(error)))
                continue
        if batch and (len(batch) == _BATCH_FILES or size + len(source.data) > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(source)
        size += len(source.data)
    if batch:
        yield batch
