"""BM25Retriever: what it finds, and that its index is never out of step with the store."""

import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from haystack import Document, Pipeline
from haystack.document_stores.types import DuplicatePolicy
from haystack.errors import FilterError

from needle.components import bm25_files, retrievers
from needle.components.analysis import Analyzer
from needle.components.bm25_files import BM25StoreIndex
from needle.components.retrievers import BM25Retriever
from needle.components.store import SQLiteDocumentStore

FORK: Any = multiprocessing.get_context("fork") if hasattr(os, "fork") else None
needs_fork = pytest.mark.skipif(FORK is None, reason="this system can't fork")
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

FACTS = {
    "paris": "Paris is the capital of France.",
    "berlin": "Berlin is the capital of Germany, and Germany's largest city.",
    "everest": "Mount Everest is the highest mountain on Earth.",
    "k2": "K2 is the second highest mountain, after Everest.",
    "bees": "Honey bees make honey from nectar.",
}


def doc(id_: str, content: str | None = "text", **meta: Any) -> Document:
    return Document(id=id_, content=content, meta=meta)


@pytest.fixture
def store(tmp_path: Path):
    with SQLiteDocumentStore(tmp_path / "store") as store:
        store.write_documents([doc(id_, content, length=len(content)) for id_, content in FACTS.items()])
        yield store


@pytest.fixture
def analysed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All texts that have been analysed, in order."""
    texts: list[str] = []

    class Recording(Analyzer):
        def terms(self, text: str) -> list[str]:
            texts.append(text)
            return super().terms(text)

        def encode(self, passages: Any, vocabulary: dict[str, int]) -> Any:
            texts.extend(passages)
            return super().encode(passages, vocabulary)

    monkeypatch.setattr(retrievers, "Analyzer", Recording)
    return texts


def find(source: BM25Retriever | SQLiteDocumentStore, query: str, **arguments: Any) -> list[str]:
    """The ids found, best first, by a retriever, or by a new one on a store."""
    retriever = BM25Retriever(source) if isinstance(source, SQLiteDocumentStore) else source
    return [d.id for d in retriever.run(query, **arguments)["documents"]]


def index_folder(store: SQLiteDocumentStore) -> Path:
    [folder] = (store.folder / "bm25").iterdir()
    return folder


def index_files(store: SQLiteDocumentStore) -> dict[str, tuple[int, int]]:
    """Each file's inode and time of change."""
    files = [p for p in index_folder(store).rglob("*") if p.is_file()]
    return {str(p): (p.stat().st_ino, p.stat().st_mtime_ns) for p in files}


