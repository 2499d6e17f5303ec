"""The store: what it keeps, what it promises, and how it fails."""

import gc
import json
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from haystack import Pipeline
from haystack.components.writers import DocumentWriter
from haystack.dataclasses import ByteStream, Document, SparseEmbedding
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.errors import FilterError

from needle.components import database
from needle.components.store import IndexedFile, SQLiteDocumentStore
from needle.components.tokenizer import Tokens
from needle.data.errors import StoreError

# Forked processes start fast enough to be many; those on this page touch nothing but the store.
FORK: Any = multiprocessing.get_context("fork") if hasattr(os, "fork") else None
needs_fork = pytest.mark.skipif(FORK is None, reason="this system can't fork")
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def store(tmp_path: Path):
    with SQLiteDocumentStore(tmp_path / "store") as store:
        yield store


def doc(id_: str, content: str | None = "text", **meta) -> Document:
    return Document(id=id_, content=content, meta=meta)


def ids(store: SQLiteDocumentStore) -> list[str]:
    return [d.id for d in store.filter_documents()]


def file(path: str, passages: int = 1, digest: str = "d") -> IndexedFile:
    return IndexedFile(path, digest, size=100, passages=passages)


def tokens(*ids_: int) -> Tokens:
    n = len(ids_)
    return Tokens(np.array(ids_, np.int32), np.arange(2 * n, dtype=np.int32).reshape(n, 2))


def assert_same_tokens(got: Tokens | None, expected: Tokens) -> None:
    assert got is not None
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype == np.int32
        assert a.shape == b.shape
        assert (a == b).all()


class TestDocuments:
    def test_every_field_comes_back_exactly(self, store):
        document = Document(
            id="π\x00",
            content="NUL \x00, é, 😀",
            meta={"a": {"b": [1, 2.5, None, True, "x"]}, 'odd "key"': 1e-300, "big": 10**30, "nul": "\x00"},
            score=1 / 3,
            embedding=[0.1, -1e-300, 3.0],
            sparse_embedding=SparseEmbedding([1, 7], [0.1, 2 / 3]),
            blob=ByteStream(b"\x00\xff", meta={"page": 1}, mime_type="image/png"),
        )
        store.write_documents([document])
        assert store.filter_documents() == [document]
        assert type(store.filter_documents()[0].meta["a"]["b"][3]) is bool

    def test_empty_is_not_missing(self, store):
        documents = [
            doc("none", None),
            doc("empty", ""),
            Document(id="v", embedding=[]),
            Document(id="b", blob=ByteStream(b"")),
        ]
        store.write_documents(documents)
        assert store.filter_documents() == documents

    def test_documents_outlive_the_store_object(self, tmp_path):
        with SQLiteDocumentStore(tmp_path) as store:
            store.write_documents([doc("a")])
        with SQLiteDocumentStore(tmp_path) as store:
            assert ids(store) == ["a"]

    def test_fail_writes_nothing_of_the_batch(self, store):
        store.write_documents([doc("old")])
        for policy in (DuplicatePolicy.FAIL, DuplicatePolicy.NONE):
            with pytest.raises(DuplicateDocumentError, match="'old'"):
                store.write_documents([doc("new"), doc("old"), doc("newer")], policy)
            with pytest.raises(DuplicateDocumentError, match="'twice'"):
                store.write_documents([doc("twice"), doc("twice")], policy)
        assert ids(store) == ["old"]

    def test_skip_keeps_the_first(self, store):
        store.write_documents([doc("a", "first")])
        written = store.write_documents([doc("a", "second"), doc("b", "1"), doc("b", "2")], DuplicatePolicy.SKIP)
        assert written == 1
        assert [d.content for d in store.filter_documents()] == ["first", "1"]

    def test_overwrite_keeps_the_last(self, store):
        store.write_documents([doc("a", "first")])
        written = store.write_documents([doc("a", "2"), doc("b", "1"), doc("a", "3")], DuplicatePolicy.OVERWRITE)
        assert written == 3
        assert {d.id: d.content for d in store.filter_documents()} == {"a": "3", "b": "1"}

    @pytest.mark.parametrize("policy", DuplicatePolicy)
    def test_writing_nothing(self, store, policy):
        assert store.write_documents([], policy) == 0
        assert store.revision == ""

    @pytest.mark.parametrize("value", [{1, 2}, float("nan"), b"bytes", {1: "x"}, [{"deep": {None: 1}}], "\ud800", Path()])
    def test_meta_that_json_cannot_hold_is_named(self, store, value):
        bad = Document(id="bad", content="x", meta={"fine": 1, "culprit": value})
        with pytest.raises(ValueError, match=r"Document 'bad' .* meta key 'culprit'"):
            store.write_documents([doc("good"), bad])
        assert store.count_documents() == 0

    def test_circular_meta_is_named(self, store):
        loop: list = []
        loop.append(loop)
        document = doc("bad")
        document.meta["culprit"] = loop
        with pytest.raises(ValueError, match="'culprit'"):
            store.write_documents([document])

    def test_a_tuple_comes_back_as_a_list(self, store):
        # Haystack's splitters put tuples into `_split_overlap`.
        store.write_documents([doc("a", range=(0, 10))])
        assert store.filter_documents()[0].meta == {"range": [0, 10]}

    def test_lone_surrogates_in_content_are_refused(self, store):
        with pytest.raises(ValueError, match=r"Document 'bad' .*errors='replace'"):
            store.write_documents([doc("bad", "\ud800")])

    @pytest.mark.parametrize("documents", ["text", 7, None, ["text"], [doc("a"), {"id": "b"}]])
    def test_only_documents_can_be_written(self, store, documents):
        with pytest.raises(ValueError, match="Expected a list of Documents"):
            store.write_documents(documents)

    def test_delete_ignores_unknown_ids_however_many(self, store):
        store.write_documents([doc("a"), doc("b")])
        store.delete_documents(["a", *map(str, range(50_000))])
        assert ids(store) == ["b"]

    @pytest.mark.parametrize("method", ["delete_by_filter", "update_by_filter"])
    def test_an_empty_filter_changes_nothing_by_accident(self, store, method):
        store.write_documents([doc("a")])
        with pytest.raises(FilterError):
            getattr(store, method)({}, *([{"x": 1}] if method == "update_by_filter" else []))
        assert store.filter_documents() == [doc("a")]

    def test_nested_and_mixed_metadata(self, store):
        store.write_documents([doc("a", a={"b": 2}, kind=1), doc("b", a={"b": 10}, kind="x"), doc("c", a=None)])
        assert store.get_metadata_field_min_max("meta.a.b") == {"min": 2, "max": 10}
        assert store.get_metadata_field_min_max("kind") == {"min": None, "max": None}
        assert store.get_metadata_field_unique_values("a") == ([{"b": 10}, {"b": 2}], 2)
        assert store.get_metadata_fields_info() == {"a": {"type": "keyword"}, "kind": {"type": "keyword"}}


