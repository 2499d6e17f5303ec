"""An index in shards: what it finds is what a single one does, to the last digit; their number can change at any time."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from haystack import Document, Pipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from needle.components import retrievers, segments, shards, vector_files
from needle.components.analysis import Analyzer
from needle.components.bm25 import BM25Index
from needle.components.bm25_weights import Statistics, Weights
from needle.components.embedder import Embedder
from needle.components.retrievers import BM25Retriever, DenseRetriever
from needle.components.shards import BM25Shards
from needle.components.store import SQLiteDocumentStore
from needle.data import SHIPPED_CORPUS
from needle.data.squad import read_squad
from needle.pipelines import load_pipeline

FORK: Any = multiprocessing.get_context("fork") if hasattr(os, "fork") else None
needs_fork = pytest.mark.skipif(FORK is None, reason="this system can't fork")
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

VARIANTS = ("okapi", "l", "plus")
NUMBERS = (1, 2, 3, 7)
LONG = {"field": "meta.length", "operator": ">", "value": 400}
RETRIEVERS = pytest.mark.parametrize("retriever", [BM25Retriever, DenseRetriever])

SQUAD = read_squad(SHIPPED_CORPUS / "questions.json")
PARAGRAPHS = list(dict.fromkeys(question.context for question in SQUAD))[:80]
QUESTIONS = [question.question for question in SQUAD[:12]]


def written(store: SQLiteDocumentStore, contents: list[str], name: str = "p") -> None:
    store.write_documents(
        [Document(id=f"{name}{i}", content=text, meta={"length": len(text)}) for i, text in enumerate(contents)]
    )


@pytest.fixture
def store(tmp_path: Path):
    with SQLiteDocumentStore(tmp_path / "store") as store:
        written(store, PARAGRAPHS)
        yield store


@pytest.fixture
def analysed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All passages that have been analysed."""
    texts: list[str] = []

    class Recording(Analyzer):
        def encode(self, passages: Any, vocabulary: dict[str, int]) -> Any:
            texts.extend(passages)
            return super().encode(passages, vocabulary)

    monkeypatch.setattr(retrievers, "Analyzer", Recording)
    return texts