class TestFinding:
    def test_best_first_with_scores(self, store):
        documents = BM25Retriever(store).run("Which city is the capital of Germany?")["documents"]
        assert [d.id for d in documents] == ["berlin", "paris"]
        assert documents[0].score > documents[1].score
        assert documents[0].meta == {"length": len(FACTS["berlin"])}
        assert documents[0].content == FACTS["berlin"]

    def test_many_questions_at_once(self, store):
        found = BM25Retriever(store).run(queries=["honey", "nothing like it", "highest mountain"])
        assert list(found) == ["documents_per_query"]
        assert [[d.id for d in ds] for ds in found["documents_per_query"]] == [["bees"], [], ["everest", "k2"]]

    def test_a_question_and_questions_together(self, store):
        found = BM25Retriever(store).run("honey", ["Everest", "Paris"])
        assert [d.id for d in found["documents"]] == ["bees"]
        assert [[d.id for d in ds] for ds in found["documents_per_query"]] == [["everest", "k2"], ["paris"]]

    def test_no_questions_is_an_empty_list_but_none_at_all_an_error(self, store):
        assert BM25Retriever(store).run(queries=[]) == {"documents_per_query": []}
        with pytest.raises(ValueError, match="needs a query or a list of queries"):
            BM25Retriever(store).run()

    def test_one_document_found_twice_has_each_questions_score(self, store):
        [[a], [b]] = BM25Retriever(store).run(queries=["bees", "honey"])["documents_per_query"]
        assert a.id == b.id == "bees"
        assert a.score < b.score

    @pytest.mark.parametrize("query", ["", "zebra", "What is it that they were?", "?!"])
    def test_no_match(self, store, query):
        assert find(store, query) == []

    def test_stop_words_can_be_kept_and_stems_left(self, store):
        assert find(BM25Retriever(store, stop_words=False), "from after") == ["bees", "k2"]
        assert find(BM25Retriever(store), "mountains") == ["everest", "k2"]
        assert find(BM25Retriever(store, stem=False), "mountains") == []
        assert len(list((store.folder / "bm25").iterdir())) == 3, "each analysis has its own index"

    def test_an_empty_store(self, tmp_path):
        with SQLiteDocumentStore(tmp_path) as empty:
            retriever = BM25Retriever(empty)
            retriever.warm_up()
            assert find(retriever, "Paris") == []
            empty.write_documents([doc("a", "Paris")])
            assert find(retriever, "Paris") == ["a"]
            empty.delete_all_documents()
            assert find(retriever, "Paris") == []

    def test_documents_without_text_are_not_found(self, store):
        store.write_documents([doc("none", None), doc("empty", "")])
        assert find(store, "none empty") == []

    @pytest.mark.parametrize("variant", ["okapi", "l", "plus"])
    def test_variants(self, store, variant):
        assert find(BM25Retriever(store, variant=variant), "Germany") == ["berlin"]

    def test_a_temporary_store(self):
        store = SQLiteDocumentStore()
        store.write_documents([doc("a", "Paris")])
        assert find(store, "Paris") == ["a"]


class TestCut:
    def test_top_k(self, store):
        retriever = BM25Retriever(store, top_k=2)
        query = "Paris Berlin Everest honey"
        assert len(find(retriever, query)) == 2
        assert len(find(retriever, query, top_k=None)) == 2
        assert len(find(retriever, query, top_k=4)) == 4
        assert len(find(retriever, query, top_k=10**6)) == 5
        assert find(retriever, query, top_k=0) == []
        assert find(BM25Retriever(store, top_k=0), query) == []

    def test_top_k_must_not_be_negative(self, store):
        with pytest.raises(ValueError, match="top_k must be at least 0, not -1"):
            BM25Retriever(store, top_k=-1)
        with pytest.raises(ValueError, match="top_k must be at least 0, not -2"):
            BM25Retriever(store).run("Paris", top_k=-2)

    @pytest.mark.parametrize(
        "parameter", [{"k1": -2.0}, {"k1": float("nan")}, {"b": 7.0}, {"epsilon": float("inf")}, {"delta": -1.0}]
    )
    def test_parameters_that_make_no_sense(self, store, parameter):
        [(name, value)] = parameter.items()
        with pytest.raises(ValueError, match=f"{name} must be a number from 0 .*, not {value}"):
            BM25Retriever(store, **parameter)

    def test_a_text_is_no_list_of_questions(self, store):
        with pytest.raises(ValueError, match="needs a query or a list of queries, not None and 'honey'"):
            BM25Retriever(store).run(queries="honey")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"top_k must be at least 0, not 2\.5"):
            BM25Retriever(store).run("honey", top_k=2.5)  # type: ignore[arg-type]

    def test_an_unknown_variant(self, store):
        with pytest.raises(ValueError, match="not 'bm25\\+'"):
            BM25Retriever(store, variant="bm25+")  # type: ignore[arg-type]

    def test_filters_come_before_the_cut(self, store):
        """The filtered passages are the worst of many, and all that were asked for come back."""
        store.write_documents([doc(f"good{i}", "honey honey", kind="good") for i in range(50)])
        store.write_documents([doc(f"bad{i}", "honey and much else to be read here", kind="bad") for i in range(5)])
        retriever = BM25Retriever(store, top_k=3)
        only_bad = {"field": "meta.kind", "operator": "==", "value": "bad"}
        assert find(retriever, "honey", filters=only_bad) == ["bad0", "bad1", "bad2"]
        assert len(find(retriever, "honey", filters=only_bad, top_k=10)) == 5
        assert find(retriever, "mountain", filters=only_bad) == []

    def test_a_filters_rows_are_read_once_until_the_store_changes(self, store, monkeypatch):
        """Reading the meta of a million passages takes longer than searching them."""
        read: list[Any] = []
        rows = SQLiteDocumentStore.rows

        def counting(self: SQLiteDocumentStore, filters: dict[str, Any] | None = None) -> Any:
            read.append(filters)
            return rows(self, filters)

        monkeypatch.setattr(SQLiteDocumentStore, "rows", counting)
        retriever, long = BM25Retriever(store), {"field": "meta.length", "operator": ">", "value": 50}
        assert [find(retriever, "capital", filters=long) for _ in range(3)] == [["berlin"]] * 3
        assert len(read) == 1
        store.update_by_filter({"field": "id", "operator": "==", "value": "paris"}, {"length": 99})
        assert set(find(retriever, "capital", filters=long)) == {"paris", "berlin"}
        assert len(read) == 2
        for i in range(40):
            find(retriever, "capital", filters={"field": "meta.length", "operator": ">", "value": i})
        assert set(find(retriever, "capital", filters={"field": "meta.length", "operator": ">", "value": 39})) == {
            "paris",
            "berlin",
        }
        assert len(read) == 42

    def test_filters_of_a_run_replace_the_configured_ones(self, store):
        long = {"field": "meta.length", "operator": ">", "value": 50}
        retriever = BM25Retriever(store, filters=long)
        assert find(retriever, "capital") == ["berlin"]
        assert find(retriever, "capital", filters={}) == ["paris", "berlin"]
        with pytest.raises(FilterError):
            find(retriever, "capital", filters={"field": "meta.length"})


