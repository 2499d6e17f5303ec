"""An embedded DocumentStore on SQLite: durable, incremental, filters as SQL.

A store is a folder with the database `needle.sqlite`; indexes over it are kept beside it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from haystack import default_from_dict, default_to_dict
from haystack.dataclasses import Document
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from numpy.typing import NDArray

from needle.components.database import Database
from needle.components.feedback import Label, Verdict
from needle.components.filters import Sql, filters_to_sql, meta_value_sql
from needle.components.records import (
    COLUMNS,
    content_crc,
    document_record,
    meta_json,
    record_document,
    record_tokens,
    token_record,
)
from needle.components.tokenizer import Tokens

_WRITE = {
    DuplicatePolicy.NONE: "INSERT",
    DuplicatePolicy.FAIL: "INSERT",
    DuplicatePolicy.SKIP: "INSERT OR IGNORE",
    DuplicatePolicy.OVERWRITE: "INSERT OR REPLACE",
}
_KINDS = {"true": "boolean", "false": "boolean", "integer": "int", "real": "float"}
_CONTENTS_BATCH = 5_000
_LABEL_COLUMNS = ", ".join(field.name for field in fields(Label))


#: As the index `documents_by_source` has it.
_OF_SOURCE = "json_extract(meta, '$.source_id') = ?"
_SOURCES = """
    SELECT json_extract(meta, '$.source_id') AS id, CAST(min(json_extract(meta, '$.file_path')) AS TEXT) AS path,
           CAST(min(json_extract(meta, '$.title')) AS TEXT) AS title, count(*) AS passages
    FROM documents WHERE json_extract(meta, '$.source_id') IS NOT NULL GROUP BY 1"""


@dataclass(frozen=True)
class IndexedFile:
    """A source file whose passages are in the store.

    `digest` and `size` tell whether it has changed since, `tokenizer` is the fingerprint of what made its passages' tokens,
    None if they have none.
    """

    path: str
    digest: str
    size: int
    passages: int
    tokenizer: str | None = None


class Source(NamedTuple):
    """A document that passages were cut from."""

    id: str
    file_path: str | None
    title: str | None
    passages: int


class SQLiteDocumentStore:
    """A Haystack DocumentStore in a folder, and the home of what else needle keeps about its documents.

    ```python
    store = SQLiteDocumentStore("my-index")
    store.write_documents([Document(content="Paris is the capital of France.")])
    ```

    Row numbers stand for documents in indexes: a row's content never changes, and no row number is used twice.
    Overwriting a document gives it a new one.

    Every method raises StoreError if the store can't be opened, read or written.
    """

    def __init__(self, path: str | Path | None = None):
        """Nothing is touched before the first use.

        :param path: the store's folder, made if needed; None for a temporary one that goes with the store.
        """
        self.path = path
        self._database = Database(None if path is None else Path(path))

    # Haystack's DocumentStore protocol

    def to_dict(self) -> dict[str, Any]:
        return default_to_dict(self, path=None if self.path is None else str(self.path))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SQLiteDocumentStore:
        return default_from_dict(cls, data)

    def count_documents(self) -> int:
        return self.count_documents_by_filter({})

    def filter_documents(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """The documents that match, in the order they were written.

        :raises FilterError: if the filter is malformed.
        """
        where = _where(filters)
        records = self._database.read(f"SELECT {COLUMNS} FROM documents WHERE {where.text} ORDER BY row", where.params)
        return [record_document(record) for record in records]

    def write_documents(self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE) -> int:
        """Write all documents or, on an error, none; NONE means FAIL. Returns how many were written.

        :raises ValueError: if `documents` is not a list of Documents, or one holds what can't be stored.
        :raises DuplicateDocumentError: under FAIL, if an id is already there, or twice in `documents`.
        """
        records = _records(documents)
        with self._database.writing() as connection:
            return _insert(connection, records, policy)

    def delete_documents(self, document_ids: list[str]) -> None:
        """Delete by id; unknown ids are ignored."""
        with self._database.writing() as connection:
            connection.executemany("DELETE FROM documents WHERE id = ?", ((i,) for i in document_ids))

    # What Haystack's stores offer beyond the protocol

    def delete_all_documents(self) -> None:
        with self._database.writing() as connection:
            connection.execute("DELETE FROM documents")
            connection.execute("DELETE FROM files")

    def delete_by_filter(self, filters: dict[str, Any]) -> int:
        """Delete the documents that match and return how many; an empty filter is a FilterError."""
        where = filters_to_sql(filters)
        with self._database.writing() as connection:
            return connection.execute(f"DELETE FROM documents WHERE {where.text}", where.params).rowcount

    def update_by_filter(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        """Set these meta keys in the documents that match and return how many; an empty filter is a FilterError."""
        where = filters_to_sql(filters)
        with self._database.writing() as connection:
            found = connection.execute(f"SELECT row, id, meta FROM documents WHERE {where.text}", where.params).fetchall()
            updated = [(meta_json(i, json.loads(old) | meta), row) for row, i, old in found]
            connection.executemany("UPDATE documents SET meta = ? WHERE row = ?", updated)
        return len(updated)

    def count_documents_by_filter(self, filters: dict[str, Any]) -> int:
        where = _where(filters)
        [(count,)] = self._database.read(f"SELECT count(*) FROM documents WHERE {where.text}", where.params)
        return int(count)

    def count_unique_metadata_by_filter(self, filters: dict[str, Any], metadata_fields: list[str]) -> dict[str, int]:
        """The number of different values of each field (named without "meta.") among the documents that match."""
        return {f.removeprefix("meta."): len(self._meta_values(f, filters)) for f in metadata_fields}

    def get_metadata_fields_info(self) -> dict[str, dict[str, str]]:
        """Each meta field's type: boolean, int, float, or keyword for all else and for mixed types."""
        found = self._database.read(
            "SELECT DISTINCT key, type FROM documents, json_each(documents.meta) WHERE type != 'null'"
        )
        types: dict[str, str] = {}
        for key, json_type in found:
            kind = _KINDS.get(json_type, "keyword")
            types[key] = kind if types.get(key, kind) == kind else "keyword"
        return {key: {"type": kind} for key, kind in types.items()}

    def get_metadata_field_min_max(self, metadata_field: str) -> dict[str, Any]:
        """{"min", "max"} of the field's numbers or strings; None if there are none, or both."""
        values = [v for v in self._meta_values(metadata_field, None) if isinstance(v, int | float | str)]
        if not values or len({isinstance(v, str) for v in values}) == 2:
            return {"min": None, "max": None}
        return {"min": min(values), "max": max(values)}

    def get_metadata_field_unique_values(
        self,
        metadata_field: str,
        search_term: str | None = None,
        from_: int = 0,
        size: int = 10,
        filters: dict[str, Any] | None = None,
    ) -> tuple[list[Any], int]:
        """One page of the field's different values, sorted as text, and how many there are in all.

        :param search_term: only values whose text contains it, whatever the case.
        """
        values = self._meta_values(metadata_field, filters)
        if search_term is not None:
            values = [v for v in values if search_term.lower() in str(v).lower()]
        values.sort(key=lambda v: (str(v), type(v).__name__))
        return values[from_ : from_ + size], len(values)

    # Rows: what indexes are built over

    @property
    def revision(self) -> str:
        """A random token that every committed change of documents renews; "" before the first."""
        found = self._database.read("SELECT token FROM revisions ORDER BY n DESC LIMIT 1")
        return str(found[0][0]) if found else ""

    def has_revision(self, token: str) -> bool:
        """Whether the store once was at this revision; "" is the beginning of every store."""
        return token == "" or bool(self._database.read("SELECT 1 FROM revisions WHERE token = ?", (token,)))

    def snapshot(self) -> tuple[str, NDArray[np.int64]]:
        """The revision, and (n,) int64, the row numbers of all documents, ascending: both of one moment."""
        found = self._database.read(
            "SELECT token FROM (SELECT token FROM revisions ORDER BY n DESC LIMIT 1) UNION ALL SELECT row FROM documents"
        )
        revision = str(found[0][0]) if found else ""
        return revision, np.sort(np.fromiter((row for (row,) in found[1:]), np.int64, max(0, len(found) - 1)))

    def rows(self, filters: dict[str, Any] | None = None) -> NDArray[np.int64]:
        """(n,) int64, the row numbers of the documents that match, ascending.

        :raises FilterError: if the filter is malformed.
        """
        where = _where(filters)
        # Sorted here: SQLite then may read a small index in place of the whole table.
        found = self._database.read(f"SELECT row FROM documents WHERE {where.text}", where.params)
        return np.sort(np.fromiter((row for (row,) in found), np.int64, len(found)))

    def contents(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, str]]:
        """Each row's number and content ("" for none), ascending, read in batches; deleted rows are left out."""
        ascending = np.sort(rows)
        for start in range(0, len(ascending), _CONTENTS_BATCH):
            batch = json.dumps(ascending[start : start + _CONTENTS_BATCH].tolist())
            yield from self._database.read(
                "SELECT row, coalesce(content, '') FROM documents WHERE row IN (SELECT value FROM json_each(?))"
                " ORDER BY row",
                (batch,),
            )

    def documents_at(self, rows: NDArray[np.int64]) -> dict[int, Document]:
        """The documents of these rows, by row; those deleted or overwritten since `rows` gave them are left out."""
        records = self._database.read(
            f"SELECT row, {COLUMNS} FROM documents WHERE row IN (SELECT value FROM json_each(?))",
            (json.dumps(np.asarray(rows).tolist()),),
        )
        return {record[0]: record_document(record[1:]) for record in records}

    # Sources, files and tokens: where passages come from, and what incremental indexing keeps

    def sources(self, search: str | None = None, first: int = 0, size: int = 50) -> tuple[list[Source], int]:
        """One page of the documents that passages were cut from, by file and title, and how many there are in all.

        :param search: only those with this in their file's path or title; the case of a ... z does not matter.
        """
        found = f"FROM ({_SOURCES}) WHERE instr(lower(coalesce(path, '') || char(10) || coalesce(title, '')), lower(?))"
        page = self._database.read(
            f"SELECT id, path, title, passages {found} ORDER BY path, title, id LIMIT ? OFFSET ?",
            (search or "", size, first),
        )
        [(total,)] = self._database.read(f"SELECT count(*) {found}", (search or "",))
        return [Source(*row) for row in page], int(total)

    def passages_of(self, source_id: str) -> list[Document]:
        """The passages that were cut from a document, in the order they were written."""
        records = self._database.read(f"SELECT {COLUMNS} FROM documents WHERE {_OF_SOURCE} ORDER BY row", (source_id,))
        return [record_document(record) for record in records]

    def remove_source(self, source_id: str) -> int:
        """Delete the passages that were cut from a document; returns how many there were."""
        with self._database.writing() as connection:
            return connection.execute(f"DELETE FROM documents WHERE {_OF_SOURCE}", (source_id,)).rowcount

    def files(self) -> dict[str, IndexedFile]:
        """The files whose passages are all in the store, by path."""
        found = self._database.read("SELECT path, digest, size, passages, tokenizer FROM files ORDER BY path")
        return {path: IndexedFile(path, *rest) for path, *rest in found}

    def replace_sources(
        self,
        files: Sequence[IndexedFile],
        passages: Sequence[Document],
        tokens: Sequence[Tokens] | None = None,
        tokenizer: str | None = None,
    ) -> None:
        """Put the passages of files, and of Documents from no file, in the place of their old ones, in one transaction.

        :param passages: they name their file in `meta["file_path"]` or their Document in `meta["source_id"]`, all of whose
            old passages go; ids that are already there are overwritten.
        :param tokens: the passages' tokens, one each, and `tokenizer` the fingerprint of what made them.
        :raises ValueError: if a passage can't be stored, or `tokens` and `tokenizer` don't fit.
        """
        if (tokens is None) != (tokenizer is None) or (tokens is not None and len(tokens) != len(passages)):
            given = "None" if tokens is None else len(tokens)
            raise ValueError(f"{len(passages)} passages need as many tokens with a tokenizer; {given}, {tokenizer!r} given.")
        records = _records(passages)
        token_records = [(*token_record(p, t), tokenizer) for p, t in zip(passages, tokens or (), strict=False)]
        with self._database.writing() as connection:
            _delete_files(connection, [f.path for f in files])
            sources = {(p.meta["source_id"],) for p in passages if "source_id" in p.meta}
            connection.executemany(f"DELETE FROM documents WHERE {_OF_SOURCE}", sources)
            _insert(connection, records, DuplicatePolicy.OVERWRITE)
            connection.executemany(
                "INSERT OR REPLACE INTO tokens (row, content_crc, count, ids, offsets, tokenizer)"
                " VALUES ((SELECT row FROM documents WHERE id = ?), ?, ?, ?, ?, ?)",
                token_records,
            )
            connection.executemany(
                "INSERT INTO files VALUES (?, ?, ?, ?, ?)",
                [(f.path, f.digest, f.size, f.passages, f.tokenizer) for f in files],
            )

    def remove_files(self, paths: Iterable[str]) -> int:
        """Forget these files and delete their documents; returns how many documents that were."""
        with self._database.writing() as connection:
            return _delete_files(connection, list(paths))

    def tokens(self, documents: Sequence[Document], tokenizer: str) -> list[Tokens | None]:
        """The stored tokens of each document, found by id.

        None where there are none, or where they are another tokenizer's or another content's.
        """
        found = self._database.read(
            "SELECT id, content_crc, count, ids, offsets FROM documents JOIN tokens USING (row)"
            " WHERE id IN (SELECT value FROM json_each(?)) AND tokenizer = ?",
            (json.dumps([d.id for d in documents]), tokenizer),
        )
        by_id = {(id_, crc): record_tokens(*packed) for id_, crc, *packed in found}
        return [by_id.get((d.id, content_crc(d))) for d in documents]

    def count_tokens(self, tokenizer: str) -> int:
        """How many documents have stored tokens of this tokenizer."""
        [(count,)] = self._database.read("SELECT count(*) FROM tokens WHERE tokenizer = ?", (tokenizer,))
        return int(count)

    # Labels: they outlive their documents, and are no change of these

    def add_label(self, label: Label) -> None:
        marks = ", ".join("?" * len(fields(Label)))
        with self._database.writing(of_documents=False) as connection:
            connection.execute(f"INSERT INTO labels ({_LABEL_COLUMNS}) VALUES ({marks})", astuple(label))

    def labels(self) -> list[Label]:
        """All labels, oldest first."""
        found = self._database.read(f"SELECT {_LABEL_COLUMNS} FROM labels ORDER BY n")
        return [Label(time, Verdict(verdict), *rest) for time, verdict, *rest in found]

    # Its place and its end

    @property
    def folder(self) -> Path:
        """The store's folder, where indexes keep theirs; a temporary one is made by asking."""
        return self._database.folder

    def close(self) -> None:
        """Close all threads' connections, none of which may be in use, and remove a temporary folder. It is final."""
        self._database.close()

    def __enter__(self) -> SQLiteDocumentStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _meta_values(self, field: str, filters: dict[str, Any] | None) -> list[Any]:
        """The different values of a meta field that are not None; 1, 1.0, "1" and True are different."""
        value, where = meta_value_sql(field), _where(filters)
        found = self._database.read(
            f"SELECT DISTINCT {value.text} FROM documents WHERE {where.text}", value.params + where.params
        )
        return [json.loads(text) for (text,) in found if text is not None and text != "null"]


