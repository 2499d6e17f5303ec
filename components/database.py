"""The store's SQLite database: its schema and migrations, a connection for each thread, transactions.

It is in WAL mode with full syncing: what is committed is on disk, is never seen half, and keeps no reader waiting. Any
number of threads and processes may use one database at once.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from needle.components.filters import register_functions
from needle.data.errors import StoreError

#: How long to wait for another thread's or process's transaction.
_TIMEOUT_S = 30.0
#: The schema's history: a database at `PRAGMA user_version` n has had the first n of these. Append; never change one.
MIGRATIONS: list[tuple[str, ...]] = [
    (
        # AUTOINCREMENT: a row number is never used twice, so that indexes may keep row numbers.
        # meta comes first: filters read it, and should not have to read past the content.
        """CREATE TABLE documents (
            row INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, meta TEXT NOT NULL, content TEXT,
            score REAL, sparse_embedding TEXT, embedding BLOB, blob_mime_type TEXT, blob_meta TEXT, blob BLOB)""",
        "CREATE INDEX documents_by_file ON documents (json_extract(meta, '$.file_path'))",
        "CREATE INDEX documents_by_source ON documents (json_extract(meta, '$.source_id'))",
        # `ids` holds `count` integers and `offsets` twice as many, as records.py packs them.
        """CREATE TABLE tokens (
            row INTEGER PRIMARY KEY REFERENCES documents ON DELETE CASCADE, tokenizer TEXT NOT NULL,
            content_crc INTEGER NOT NULL, count INTEGER NOT NULL, ids BLOB NOT NULL, offsets BLOB NOT NULL)""",
        """CREATE TABLE files (
            path TEXT PRIMARY KEY, digest TEXT NOT NULL, size INTEGER NOT NULL, passages INTEGER NOT NULL,
            tokenizer TEXT)""",
        # A file counts as indexed only while all its passages are there.
        """CREATE TRIGGER documents_deleted AFTER DELETE ON documents BEGIN
            DELETE FROM files WHERE path = json_extract(old.meta, '$.file_path'); END""",
        "CREATE TABLE revisions (n INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT NOT NULL UNIQUE)",
    ),
    (
        # Whole in itself: a label outlives its document.
        """CREATE TABLE labels (
            n INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, verdict TEXT NOT NULL, query TEXT NOT NULL,
            answer TEXT, score REAL NOT NULL, passage TEXT, start_char INTEGER, end_char INTEGER,
            file_path TEXT, page_number INTEGER, source_id TEXT,
            correction TEXT, correction_start_char INTEGER, correction_end_char INTEGER,
            needle TEXT NOT NULL, reader TEXT NOT NULL, reader_fingerprint TEXT, pipeline TEXT NOT NULL)""",
    ),
]


class Database:
    """`needle.sqlite` in a folder, opened by each thread at its first use. All methods raise StoreError."""

    def __init__(self, folder: Path | None):
        """:param folder: made at the first use; None for a temporary one that goes with this object."""
        self._folder = folder
        self._remove_folder: weakref.finalize[..., Any] | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._local = threading.local()
        self._connections: weakref.WeakSet[_Connection] = weakref.WeakSet()

    @property
    def folder(self) -> Path:
        """The database's folder; a temporary one is made by asking."""
        with self._lock:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="needle-"))
                self._remove_folder = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            return self._folder

    def read(self, sql: str, params: tuple[Any, ...] = ()) -> list[Any]:
        """All rows of a query, of one moment."""
        with self._naming_errors():
            return self._connection().execute(sql, params).fetchall()

    @contextmanager
    def writing(self, of_documents: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction, undone by an exception; if it changes anything of documents, it makes a new revision."""
        with self._naming_errors():
            connection = self._connection()
            with _transaction(connection):
                before = connection.total_changes
                yield connection
                if of_documents and connection.total_changes > before:
                    connection.execute("INSERT INTO revisions (token) VALUES (?)", (secrets.token_hex(16),))

    def close(self) -> None:
        """Close all threads' connections, none of which may be in use, and remove a temporary folder. It is final."""
        self._closed = True
        with self._lock:
            for connection in list(self._connections):
                connection.close()
        if self._remove_folder is not None:
            self._remove_folder()

    def _connection(self) -> sqlite3.Connection:
        if self._closed:
            raise StoreError(f"The store '{self._folder}' has been closed. Make a new one to go on.")
        # SQLite connections must not be carried into a forked process, so that opens its own.
        if getattr(self._local, "pid", None) != os.getpid():
            connection = _connect(self.folder)
            with self._lock:
                self._connections.add(connection)
            self._local.connection, self._local.pid = connection, os.getpid()
        own: sqlite3.Connection = self._local.connection
        return own

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"The store '{self._folder}' can't be used: {error}.") from error


class _Connection(sqlite3.Connection):
    """A connection that can be weakly referenced, and is closed when its thread ends."""

    def __del__(self) -> None:
        self.close()


def _connect(folder: Path) -> _Connection:
    if folder.is_file():
        raise StoreError(f"'{folder}' is a file. A store is a folder: name another one, or the folder of the file.")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "needle.sqlite"
    address = file.absolute().as_uri()
    read_only = file.exists() and not os.access(folder, os.W_OK)
    if read_only:
        # Readers of a WAL database share a -shm file. Where there is none and it can't be made, nobody is writing.
        address += "?mode=ro" if Path(f"{file}-shm").exists() else "?immutable=1"
    connection = sqlite3.connect(
        address, uri=True, timeout=_TIMEOUT_S, isolation_level=None, check_same_thread=False, factory=_Connection
    )
    _enter_wal_mode(connection)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA recursive_triggers = ON")  # else INSERT OR REPLACE passes over the delete trigger
    register_functions(connection)
    _migrate(connection, folder, read_only)
    return connection


def _enter_wal_mode(connection: sqlite3.Connection) -> None:
    # SQLite's own timeout does not cover this: where two processes make one database, one of them fails at once.
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _migrate(connection: sqlite3.Connection, folder: Path, read_only: bool) -> None:
    """Bring an older database, or an empty file, to the present schema; an older one that can't be written stays as it is,
    and can be read but for what later schemas added."""
    version = _version(connection)
    if version > len(MIGRATIONS):
        raise StoreError(
            f"The store '{folder}' was made by a newer needle: its schema has version {version}, this needle knows "
            f"versions up to {len(MIGRATIONS)}. Upgrade needle-qa, or use another folder."
        )
    if version < len(MIGRATIONS) and not (read_only and version):
        with _transaction(connection):
            # Another process may have been faster: only inside the transaction does the version hold.
            for number in range(_version(connection), len(MIGRATIONS)):
                for statement in MIGRATIONS[number]:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number + 1}")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