class TestRows:
    def test_a_row_number_is_never_used_twice(self, store):
        store.write_documents([doc("a", "1"), doc("b", "2")])
        first = store.rows()
        store.write_documents([doc("a", "3")], DuplicatePolicy.OVERWRITE)
        [overwritten] = set(store.rows()) - set(first)
        assert overwritten > first.max()
        store.delete_all_documents()
        store.write_documents([doc("c")])
        [new] = store.rows()
        assert new > overwritten

    def test_changing_meta_keeps_the_row(self, store):
        store.write_documents([doc("a", n=1)])
        before = store.rows()
        store.update_by_filter({"field": "n", "operator": "==", "value": 1}, {"n": 2})
        assert (store.rows() == before).all()

    def test_rows_of_a_filter_ascend(self, store):
        store.write_documents([doc(f"{9 - i}", n=i) for i in range(10)])
        rows = store.rows()
        assert rows.dtype == np.int64
        assert (np.diff(rows) > 0).all()
        assert store.rows({"field": "n", "operator": ">", "value": 6}).tolist() == rows[7:].tolist()
        assert store.rows({"field": "n", "operator": ">", "value": 60}).shape == (0,)

    def test_contents_stream_in_order(self, store, monkeypatch):
        monkeypatch.setattr("needle.components.store._CONTENTS_BATCH", 3)
        store.write_documents([doc("none", None), *(doc(f"{i}", f"text {i}") for i in range(9))])
        rows = store.rows()
        store.delete_documents(["4"])
        expected = [(int(r), c) for r, c in zip(rows, ["", *(f"text {i}" for i in range(9))], strict=True)]
        del expected[5]
        assert list(store.contents(rows[::-1])) == expected
        assert list(store.contents(np.array([], np.int64))) == []

    def test_documents_at_gives_the_documents_by_row(self, store):
        store.write_documents([doc("a"), doc("b"), doc("c")])
        rows = store.rows()
        assert {row: d.id for row, d in store.documents_at(rows[[2, 0, 2]]).items()} == {rows[0]: "a", rows[2]: "c"}
        assert store.documents_at(rows[:0]) == {}

    def test_documents_at_leaves_out_rows_that_are_gone(self, store):
        store.write_documents([doc("a"), doc("b")])
        rows = store.rows()
        store.delete_documents(["a"])
        assert [d.id for d in store.documents_at(rows).values()] == ["b"]