class TestComponent:
    def test_to_dict_and_back(self, store):
        retriever = BM25Retriever(
            store, 3, {"field": "id", "operator": "!=", "value": "k2"}, "plus", 1.2, 0.5, 0.1, 0.7, False, False
        )
        data = retriever.to_dict()
        assert data["type"] == "needle.components.retrievers.BM25Retriever"
        copy = BM25Retriever.from_dict(retriever.to_dict())
        assert copy.to_dict() == data
        assert copy.run("mountain")["documents"] == retriever.run("mountain")["documents"]

    def test_in_a_pipeline(self, store):
        pipeline = Pipeline()
        pipeline.add_component("retriever", BM25Retriever(store, top_k=1))
        found = pipeline.run({"retriever": {"query": "mountain"}})
        assert [d.id for d in found["retriever"]["documents"]] == ["everest"]

    async def test_run_async(self, store):
        retriever = BM25Retriever(store)
        assert await retriever.run_async("capital", ["honey"], top_k=1) == retriever.run("capital", ["honey"], top_k=1)


class TestFollowingTheStore:
    def test_adds_deletes_and_overwrites(self, store):
        retriever = BM25Retriever(store)
        assert find(retriever, "Everest") == ["everest", "k2"]
        store.write_documents([doc("film", "Everest: a film")])
        assert find(retriever, "Everest film") == ["film", "everest", "k2"]
        store.delete_documents(["k2"])
        assert find(retriever, "Everest") == ["film", "everest"]
        store.write_documents([doc("everest", "Chomolungma")], DuplicatePolicy.OVERWRITE)
        assert find(retriever, "Everest") == ["film"]
        assert find(retriever, "Chomolungma") == ["everest"]

    def test_changed_meta_comes_with_the_documents(self, store):
        retriever = BM25Retriever(store)
        retriever.warm_up()
        store.update_by_filter({"field": "id", "operator": "==", "value": "bees"}, {"new": 1})
        assert retriever.run("bees")["documents"][0].meta["new"] == 1

    def test_changes_by_another_store_object(self, store):
        retriever = BM25Retriever(store)
        retriever.warm_up()
        with SQLiteDocumentStore(store.folder) as other:
            other.write_documents([doc("new", "new Everest")])
            other.delete_documents(["k2"])
            assert find(retriever, "Everest") == ["new", "everest"]
            assert find(other, "Everest") == ["new", "everest"]

    @needs_fork
    def test_changes_by_another_process(self, store):
        retriever = BM25Retriever(store)
        retriever.warm_up()

        def change() -> None:
            store.write_documents([doc("new", "new Everest")])
            store.delete_documents(["k2"])

        process = FORK.Process(target=change)
        process.start()
        process.join()
        assert process.exitcode == 0
        assert find(retriever, "Everest") == ["new", "everest"]

    def test_only_what_is_new_is_analysed(self, store, analysed):
        retriever = BM25Retriever(store)
        assert find(retriever, "honey") == ["bees"]
        assert sorted(analysed) == sorted([*FACTS.values(), "honey"])
        analysed.clear()
        store.write_documents([doc("new", "more honey")])
        store.delete_documents(["k2"])
        assert set(find(retriever, "honey")) == {"bees", "new"}
        assert sorted(analysed) == ["honey", "more honey"]

    def test_scores_are_those_of_an_index_made_anew(self, store):
        retriever = BM25Retriever(store)
        for i in range(30):
            store.write_documents([doc(f"new{i}", f"Everest {'mountain ' * (i % 7)}")])
            store.delete_documents([f"new{i // 2}"] if i % 3 == 0 else [])
            retriever.warm_up()
        query = "highest mountain Everest"
        shutil.rmtree(store.folder / "bm25")
        assert retriever.run(query, top_k=99) == BM25Retriever(store).run(query, top_k=99)

    def test_large_imports_are_indexed_in_batches(self, store, monkeypatch):
        monkeypatch.setattr(BM25StoreIndex, "batch", 2)
        assert find(store, "Everest honey") == ["bees", "everest", "k2"]


