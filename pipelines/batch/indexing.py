"""Very many files -> passages in a store: made by workers, written by this process alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from needle.pipelines.batch.cluster import Share, absolute, cluster, each
from needle.pipelines.console import import_haystack_without_torch
from needle.pipelines.console_qa import open_qa

if TYPE_CHECKING:
    from haystack import Document

    from needle.components.store import IndexedFile
    from needle.components.tokenizer import Tokens
    from needle.data.files import SkippedFile
    from needle.pipelines.results import IndexReport

#: How often a file is begun that workers die of, first with its neighbours, then alone.
_TRIES = 3
#: Files, at most so many or so many bytes, that are converted by one worker and committed together.
_FILES, _BYTES = 64, 8 * 2**20


class _Group(NamedTuple):
    """paths: of files. known: those of them that the store has."""

    paths: tuple[str, ...]
    known: tuple[IndexedFile, ...]


class _Converted(NamedTuple):
    """What became of a group: what is to be written, as `SQLiteDocumentStore.replace_sources` takes it, and the rest."""

    files: Sequence[IndexedFile]
    passages: Sequence[Document]
    tokens: Sequence[Tokens]
    tokenizer: str
    unchanged: Sequence[str]
    skipped: Sequence[SkippedFile]


def index(
    paths: str | Path | Sequence[str | Path],
    store: str | Path,
    *,
    pipeline: str = "bm25_qa",
    indexing: str = "indexing",
    model: str | None = None,
    embedder: str | None = None,
    workers: int | None = None,
    address: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> IndexReport:
    """`QA.index` with the files read, converted, split and tokenised on Ray, and the passages embedded, one core a worker.

    Every group of files is one transaction: what was indexed before an interruption stays, and what has not changed is left
    alone when this is called again. A file that workers die of is skipped, as those are that can't be read.

    :param paths: files, and folders of files, that all workers reach by these paths. store: a folder for this process alone.
    :param pipeline: whose indexes are brought up to date at the end: for dense or hybrid, passages are embedded.
    :param workers: None for one a core, and for embedding one a GPU, if there are any. address: see `cluster`.
    :param progress: as of `QA.index`.
    :raises UnreadableFile: if a path does not exist. NeedleError: if Ray fails.
    """
    qa = open_qa(Path(store).absolute(), pipeline, indexing, model, embedder)
    from needle.components.retrievers import DenseRetriever
    from needle.data.files import SkippedFile, find_files
    from needle.pipelines.results import IndexReport

    own = Path(os.path.realpath(qa.store.folder))
    files = [p for p in find_files([paths] if isinstance(paths, str | Path) else paths) if not p.is_relative_to(own)]
    known = qa.store.files()
    report, done = IndexReport(), 0
    make = partial(_Converter, absolute(indexing), model and absolute(model))
    groups = [_Group(paths, tuple(known[p] for p in paths if p in known)) for paths in _grouped(files)]
    with cluster(address):
        while groups:
            left: list[_Group] = []
            for group, converted in each(make, groups, Share(workers), _TRIES):
                if converted is None and len(group.paths) > 1:
                    left += [_Group((path,), tuple(f for f in group.known if f.path == path)) for path in group.paths]
                    continue
                if converted is None:
                    reason = f"workers died of it {_TRIES} times (of too little memory?)"
                    report.skipped.append(SkippedFile(group.paths[0], reason))
                else:
                    if converted.files:
                        qa.store.replace_sources(*converted[:4])
                    report.indexed += [file.path for file in converted.files]
                    report.passages += len(converted.passages)
                    report.unchanged += converted.unchanged
                    report.skipped += converted.skipped
                done += len(group.paths)
                if progress is not None:
                    progress("file", done, len(files))
            groups = left
        if dense := [part for _, part in qa.pipeline.walk() if isinstance(part, DenseRetriever)]:
            from needle.pipelines.batch.embedding import embed_by_workers

            for retriever in dense:
                embed_by_workers(retriever, Share(workers, gpu=True))
        qa.update(progress)
    return report


class _Converter:
    """In a worker: the indexing pipeline, whose writer hands over what it would write."""

    def __init__(self, indexing: str, model: str | None):
        if indexing == "indexing":
            import_haystack_without_torch()
        from needle.components.passages import PassageWriter
        from needle.data.files import FileConverter
        from needle.pipelines.loading import load_pipeline

        self._pipeline = load_pipeline(indexing, model=model)
        parts = list(self._pipeline.walk())
        self._converter = next(name for name, part in parts if isinstance(part, FileConverter))
        self._writer = next(part for _, part in parts if isinstance(part, PassageWriter))

    def __call__(self, group: _Group) -> _Converted:
        from haystack.dataclasses import ByteStream

        from needle.data.files import SkippedFile, SourceFile
        from needle.pipelines.loading import run_pipeline

        tokenizer = self._writer.tokenizer().fingerprint
        known = {(file.path, file.digest, file.tokenizer) for file in group.known}
        changed, unchanged, skipped = [], [], []
        for path in group.paths:
            try:
                data = Path(path).read_bytes()
            except OSError as error:
                skipped.append(SkippedFile(path, error.strerror or str(error)))
                continue
            if (path, SourceFile.of(path, data).digest, tokenizer) in known:
                unchanged.append(path)
            else:
                changed.append(ByteStream(data, meta={"file_path": path}))
        written = _Written()
        if changed:
            self._writer.document_store = written  # type: ignore[assignment]
            inputs = {self._converter: {"sources": changed}}
            outputs = run_pipeline(self._pipeline, inputs, include_outputs_from={self._converter})
            skipped += outputs[self._converter]["skipped"]
        return _Converted(*written.what, tokenizer, unchanged, skipped)


class _Written:
    """Takes a store's place in a writer, and keeps what is written: files, passages and their tokens."""

    def __init__(self) -> None:
        self.what: tuple[Sequence[IndexedFile], Sequence[Document], Sequence[Tokens]] = ((), (), ())

    def replace_sources(
        self, files: Sequence[IndexedFile], passages: Sequence[Document], tokens: Sequence[Tokens], tokenizer: str
    ) -> None:
        self.what = files, passages, tokens


def _grouped(files: Sequence[Path]) -> Iterator[tuple[str, ...]]:
    group: list[str] = []
    size = 0
    for file in files:
        try:
            bytes_ = file.stat().st_size
        except OSError:  # the worker says what is wrong with it
            bytes_ = 0
        if group and (len(group) == _FILES or size + bytes_ > _BYTES):
            yield tuple(group)
            group, size = [], 0
        group.append(str(file))
        size += bytes_
    if group:
        yield tuple(group)