class TestRevisions:
    def test_every_change_makes_a_new_one(self, store):
        changes = [
            lambda: store.write_documents([doc("a", n=1), doc("b")]),
            lambda: store.update_by_filter({"field": "n", "operator": "==", "value": 1}, {"n": 2}),
            lambda: store.replace_sources([file("f")], [doc("p", file_path="f")]),
            lambda: store.remove_files(["f"]),
            lambda: store.delete_documents(["b"]),
            lambda: store.delete_all_documents(),
        ]
        history = [store.revision]
        for change in changes:
            change()
            history.append(store.revision)
        assert history[0] == ""
        assert len(set(history)) == len(history)
        assert all(store.has_revision(token) for token in history)
        assert not store.has_revision("another store's")

    def test_what_changes_nothing_makes_none(self, store):
        store.write_documents([doc("a")])
        revision = store.revision
        store.delete_documents(["unknown"])
        store.remove_files(["unknown"])
        store.write_documents([doc("a")], DuplicatePolicy.SKIP)
        with pytest.raises(DuplicateDocumentError):
            store.write_documents([doc("b"), doc("a")])
        assert store.revision == revision


class TestFiles:
    def test_replacing_a_file_replaces_its_passages_and_no_others(self, store):
        store.write_documents([doc("other")])
        store.replace_sources([file("f", 2), file("g")], [doc(i, file_path=i[0]) for i in ("f1", "f2", "g1")])
        store.replace_sources([file("f", 1, "new")], [doc("f3", file_path="f")])
        assert ids(store) == ["other", "g1", "f3"]
        assert store.files() == {"f": file("f", 1, "new"), "g": file("g")}

    def test_a_file_may_have_no_passages(self, store):
        store.replace_sources([file("empty", 0)], [])
        assert store.files() == {"empty": file("empty", 0)}
        assert store.remove_files(["empty"]) == 0
        assert store.files() == {}

    def test_removing_files_counts_their_documents(self, store):
        passages = [doc("1", file_path="it's"), doc("2", file_path="it's"), doc("3", file_path="g")]
        store.replace_sources([file("it's", 2), file("g")], passages)
        assert store.remove_files(["it's", "unknown"]) == 2
        assert ids(store) == ["3"]
        assert list(store.files()) == ["g"]

    def test_replacing_is_all_or_nothing(self, store):
        store.replace_sources([file("f")], [doc("1", file_path="f")])
        with pytest.raises(StoreError, match=r"UNIQUE constraint failed: files\.path"):
            store.replace_sources([file("f", 7), file("f", 8)], [doc("2", file_path="f")])
        assert ids(store) == ["1"]
        assert store.files() == {"f": file("f")}

    @pytest.mark.parametrize("change", ["delete_documents", "delete_by_filter", "write_documents", "delete_all_documents"])
    def test_a_file_that_lost_a_passage_counts_as_not_indexed(self, store, change):
        store.replace_sources([file("f", 2), file("g")], [doc("1", file_path="f"), doc("2", file_path="f")])
        arguments = {
            "delete_documents": (["1"],),
            "delete_by_filter": ({"field": "id", "operator": "==", "value": "1"},),
            "write_documents": ([doc("1")], DuplicatePolicy.OVERWRITE),
            "delete_all_documents": (),
        }
        getattr(store, change)(*arguments[change])
        assert "f" not in store.files()