@pytest.fixture(autouse=True)
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All passages that have been embedded, by a model whose vectors are sums of random ones of the words."""
    texts: list[str] = []

    class Words(Embedder):
        fingerprint, similarity = "words", "dot"  # type: ignore[assignment]

        def passages(self, some: Any) -> Any:
            texts.extend(some)
            return self.questions(some)

        def questions(self, some: Any) -> Any:
            return np.array([sum(map(vector_of, text.split()), np.zeros(32)) for text in some], np.float32)

    monkeypatch.setattr(vector_files, "Embedder", Words)
    return texts


@cache
def vector_of(word: str) -> Any:
    seed = int.from_bytes(hashlib.blake2b(word.lower().encode(), digest_size=4).digest(), "big")
    return np.random.default_rng(seed).standard_normal(32)


def found(retriever: Any, questions: list[str] = QUESTIONS, **how: Any) -> list[list[tuple[str, float]]]:
    """Ids and scores; every comparison of these is to the last digit."""
    results = retriever.run(queries=questions, **how)["documents_per_query"]
    return [[(document.id, document.score) for document in documents] for documents in results]


def folder_of(store: SQLiteDocumentStore, retriever: type) -> Path:
    return store.folder / ("bm25/v2-stop-stem" if retriever is BM25Retriever else "vectors")


def kept_in(store: SQLiteDocumentStore, retriever: type) -> int:
    """How many shards the manifest names."""
    return len(json.loads((folder_of(store, retriever) / "manifest.json").read_text()).get("shards", [{}]))


class TestBM25:
    @settings(max_examples=50)
    @given(data=st.data())
    def test_any_number_of_shards_finds_what_a_single_index_finds(self, data):
        """However passages came and went. Some terms are in most passages, so that Okapi's idf is floored by the mean of all
        terms; queries are long enough for a sum's order to matter."""
        n = data.draw(st.sampled_from(NUMBERS))
        single, parts = BM25Shards([BM25Index()]), BM25Shards([BM25Index() for _ in range(n)])
        passages = st.lists(st.lists(st.sampled_from("aabbccdefghijklm"), max_size=8).map(" ".join), max_size=12)
        query = st.lists(st.sampled_from("abcdefghijklmxy"), max_size=12)
        left, row, analyzer = dict[int, str](), 0, Analyzer(stop_words=False)
        for _ in range(data.draw(st.integers(1, 4))):
            new = data.draw(passages)
            rows, row = range(row, row + len(new)), row + len(new) + data.draw(st.integers(0, 2))
            gone = data.draw(st.lists(st.integers(0, row), max_size=6))
            left |= zip(rows, new, strict=True)
            left = {at: text for at, text in left.items() if at not in gone}
            changed = []
            for index in (single, parts):
                index = index.copy()
                index.add_texts(rows, new, analyzer)
                index.remove(np.array(gone, np.int64))
                changed.append(index)
            single, parts = changed
            anew = BM25Shards([BM25Index()])
            anew.add_texts(list(left), list(left.values()), analyzer)
            queries = data.draw(st.lists(query, min_size=1, max_size=3))
            among = data.draw(st.none() | st.sets(st.integers(0, 50)).map(lambda rows: np.array(sorted(rows), np.int64)))
            how = data.draw(st.sampled_from(VARIANTS)), 1.5, 0.75, data.draw(st.sampled_from([0.25, 1.0])), None
            k = data.draw(st.sampled_from([1, 3, 100]))
            results = [index.top_k_many(queries, k, among, how) for index in (single, parts, anew)]
            one, several, fresh = ([(rows.tolist(), scores.tolist()) for rows, scores in some] for some in results)
            assert one == several == fresh

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_weights_depend_neither_on_the_order_of_terms_nor_on_terms_that_are_gone(self, variant):
        """Which differ between a shard's vocabulary and a single index's; sums of floats depend on their order."""
        for seed in range(20):
            draw = np.random.default_rng(seed)
            df = np.append(draw.integers(1, 100, 1000), np.zeros(500, np.int64))
            order, names = draw.permutation(len(df)), [f"t{i}" for i in range(len(df))]
            how = variant, 1.5, 0.75, 0.25, None
            one = Weights.of(dict(zip(names, range(len(df)), strict=True)), Statistics(df, 100, 4321), how)
            shuffled = {names[at]: i for i, at in enumerate(order)}
            other = Weights.of(shuffled, Statistics(df[order], 100, 4321), how)
            assert other.idf.tolist() == one.idf[order].tolist()
            query = [names[i] for i in draw.integers(0, len(df), 40)]
            alive = [name for name in query if df[int(name[1:])]]
            assert one.of_query(query)[2] == one.of_query(alive)[2] == other.of_query(query)[2]

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_scores_of_real_questions_are_the_same(self, store, variant):
        retriever = [BM25Retriever(store, variant=variant, stop_words=False, shards=n) for n in NUMBERS]
        cases: list[dict[str, Any]] = [{}, {"filters": LONG}, {"top_k": 5000}]
        results = [[found(one, **how) for how in cases] for one in retriever]
        assert results == [results[0]] * len(NUMBERS)
        assert all(len(documents) == 10 for documents in results[0][0])
        store.delete_by_filter({"field": "meta.length", "operator": "<", "value": 300})
        written(store, [f"{text} {text}" for text in PARAGRAPHS[:20]], "new")
        changed = [[found(one, **how) for how in cases] for one in retriever]
        assert changed == [changed[0]] * len(NUMBERS)
        assert changed[0] != results[0]

    def test_terms_are_numbered_once_for_all_shards(self, store):
        """Not anew for every question, nor where a shard got no new terms."""
        retriever = BM25Retriever(store, shards=2)
        found(retriever)
        before = retriever._index.current().index
        scorers = before._scorers_by(("okapi", 1.5, 0.75, 0.25, None))
        found(retriever)
        assert retriever._index.current().index._scorers_by(("okapi", 1.5, 0.75, 0.25, None)) is scorers
        assert scorers[0].weights is scorers[1].weights
        store.delete_documents(["p3"])
        found(retriever)
        after = retriever._index.current().index
        assert after is not before
        assert all(a is b for a, b in zip(after._terms.of_vocabularies, before._terms.of_vocabularies, strict=True))