class TestSavedIndex:
    def test_it_is_loaded_not_made_anew(self, store, analysed):
        expected = BM25Retriever(store).run("highest mountain")
        files = index_files(store)
        analysed.clear()
        with SQLiteDocumentStore(store.folder) as again:
            assert BM25Retriever(again).run("highest mountain") == expected
        assert analysed == ["highest mountain"]
        assert index_files(store) == files

    def test_what_changed_since_is_all_that_is_analysed_and_written(self, store, analysed):
        retriever = BM25Retriever(store)
        store.write_documents([doc(f"n{i}", "number") for i in range(20)])
        retriever.warm_up()
        for source in (retriever, BM25Retriever(store)):  # the one that has built it, and one that loads it
            segments = {k: v for k, v in index_files(store).items() if k.endswith(".npy")}
            analysed.clear()
            store.write_documents([doc(f"new{len(segments)}", "new")])
            source.warm_up()
            assert analysed == ["new"]
            assert segments.items() < index_files(store).items() or len(segments) > 6
        assert len(find(store, "number new", top_k=99)) == 22

    def test_a_deleted_one_is_made_anew(self, store):
        retriever = BM25Retriever(store)
        retriever.warm_up()
        shutil.rmtree(store.folder / "bm25")
        assert find(retriever, "honey") == ["bees"]
        assert find(store, "honey") == ["bees"]
        shutil.rmtree(store.folder / "bm25")
        store.write_documents([doc("new", "honey")])
        assert set(find(retriever, "honey")) == set(find(store, "honey")) == {"bees", "new"}

    @pytest.mark.parametrize("size", [0, 60, 140])
    def test_a_damaged_one_is_made_anew(self, store, size):
        expected = BM25Retriever(store).run("highest mountain")
        for file in [p for p in index_folder(store).rglob("*") if p.is_file()]:
            if file.exists() and file.stat().st_size > size:
                os.truncate(file, size)
        assert BM25Retriever(store).run("highest mountain") == expected

    def test_another_stores_index_is_not_used(self, store, tmp_path):
        BM25Retriever(store).warm_up()
        with SQLiteDocumentStore(tmp_path / "other") as other:
            # As many documents with the same row numbers.
            other.write_documents([doc(f"o{i}", f"other {i}") for i in range(len(FACTS))])
            shutil.copytree(store.folder / "bm25", other.folder / "bm25")
            assert find(other, "Everest capital honey") == []
            assert len(find(other, "other")) == len(FACTS)

    def test_a_store_set_back_to_a_backup(self, store, tmp_path):
        BM25Retriever(store).warm_up()
        store.close()
        folder, backup = tmp_path / "store", tmp_path / "backup"
        shutil.copytree(folder, backup, ignore=shutil.ignore_patterns("bm25"))
        with SQLiteDocumentStore(folder) as lost:
            lost.write_documents([doc("lost", "lost honey"), doc("lost too", "honey too")])
            assert len(find(lost, "honey")) == 3
        for file in folder.glob("needle.sqlite*"):
            file.unlink()
        shutil.copytree(backup, folder, dirs_exist_ok=True)
        with SQLiteDocumentStore(folder) as old:
            assert find(old, "honey") == ["bees"]
        with SQLiteDocumentStore(folder) as old:  # now the row numbers of the lost documents are others'
            old.write_documents([doc("a", "zebra"), doc("b", "zebra too")])
            assert find(old, "honey") == ["bees"]
            assert find(old, "zebra") == ["a", "b"]

    def test_set_back_and_changed_before_the_next_search(self, store, tmp_path):
        store.close()
        folder, backup = tmp_path / "store", tmp_path / "backup"
        shutil.copytree(folder, backup)
        with SQLiteDocumentStore(folder) as lost:
            lost.write_documents([doc("lost", "lost honey")])
            assert len(find(lost, "honey")) == 2
        shutil.copytree(folder / "bm25", backup / "bm25")
        with SQLiteDocumentStore(backup) as old:
            old.write_documents([doc("a", "zebra")])
            assert (find(old, "honey"), find(old, "zebra")) == (["bees"], ["a"])

    def test_the_store_changes_while_its_rows_are_indexed(self, store):
        """The index saved is that of the moment at which it was begun: a store set back to that finds itself in it."""

        class Busy(SQLiteDocumentStore):
            def contents(self, rows: Any) -> Any:
                contents = list(super().contents(rows))
                if len(rows) == len(FACTS):
                    self.write_documents([doc("new", "meanwhile")])
                    self.delete_documents(["k2"])
                return iter(contents)

        with SQLiteDocumentStore(store.folder) as before:
            revision = before.revision
        with Busy(store.folder) as busy:
            retriever = BM25Retriever(busy)
            assert find(retriever, "meanwhile") == []
            saved = bm25_files.load_index(index_folder(busy), "v2-stop-stem")
            assert (saved.revision, saved.complete, len(saved.index.rows)) == (revision, True, len(FACTS))
            assert revision != busy.revision
            assert find(retriever, "meanwhile Everest") == ["new", "everest"]

    def test_where_it_can_not_be_saved_it_stays_in_memory(self, store, caplog, analysed):
        (store.folder / "bm25").write_text("a file where the folder should be")
        retriever = BM25Retriever(store)
        with caplog.at_level(logging.WARNING):
            assert find(retriever, "honey") == ["bees"]
        assert "can't be saved beside the store" in caplog.text
        caplog.clear()
        analysed.clear()
        assert find(retriever, "honey") == ["bees"]
        assert (analysed, caplog.text) == (["honey"], "")

    @pytest.mark.skipif(not hasattr(os, "setuid"), reason="this system has no read-only folders")
    def test_a_read_only_store(self):
        folder = Path(tempfile.mkdtemp())
        try:
            with SQLiteDocumentStore(folder) as store:
                store.write_documents([doc("bees", "honey")])
            folder.chmod(0o555)
            (folder / "needle.sqlite").chmod(0o444)
            code = f"""
                from needle.components.retrievers import BM25Retriever
                from needle.components.store import SQLiteDocumentStore
                import os
                if os.geteuid() == 0:
                    os.setuid(65534)  # root may write anywhere
                retriever = BM25Retriever(SQLiteDocumentStore({str(folder)!r}))
                print([d.id for _ in range(2) for d in retriever.run("honey")["documents"]])
            """
            command = [sys.executable, "-c", textwrap.dedent(code)]
            result = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert result.returncode == 0, result.stderr
            assert result.stdout == "['bees', 'bees']\n"
            assert result.stderr.count("can't be saved beside the store") == 1
            assert not (folder / "bm25").exists()
        finally:
            folder.chmod(0o755)
            shutil.rmtree(folder)