class TestTokens:
    def test_they_come_back_as_they_were(self, store):
        passages = [doc(str(i), f"text {i}") for i in range(4)]
        stored = [tokens(), tokens(5), tokens(1, 65_535), tokens(1, 65_536, 2**31 - 1)]
        store.replace_sources([], passages, stored, "fingerprint")
        for got, expected in zip(store.tokens(passages, "fingerprint"), stored, strict=True):
            assert_same_tokens(got, expected)

    def test_in_the_order_asked_for(self, store):
        a, b = doc("a"), doc("b")
        store.replace_sources([], [a, b], [tokens(1), tokens(2)], "fingerprint")
        got = store.tokens([b, a, b], "fingerprint")
        assert [t.ids.tolist() for t in got if t is not None] == [[2], [1], [2]]

    def test_none_where_they_do_not_fit(self, store):
        document = doc("a", "text")
        store.replace_sources([], [document], [tokens(1)], "fingerprint")
        store.write_documents([doc("without")])
        asked = [document, doc("a", "other text"), doc("without"), doc("unknown")]
        assert [t is None for t in store.tokens(asked, "fingerprint")] == [False, True, True, True]
        assert store.tokens([document], "another") == [None]
        assert store.tokens([], "fingerprint") == []

    def test_they_go_with_their_document(self, store):
        store.replace_sources([], [doc("a"), doc("b")], [tokens(1), tokens(2)], "fingerprint")
        store.delete_documents(["a"])
        store.write_documents([doc("a"), doc("b")], DuplicatePolicy.OVERWRITE)
        assert store.tokens([doc("a"), doc("b")], "fingerprint") == [None, None]

    def test_the_last_of_two_equal_ids_wins_with_its_tokens(self, store):
        store.replace_sources([], [doc("a", "1"), doc("a", "2")], [tokens(1), tokens(2)], "fingerprint")
        [got] = store.tokens([doc("a", "2")], "fingerprint")
        assert_same_tokens(got, tokens(2))

    def test_they_need_their_tokenizer_and_as_many_passages(self, store):
        for given in [(None, "fingerprint"), ([tokens(1)], None), ([], "fingerprint")]:
            with pytest.raises(ValueError, match="1 passages need as many tokens with a tokenizer"):
                store.replace_sources([], [doc("a")], *given)


class TestManyAtOnce:
    def test_readers_see_whole_batches_while_threads_write(self, store):
        done, seen, failures = threading.Event(), set(), []

        def write(writer: int) -> None:
            for batch in range(10):
                store.write_documents([doc(f"{writer}/{batch}/{i}") for i in range(20)])

        def read() -> None:
            try:
                while not done.is_set():
                    seen.add(store.count_documents())
            except Exception as error:
                failures.append(error)

        writers = [threading.Thread(target=write, args=(i,)) for i in range(3)]
        readers = [threading.Thread(target=read) for _ in range(2)]
        for thread in writers + readers:
            thread.start()
        for thread in writers:
            thread.join()
        done.set()
        for thread in readers:
            thread.join()
        assert not failures
        assert store.count_documents() == 600
        assert all(count % 20 == 0 for count in seen)

    def test_a_writer_does_not_block_readers(self, store):
        store.write_documents([doc("a")])
        other = sqlite3.connect(store.folder / "needle.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM documents")
        assert store.count_documents() == 1
        other.close()

    @needs_fork
    def test_processes_that_make_one_store_at_once_share_it(self, tmp_path):
        def write(folder: Path, name: int) -> None:
            start.wait(30)
            with SQLiteDocumentStore(folder) as store:
                for batch in range(3):
                    store.write_documents([doc(f"{name}/{batch}/{i}") for i in range(20)])
                    assert store.count_documents() % 20 == 0

        for attempt in range(5):
            folder, start = tmp_path / str(attempt), FORK.Barrier(4)
            processes = [FORK.Process(target=write, args=(folder, name)) for name in range(4)]
            for process in processes:
                process.start()
            for process in processes:
                process.join(60)
            assert [process.exitcode for process in processes] == [0] * 4
            with SQLiteDocumentStore(folder) as store:
                assert store.count_documents() == 4 * 3 * 20

    @needs_fork
    def test_a_killed_process_loses_nothing_that_was_written(self, tmp_path):
        def write(pipe: Connection) -> None:
            store = SQLiteDocumentStore(tmp_path)
            while True:
                store.write_documents([Document(content=f"{os.urandom(8)!r}") for _ in range(20)])
                pipe.send(store.revision)

        reports, pipe = FORK.Pipe(duplex=False)
        process = FORK.Process(target=write, args=(pipe,))
        process.start()
        for _ in range(10):
            revision = reports.recv()
        process.kill()
        process.join(30)
        with SQLiteDocumentStore(tmp_path) as store:
            assert store.has_revision(revision)
            assert store.count_documents() >= 200
            assert store.count_documents() % 20 == 0

    @needs_fork
    def test_a_forked_process_may_go_on_with_the_store(self, store):
        store.write_documents([doc("parent")])
        child = FORK.Process(target=store.write_documents, args=([doc("child")],))
        child.start()
        child.join(30)
        assert child.exitcode == 0
        store.write_documents([doc("parent again")])
        assert ids(store) == ["parent", "child", "parent again"]

    def test_a_finished_thread_leaves_no_connection(self, store):
        store.count_documents()
        for _ in range(3):
            thread = threading.Thread(target=store.count_documents)
            thread.start()
            thread.join()
        gc.collect()
        assert len(store._database._connections) == 1