class TestVectors:
    def test_scores_are_the_same(self, store, embedded):
        cases: list[dict[str, Any]] = [{}, {"filters": LONG}, {"top_k": 5000}]
        retriever = [DenseRetriever(store, shards=n) for n in NUMBERS]
        results = [[found(one, **how) for how in cases] for one in retriever]
        assert results == [results[0]] * len(NUMBERS)
        assert len(embedded) == len(PARAGRAPHS), "another number embeds nothing again"
        store.delete_by_filter({"field": "meta.length", "operator": "<", "value": 300})
        written(store, [f"{text} {text}" for text in PARAGRAPHS[:20]], "new")
        changed = [[found(one, **how) for how in cases] for one in retriever]
        assert changed == [changed[0]] * len(NUMBERS)
        assert len(embedded) == len(PARAGRAPHS) + 20

    def test_equal_vectors_come_in_row_order(self, tmp_path):
        with SQLiteDocumentStore(tmp_path) as store:
            written(store, ["equal"] * 50)
            for n in NUMBERS:
                assert [i for i, _ in found(DenseRetriever(store, shards=n), ["equal"])[0]] == [f"p{i}" for i in range(10)]

    def test_any_number_can_be_made_of_any_other_while_passages_come_and_go(self, store, embedded):
        for step, n in enumerate([3, 2, 7, 1, 4]):
            written(store, [f"new passage of step {step} and number {i}" for i in range(9)], f"step{step}-")
            store.delete_documents([f"p{7 * step + i}" for i in range(5)])
            retriever = DenseRetriever(store, shards=n)
            results = found(retriever)
            for shard, part in enumerate(retriever._index.current().index.parts):
                assert (part.rows % n == shard).all()
                assert (np.diff(part.rows) > 0).all()
            with SQLiteDocumentStore(store.folder) as again:
                assert found(DenseRetriever(again)) == results
        assert len(embedded) == len(PARAGRAPHS) - 5 + 5 * 9, "each once"
        shutil.rmtree(store.folder / "vectors")
        assert found(DenseRetriever(store)) == results, "as if embedded anew"

    def test_shards_of_many_vectors_are_searched_by_graphs(self, store):
        pytest.importorskip("faiss")
        retriever = DenseRetriever(store, shards=2, approximate_from=30)
        retriever.warm_up()
        assert len(list(store.folder.glob("vectors/shard-*-of-2/segment-*/graph.faiss"))) == 2
        exact = found(DenseRetriever(store))
        shared = sum(len(set(a) & set(b)) for a, b in zip(found(retriever), exact, strict=True))
        assert shared >= 0.95 * sum(map(len, exact))