def _where(filters: dict[str, Any] | None) -> Sql:
    return filters_to_sql(filters) if filters else Sql("1")


def _insert(connection: sqlite3.Connection, records: list[tuple[Any, ...]], policy: DuplicatePolicy) -> int:
    before = connection.total_changes
    try:
        sql = f"{_WRITE[policy]} INTO documents ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        return connection.executemany(sql, records).rowcount
    except sqlite3.IntegrityError as error:
        duplicate = records[connection.total_changes - before][0]
        raise DuplicateDocumentError(
            f"A document with id '{duplicate}' is already there, and nothing was written. "
            f"Use DuplicatePolicy.OVERWRITE or SKIP to write the others."
        ) from error


def _delete_files(connection: sqlite3.Connection, paths: list[str]) -> int:
    keys = [(path,) for path in paths]
    deleted = connection.executemany("DELETE FROM documents WHERE json_extract(meta, '$.file_path') = ?", keys).rowcount
    connection.executemany("DELETE FROM files WHERE path = ?", keys)
    return deleted


def _records(documents: Sequence[Document]) -> list[tuple[Any, ...]]:
    if isinstance(documents, str) or not isinstance(documents, Iterable):
        raise ValueError(f"Expected a list of Documents, got {documents!r}.")
    return [document_record(document) for document in documents]