class TestOpening:
    def test_making_a_store_object_touches_nothing(self, tmp_path):
        SQLiteDocumentStore(tmp_path / "new").close()
        assert not (tmp_path / "new").exists()

    def test_it_is_durable_before_it_is_fast(self, store):
        [settings] = store._database.read(
            "SELECT * FROM pragma_journal_mode, pragma_synchronous, pragma_foreign_keys, pragma_busy_timeout"
        )
        assert settings == ("wal", 2, 1, 30_000)

    def test_an_empty_file_becomes_a_store(self, tmp_path):
        (tmp_path / "needle.sqlite").touch()
        with SQLiteDocumentStore(tmp_path) as store:
            assert store.write_documents([doc("a")]) == 1

    def test_an_older_store_is_migrated(self, tmp_path, monkeypatch):
        with SQLiteDocumentStore(tmp_path) as store:
            store.write_documents([doc("a")])
        newer = [*database.MIGRATIONS, ("CREATE TABLE extra (n)", "INSERT INTO extra SELECT count(*) FROM documents")]
        monkeypatch.setattr(database, "MIGRATIONS", newer)
        with SQLiteDocumentStore(tmp_path) as store:
            assert ids(store) == ["a"]
            assert store._database.read("SELECT n FROM extra") == [(1,)]
            assert store._database.read("PRAGMA user_version") == [(len(newer),)]

    def test_a_migration_that_fails_leaves_the_store_as_it_was(self, tmp_path, monkeypatch):
        with SQLiteDocumentStore(tmp_path) as store:
            store.write_documents([doc("a")])
        with monkeypatch.context() as patch:
            patch.setattr(database, "MIGRATIONS", [*database.MIGRATIONS, ("DROP TABLE tokens", "nonsense")])
            with pytest.raises(StoreError, match="syntax error"):
                SQLiteDocumentStore(tmp_path).count_documents()
        with SQLiteDocumentStore(tmp_path) as store:
            store.replace_sources([], [doc("b")], [tokens(1)], "fingerprint")
            assert ids(store) == ["a", "b"]

    def test_a_newer_store_is_refused(self, tmp_path):
        with SQLiteDocumentStore(tmp_path) as store:
            store.count_documents()
        newer = sqlite3.connect(tmp_path / "needle.sqlite")
        newer.execute("PRAGMA user_version = 99")
        newer.close()
        with pytest.raises(StoreError, match=r"made by a newer needle: its schema has version 99.*Upgrade"):
            SQLiteDocumentStore(tmp_path).count_documents()

    def test_a_path_that_is_a_file(self, tmp_path):
        (tmp_path / "file").write_text("x")
        with pytest.raises(StoreError, match=r"'.*/file' is a file. A store is a folder"):
            SQLiteDocumentStore(tmp_path / "file").count_documents()
        with pytest.raises(StoreError, match=r"'.*/file/below' can't be used: .*Not a directory"):
            SQLiteDocumentStore(tmp_path / "file" / "below").count_documents()

    def test_a_file_that_is_no_database(self, tmp_path):
        (tmp_path / "needle.sqlite").write_bytes(b"not a database" * 100)
        with pytest.raises(StoreError, match=rf"'{tmp_path}' can't be used: file is not a database"):
            SQLiteDocumentStore(tmp_path).write_documents([doc("a")])

    @pytest.mark.parametrize("schema", [1, len(database.MIGRATIONS)])
    def test_a_read_only_folder_can_be_read(self, schema, monkeypatch):
        """Also one of an older schema, which can't be brought to the present one."""
        folder = Path(tempfile.mkdtemp())
        try:
            with monkeypatch.context() as patch, SQLiteDocumentStore(folder) as store:
                patch.setattr(database, "MIGRATIONS", database.MIGRATIONS[:schema])
                store.write_documents([doc("a")])
            folder.chmod(0o555)
            (folder / "needle.sqlite").chmod(0o444)
            code = f"""
                from haystack.dataclasses import Document
                from needle.components.store import SQLiteDocumentStore
                from needle.data.errors import StoreError
                import os
                if os.geteuid() == 0:
                    os.setuid(65534)  # root may write anywhere
                store = SQLiteDocumentStore({str(folder)!r})
                assert store.count_documents() == 1
                try:
                    store.write_documents([Document(content="x")])
                except StoreError as error:
                    print(error)
                try:
                    SQLiteDocumentStore({str(folder / "new")!r}).count_documents()
                except StoreError as error:
                    print(error)
            """
            command = [sys.executable, "-c", textwrap.dedent(code)]
            result = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert result.returncode == 0, result.stderr
            assert f"'{folder}' can't be used: attempt to write a readonly database" in result.stdout
            assert f"'{folder / 'new'}' can't be used: [Errno 13] Permission denied" in result.stdout
        finally:
            folder.chmod(0o755)
            shutil.rmtree(folder)