@RETRIEVERS
class TestNumber:
    def test_one_shard_is_kept_as_ever(self, store, retriever):
        retriever(store).warm_up()
        files = {path.name.split("-")[0] for path in folder_of(store, retriever).iterdir()}
        assert files == {"manifest.json", "lock", "segment"} | ({"vocabulary"} if retriever is BM25Retriever else set())

    def test_every_shard_has_its_folder_with_its_rows(self, store, retriever):
        retriever(store, shards=3).warm_up()
        folders = [path for path in folder_of(store, retriever).iterdir() if path.is_dir()]
        assert {folder.name for folder in folders} == {f"shard-{i}-of-3" for i in range(3)}
        for folder in folders:
            rows = np.concatenate([np.load(file) for file in folder.glob("segment-*/rows.npy")])
            assert set(rows % 3) == {int(folder.name.split("-")[1])}

    def test_more_shards_than_documents_and_none(self, tmp_path, retriever):
        with SQLiteDocumentStore(tmp_path) as store:
            some = retriever(store, shards=7)
            assert found(some, ["a b"]) == [[]]
            written(store, ["a b", "b c"])
            assert {i for i, _ in found(some, ["a b"])[0]} == {"p0", "p1"}
            with SQLiteDocumentStore(tmp_path) as again:
                assert found(retriever(again), ["a b"]) == found(some, ["a b"]) == found(retriever(again, shards=1), ["a b"])
            store.delete_all_documents()
            assert found(some, ["a b"]) == [[]]

    def test_the_number_is_found_by_who_names_none(self, store, retriever, analysed, embedded):
        expected = found(retriever(store, shards=2))
        analysed.clear()
        embedded.clear()
        with SQLiteDocumentStore(store.folder) as again:
            other = retriever(again)
            assert found(other) == expected
            assert (analysed, embedded) == ([], [])
            written(again, ["one more"], "more")
            found(other)
        assert kept_in(store, retriever) == 2
        assert analysed + embedded == ["one more"]

    def test_who_runs_and_names_none_follows_another_who_changes_it(self, store, retriever, analysed, embedded):
        running = retriever(store)
        expected = found(running)
        with SQLiteDocumentStore(store.folder) as again:
            retriever(again, shards=3).warm_up()
        assert found(running) == expected
        written(store, ["one more"], "more")
        analysed.clear()
        embedded.clear()
        found(running)
        assert kept_in(store, retriever) == 3
        assert analysed + embedded == ["one more"]

    def test_who_names_another_number_makes_it_that(self, store, retriever):
        """Both go on finding all, whoever was the last."""
        mine, others = retriever(store, shards=2), retriever(store, shards=1)
        for i in range(3):
            written(store, [f"zebra {i}"], f"zebra{i}-")
            for one, number in ((mine, 2), (others, 1)):
                assert len(found(one, [f"zebra {i}"], top_k=500)[0]) >= i + 1
                assert kept_in(store, retriever) == number

    def test_the_old_one_goes_when_the_new_one_is_saved(self, store, retriever, monkeypatch):
        monkeypatch.setattr(segments, "LITTER_AGE", -1)  # what no manifest names goes at once
        folder = folder_of(store, retriever)
        for n in (1, 2, 3, 1):
            retriever(store, shards=n).warm_up()
            shard_folders = {path.name for path in folder.iterdir() if path.name.startswith("shard-")}
            assert shard_folders == {f"shard-{i}-of-{n}" for i in range(n) if n > 1}
            assert bool(list(folder.glob("segment-*"))) == (n == 1)

    @needs_fork
    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_who_is_killed_while_changing_it_leaves_a_whole_one(self, store, retriever, moment, monkeypatch, embedded):
        expected = found(retriever(store))
        embedded.clear()
        replace = os.replace

        def killed(source: Any, target: Any) -> None:
            if moment == "after":
                replace(source, target)
            os.kill(os.getpid(), signal.SIGKILL)

        def change() -> None:
            monkeypatch.setattr(os, "replace", killed)
            with SQLiteDocumentStore(store.folder) as again:
                retriever(again, shards=2).warm_up()

        process = FORK.Process(target=change)
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert kept_in(store, retriever) == (1 if moment == "before" else 2)
        with SQLiteDocumentStore(store.folder) as again:
            assert found(retriever(again)) == expected
            assert found(retriever(again, shards=2)) == expected
        assert embedded == []

    def test_where_it_can_not_be_saved_it_is_searched_all_the_same(self, store, retriever, monkeypatch):
        expected = found(retriever(store))

        def fail(*args: object, **kwargs: object) -> None:
            raise OSError("No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(np, "save", fail)
            assert found(retriever(store, shards=2)) == expected
        assert kept_in(store, retriever) == 1

    def test_it_must_be_a_number(self, store, retriever):
        for bad in (0, -1, 2.5):
            with pytest.raises(ValueError, match=f"shards must be at least 1, or None, not {bad}"):
                retriever(store, shards=bad)


@RETRIEVERS
class TestDamage:
    @pytest.mark.parametrize("damage", ["gone", "cut"])
    def test_only_the_damaged_shard_is_made_anew(self, store, retriever, damage, analysed, embedded, caplog):
        expected = found(retriever(store, shards=3))
        analysed.clear()
        embedded.clear()
        folder = folder_of(store, retriever) / "shard-1-of-3"
        whole = {file: file.stat().st_mtime_ns for file in folder.parent.rglob("*.npy") if file.parent.parent != folder}
        if damage == "gone":
            shutil.rmtree(folder)
        else:
            for file in folder.rglob("*.npy"):
                os.truncate(file, file.stat().st_size // 2)
        with SQLiteDocumentStore(store.folder) as again:
            assert found(retriever(again)) == expected
            contents = [document.content for document in again.documents_at(np.arange(1, 1000, 3)).values()]
        assert sorted(analysed + embedded) == sorted(contents)
        assert "shard-1-of-3' is damaged and is made anew" in caplog.text
        assert all(file.stat().st_mtime_ns == time for file, time in whole.items())
        analysed.clear()
        embedded.clear()
        with SQLiteDocumentStore(store.folder) as again:
            assert found(retriever(again)) == expected
        assert analysed + embedded == [], "and it has been saved"

    @pytest.mark.parametrize("of_shards", [[], [{}, {}], 3, ["segments"]])
    def test_a_manifest_that_names_no_shards(self, store, retriever, of_shards):
        expected = found(retriever(store, shards=2))
        manifest = folder_of(store, retriever) / "manifest.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"shards": of_shards}))
        with SQLiteDocumentStore(store.folder) as again:
            assert found(retriever(again)) == expected


@RETRIEVERS
class TestAtOnce:
    def test_many_questions_and_one_find_the_same_in_a_thread_for_each_shard_and_in_one(self, store, retriever, monkeypatch):
        expected = found(retriever(store))
        for least in (0, 10**9):
            monkeypatch.setattr(shards, "_SEARCHED_BY_A_THREAD", least)
            some = retriever(store, shards=3)
            assert found(some) == expected
            assert [found(some, [question])[0] for question in QUESTIONS] == expected

    def test_two_threads_ask_while_a_third_writes_and_a_fourth_changes_the_number(self, tmp_path, retriever, monkeypatch):
        """With every file deleted as soon as no manifest names it."""
        monkeypatch.setattr(segments, "LITTER_AGE", -1)
        done, folder = threading.Event(), tmp_path / "busy"

        def while_busy(work: Callable[[SQLiteDocumentStore], Any]) -> int:
            times = 0
            with SQLiteDocumentStore(folder) as store:
                asked = work(store)
                while not done.is_set() or not times:
                    asked(times)
                    times += 1
            return times

        def ask(store: SQLiteDocumentStore) -> Callable[[int], None]:
            some = retriever(store, top_k=20)

            def check(_: int) -> None:
                [honey, wax] = found(some, ["honey", "wax"])
                assert len(honey) == len(wax) == 20
                if retriever is BM25Retriever:
                    assert {i.split("-")[0] for i, _ in honey} == {"honey"}
                assert [score for _, score in honey] == sorted((score for _, score in honey), reverse=True)

            return check

        def change(store: SQLiteDocumentStore) -> Callable[[int], None]:
            return lambda times: retriever(store, shards=1 + times % 3).warm_up()

        with SQLiteDocumentStore(folder) as store, ThreadPoolExecutor() as pool:
            for word in ("honey", "wax"):
                written(store, [f"{word} {i}" for i in range(30)], f"{word}-")
            busy = [pool.submit(while_busy, work) for work in (ask, ask, change)]
            for i in range(40):
                for word in ("honey", "wax"):
                    written(store, [f"{word} {i}"], f"{word}-{i}-")
                    store.delete_documents([f"{word}-{i}"] if i < 30 else [f"{word}-{i - 30}-0"])
            done.set()
            assert all(one.result() > 0 for one in busy)
            assert len(found(retriever(store), ["honey"], top_k=99)[0]) >= 30


class TestPipelines:
    @RETRIEVERS
    def test_to_dict_and_back(self, store, retriever):
        data = retriever(store, shards=3).to_dict()
        assert data["init_parameters"]["shards"] == 3
        copy = retriever.from_dict(json.loads(json.dumps(data)))
        assert copy.to_dict() == data
        assert found(copy) == found(retriever(store, shards=1))

    def test_a_definition_says_it(self, store):
        pipeline = load_pipeline("bm25_qa", store=store.folder)
        data = yaml.safe_load(pipeline.dumps())
        assert data["components"]["retriever"]["init_parameters"]["shards"] is None
        data["components"]["retriever"]["init_parameters"]["shards"] = 2
        retriever = Pipeline.loads(yaml.safe_dump(data), allowed_modules=["needle.*"]).get_component("retriever")
        expected = found(BM25Retriever(store))
        assert found(retriever) == expected
        assert kept_in(store, BM25Retriever) == 2