def search_until(done: Any, folder: Path, top_k: int = 5) -> int:
    """Search again and again; whatever a writer does, what comes back is whole, right, and as much as was asked for."""
    searches = 0
    with SQLiteDocumentStore(folder) as store:
        retriever = BM25Retriever(store, top_k=top_k)
        while not done.is_set() or searches == 0:
            check(retriever.run("honey", ["honey", "wax"]), top_k)
            searches += 1
    return searches


def check(found: dict[str, Any], top_k: int) -> None:
    for documents, word in zip([found["documents"], *found["documents_per_query"]], ["honey", "honey", "wax"], strict=True):
        assert len({d.id for d in documents}) == len(documents) == top_k
        for document in documents:
            assert document.id.startswith(word)
            assert word in document.content.split()


def write_and_delete(store: SQLiteDocumentStore, rounds: int) -> None:
    """Deletes always the oldest, which come first among equals; 20 of each word are there at any time."""
    for i in range(rounds):
        store.write_documents([doc(f"{word}{i + 20}", f"{word} {i}") for word in ("honey", "wax")])
        store.delete_documents([f"honey{i}", f"wax{i}"])


class TestAtOnce:
    @pytest.fixture
    def busy(self, tmp_path):
        with SQLiteDocumentStore(tmp_path / "busy") as store:
            store.write_documents([doc(f"{word}{i}", f"{word} {i}") for i in range(20) for word in ("honey", "wax")])
            find(store, "honey")  # compiled here, if it is not yet, and not in every process
            yield store

    def test_threads_with_their_own_retrievers(self, busy):
        done = threading.Event()
        with ThreadPoolExecutor() as pool:
            searches = [pool.submit(search_until, done, busy.folder) for _ in range(2)]
            write_and_delete(busy, 100)
            done.set()
            assert all(s.result() > 0 for s in searches)
        assert find(busy, "honey", top_k=99) == [f"honey{i}" for i in range(100, 120)]

    def test_threads_with_one_retriever(self, busy):
        retriever, done = BM25Retriever(busy, top_k=5), threading.Event()

        def search() -> None:
            while not done.is_set():
                check(retriever.run("honey", ["honey", "wax"]), 5)

        with ThreadPoolExecutor() as pool:
            searches = [pool.submit(search) for _ in range(3)]
            write_and_delete(busy, 100)
            done.set()
            for s in searches:
                s.result()
        assert find(retriever, "honey", top_k=99) == [f"honey{i}" for i in range(100, 120)]

    @needs_fork
    def test_processes(self, busy):
        done = FORK.Event()
        processes = [FORK.Process(target=search_until, args=(done, busy.folder)) for _ in range(2)]
        for process in processes:
            process.start()
        write_and_delete(busy, 100)
        done.set()
        for process in processes:
            process.join(300)
            assert process.exitcode == 0
        assert find(busy, "honey", top_k=99) == [f"honey{i}" for i in range(100, 120)]