class TestClosing:
    def test_a_temporary_store_goes_when_it_is_closed(self):
        store = SQLiteDocumentStore()
        store.write_documents([doc("a")])
        folder = store.folder
        assert (folder / "needle.sqlite").is_file()
        store.close()
        assert not folder.exists()

    def test_a_temporary_store_goes_with_its_object(self):
        store = SQLiteDocumentStore()
        store.write_documents([doc("a")])
        folder = store.folder
        del store
        gc.collect()
        assert not folder.exists()

    def test_temporary_stores_are_apart(self):
        with SQLiteDocumentStore() as a, SQLiteDocumentStore() as b:
            a.write_documents([doc("a")])
            assert b.count_documents() == 0

    def test_closing_leaves_one_file_and_is_final(self, tmp_path):
        store = SQLiteDocumentStore(tmp_path)
        store.write_documents([doc("a")])
        with ThreadPoolExecutor(1) as another_thread:
            assert another_thread.submit(store.count_documents).result() == 1
            store.close()
            store.close()
            assert [p.name for p in tmp_path.iterdir()] == ["needle.sqlite"]
        with pytest.raises(StoreError, match="has been closed"):
            store.count_documents()


class TestInPipelines:
    def test_a_dictionary_and_back(self, tmp_path):
        for path in (None, str(tmp_path), tmp_path):
            data = json.loads(json.dumps(SQLiteDocumentStore(path).to_dict()))
            assert data == {
                "type": "needle.components.store.SQLiteDocumentStore",
                "init_parameters": {"path": None if path is None else str(path)},
            }
            assert SQLiteDocumentStore.from_dict(data).to_dict() == data

    def test_a_yaml_pipeline_writes_to_it(self, tmp_path):
        pipeline = Pipeline()
        pipeline.add_component("writer", DocumentWriter(SQLiteDocumentStore(tmp_path)))
        text = pipeline.dumps()
        assert yaml.safe_load(text)["components"]["writer"]["init_parameters"]["document_store"]["init_parameters"] == {
            "path": str(tmp_path)
        }
        Pipeline.loads(text, allowed_modules=["needle.*"]).run({"writer": {"documents": [doc("a")]}})
        with SQLiteDocumentStore(tmp_path) as store:
            assert ids(store) == ["a"]


def test_sources_are_listed_by_file_and_title_and_their_passages_found_and_removed(tmp_path):
    store = SQLiteDocumentStore(tmp_path)
    places = {"b": ("/docs/zoo.txt", "Zoo"), "a": ("/docs/tea.txt", "Tea"), "c": (None, "Ämter")}
    for source, (path, title) in places.items():
        meta = {"source_id": source, "file_path": path, "title": title}
        store.write_documents([Document(content=f"{source}{n}", meta=meta) for n in range(2)])
    store.write_documents([Document(content="not cut from anything")])
    found, total = store.sources()
    assert ([(s.id, s.file_path, s.title, s.passages) for s in found], total) == (
        [("c", None, "Ämter", 2), ("a", "/docs/tea.txt", "Tea", 2), ("b", "/docs/zoo.txt", "Zoo", 2)],
        3,
    )
    assert [[s.id for s in store.sources(part)[0]] for part in ("TEA", "docs", "Ämt")] == [["a"], ["a", "b"], ["c"]]
    assert ([s.id for s in store.sources(first=1, size=1)[0]], store.sources(first=9)) == (["a"], ([], 3))
    assert [p.content for p in store.passages_of("b")] == ["b0", "b1"]
    assert (store.remove_source("b"), store.remove_source("b"), store.count_documents()) == (2, 0, 5)
