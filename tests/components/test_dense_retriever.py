"""DenseRetriever: what it finds, that its vectors follow the store, survive, and are never another model's."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from haystack import Document
from safetensors.numpy import load_file, save_file

from needle.components import segments
from needle.components.embedder import DEFAULT_EMBEDDER, Embedder, _source
from needle.components.retrievers import DenseRetriever
from needle.components.store import SQLiteDocumentStore
from needle.components.vector_files import VectorStoreIndex
from needle.data.errors import ModelError, StoreError

FACTS = {
    "paris": "Paris is the capital of France.",
    "everest": "Mount Everest is the highest mountain on Earth.",
    "bees": "Honey bees make honey from nectar.",
    "dog": "A dog is man's best friend.",
}


def doc(id_: str, content: str | None = "text", **meta: Any) -> Document:
    return Document(id=id_, content=content, meta=meta)


@pytest.fixture
def store(tmp_path: Path):
    with SQLiteDocumentStore(tmp_path / "store") as store:
        store.write_documents([doc(id_, content, length=len(content)) for id_, content in FACTS.items()])
        yield store


@pytest.fixture(autouse=True)
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All passages that have been embedded, in order; all embedders of the default model share its weights."""
    texts: list[str] = []
    loaded: dict[tuple[str, str | None], Any] = {}
    passages, load = Embedder.passages, Embedder._load

    def recording(self: Embedder, some: list[str]) -> Any:
        texts.extend(some)
        return passages(self, some)

    def loading_once(self: Embedder) -> Any:
        if self._loaded is None and (self.model, self.device) in loaded:
            self._loaded = loaded[self.model, self.device]
        loaded[self.model, self.device] = load(self)
        return loaded[self.model, self.device]

    monkeypatch.setattr(Embedder, "passages", recording)
    monkeypatch.setattr(Embedder, "_load", loading_once)
    return texts


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose vectors are not the default one's."""
    folder = shutil.copytree(_source(DEFAULT_EMBEDDER), tmp_path_factory.mktemp("models") / "other")
    weights = load_file(folder / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    weights[name] = np.ascontiguousarray(weights[name][:, ::-1])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def find(source: DenseRetriever | SQLiteDocumentStore, query: str, **arguments: Any) -> list[str]:
    retriever = DenseRetriever(source) if isinstance(source, SQLiteDocumentStore) else source
    return [d.id for d in retriever.run(query, **arguments)["documents"]]


class TestFinding:
    def test_by_meaning_best_first(self, store):
        documents = DenseRetriever(store).run("Which insects produce something sweet?")["documents"]
        assert documents[0].id == "bees"
        assert [d.score for d in documents] == sorted((d.score for d in documents), reverse=True)
        assert len(documents) == len(FACTS), "every passage is near to some degree"
        assert documents[0].meta == {"length": len(FACTS["bees"])}

    def test_the_score_is_the_cosine(self, store):
        [best] = DenseRetriever(store, top_k=1).run("pets")["documents"]
        embedder = Embedder()
        assert best.score == pytest.approx(
            float(embedder.passages([best.content])[0] @ embedder.questions(["pets"])[0]), abs=1e-2
        )

    def test_many_questions_at_once(self, store):
        found = DenseRetriever(store, top_k=1).run(queries=["the tallest peak", "French cities"])["documents_per_query"]
        assert [[d.id for d in documents] for documents in found] == [["everest"], ["paris"]]
        assert DenseRetriever(store).run(queries=[]) == {"documents_per_query": []}

    async def test_run_async(self, store):
        retriever = DenseRetriever(store)
        assert await retriever.run_async("capital", top_k=1) == retriever.run("capital", top_k=1)

    def test_filters_come_before_the_cut(self, store):
        long = {"field": "meta.length", "operator": ">", "value": 40}
        assert find(store, "friend", top_k=1) == ["dog"]
        assert find(store, "friend", top_k=1, filters=long) == ["everest"]

    def test_an_empty_store(self, tmp_path, embedded):
        with SQLiteDocumentStore(tmp_path / "empty") as empty:
            retriever = DenseRetriever(empty)
            assert find(retriever, "anything") == []
            empty.write_documents([doc("a", "Paris")])
            assert find(retriever, "anything") == ["a"]

    def test_bad_values(self, store):
        with pytest.raises(ValueError, match="not 'euclidean'"):
            DenseRetriever(store, similarity="euclidean")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="top_k must be at least 0"):
            DenseRetriever(store, top_k=-1)
        with pytest.raises(ModelError, match="'no/such' can't be loaded"):
            find(DenseRetriever(store, model="no/such"), "x")

    def test_to_dict_and_back(self, store):
        data = DenseRetriever(store, "some/model", 3, None, "dot", "cpu").to_dict()
        assert DenseRetriever.from_dict(json.loads(json.dumps(data))).to_dict() == data


class TestFollowingTheStore:
    def test_only_what_is_new_is_embedded(self, store, embedded):
        retriever = DenseRetriever(store)
        retriever.warm_up()
        assert sorted(embedded) == sorted(FACTS.values())
        embedded.clear()
        store.write_documents([doc("wax", "Bees make wax, too.")])
        store.delete_documents(["bees"])
        assert find(retriever, "bees", top_k=1) == ["wax"]
        assert find(store, "bees", top_k=1) == ["wax"], "loaded by another retriever"
        assert embedded == ["Bees make wax, too."]

    def test_progress_is_told(self, store):
        told: list[tuple[int, int]] = []
        DenseRetriever(store).update(lambda *numbers: told.append(numbers))
        assert told == [(4, 4)]

    def test_an_interrupted_update_is_resumed(self, store, embedded, monkeypatch):
        monkeypatch.setattr(VectorStoreIndex, "batch", 1)

        def interrupted(done: int, total: int) -> None:
            if done == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            DenseRetriever(store).update(interrupted)
        first = list(embedded)
        embedded.clear()
        assert find(store, "friend", top_k=1) == ["dog"]
        assert (len(first), sorted(first + embedded)) == (3, sorted(FACTS.values()))

    def test_a_killed_update_is_resumed(self, store, embedded):
        """kill -9 while it embeds: what was saved before is not embedded again, and all is found."""
        code = f"""
            import os, signal
            from needle.components.retrievers import DenseRetriever
            from needle.components.store import SQLiteDocumentStore
            from needle.components.vector_files import VectorStoreIndex
            VectorStoreIndex.batch, VectorStoreIndex.checkpoint_s = 1, 0.0
            def kill(done, total):
                if done == 3:
                    os.kill(os.getpid(), signal.SIGKILL)
            DenseRetriever(SQLiteDocumentStore({str(store.folder)!r})).update(kill)
        """
        killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, timeout=120)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert find(store, "friend", top_k=1) == ["dog"]
        assert len(embedded) == 2

    def test_what_another_process_has_embedded_is_not_embedded_again(self, store, embedded):
        mine = DenseRetriever(store)
        mine.warm_up()
        store.write_documents([doc("wax", "Bees make wax, too.")])
        with SQLiteDocumentStore(store.folder) as again:
            DenseRetriever(again).warm_up()
        embedded.clear()
        assert set(find(mine, "bees", top_k=2)) == {"bees", "wax"}
        store.write_documents([doc("more", "And propolis.")])
        assert len(find(mine, "bees")) == 6
        assert embedded == ["And propolis."]

    def test_of_two_that_save_the_later_one_begins_with_what_the_other_has_saved(self, store, embedded, monkeypatch):
        """Neither writes a manifest that names what the other has deleted."""
        monkeypatch.setattr(segments, "LITTER_AGE", -1)  # what no manifest names goes at once
        one, other = DenseRetriever(store), DenseRetriever(store)
        for i in range(8):
            store.write_documents([doc(f"n{i}", f"number {i}")])
            for retriever in (one, other):
                assert len(find(retriever, "number", top_k=99)) == len(FACTS) + i + 1
        embedded.clear()
        assert len(find(store, "number", top_k=99)) == len(FACTS) + 8
        assert embedded == []

    def test_a_failed_update_is_resumed_in_the_same_process(self, store, embedded, monkeypatch):
        monkeypatch.setattr(VectorStoreIndex, "batch", 1)
        retriever, passages = DenseRetriever(store), Embedder.passages

        def failing(self: Embedder, texts: list[str]) -> Any:
            if len(embedded) == 3:
                raise RuntimeError("out of memory")
            return passages(self, texts)

        with monkeypatch.context() as patch:
            patch.setattr(Embedder, "passages", failing)
            with pytest.raises(RuntimeError, match="out of memory"):
                find(retriever, "friend")
        assert find(retriever, "friend", top_k=1) == ["dog"]
        assert sorted(embedded) == sorted(FACTS.values())

    def test_vectors_that_can_not_be_read_are_no_reason_to_embed_anew(self, store, embedded):
        DenseRetriever(store).warm_up()
        embedded.clear()
        manifest = store.folder / "vectors" / "manifest.json"
        content = manifest.read_text()
        manifest.unlink()
        manifest.mkdir()
        with pytest.raises(StoreError, match="can't be read"):
            find(store, "friend")
        manifest.rmdir()
        manifest.write_text(content)
        assert find(store, "friend", top_k=1) == ["dog"]
        assert embedded == []

    def test_damaged_vectors_are_made_anew_and_it_is_told(self, store, embedded, caplog):
        expected = DenseRetriever(store).run("pets")
        for file in list((store.folder / "vectors").rglob("*.npy")):
            os.truncate(file, file.stat().st_size // 2)
        embedded.clear()
        assert DenseRetriever(store).run("pets") == expected
        assert len(embedded) == len(FACTS)
        assert "are damaged; all passages are embedded anew" in caplog.text


class TestModels:
    def test_another_models_vectors_are_refused(self, store, other_model, embedded):
        DenseRetriever(store).warm_up()
        embedded.clear()
        with pytest.raises(
            StoreError, match=f"embedded by '{DEFAULT_EMBEDDER}'.*needle index --re-embed --embedder '{other_model}'"
        ):
            find(DenseRetriever(store, model=other_model), "x")
        with pytest.raises(StoreError, match=r"\(cosine, .*\(dot, "):
            find(DenseRetriever(store, similarity="dot"), "x")
        assert embedded == [], "and nothing is embedded for it"
        assert find(store, "friend", top_k=1) == ["dog"]

    def test_embedding_anew_mends_it(self, store, other_model, embedded):
        DenseRetriever(store).warm_up()
        embedded.clear()
        retriever = DenseRetriever(store, model=other_model)
        retriever.update(anew=True)
        assert len(embedded) == len(FACTS)
        assert len(find(retriever, "x")) == len(FACTS)
        with pytest.raises(StoreError, match="needle index --re-embed"):
            find(DenseRetriever(store, model=DEFAULT_EMBEDDER), "x")

    def test_a_running_process_does_not_put_its_models_vectors_in_the_place_of_new_ones(self, store, other_model, embedded):
        named, unnamed = DenseRetriever(store, model=DEFAULT_EMBEDDER), DenseRetriever(store)
        for retriever in (named, unnamed):
            retriever.warm_up()
        with SQLiteDocumentStore(store.folder) as again:
            DenseRetriever(again, model=other_model).update(anew=True)
        store.write_documents([doc("wax", "Bees make wax, too.")])
        with pytest.raises(StoreError, match="needle index --re-embed"):
            find(named, "bees")
        assert len(find(unnamed, "bees")) == len(FACTS) + 1, "who named none goes on with the new one"
        assert VectorStoreIndex(store).saved_model == other_model

    def test_embedding_anew_is_resumed_and_leaves_the_old_vectors_until_it_has_some(
        self, store, other_model, embedded, monkeypatch
    ):
        DenseRetriever(store).warm_up()
        monkeypatch.setattr(VectorStoreIndex, "batch", 1)

        def failing(self: Embedder, texts: list[str]) -> Any:
            raise RuntimeError("out of memory")

        with monkeypatch.context() as patch:
            patch.setattr(Embedder, "passages", failing)
            with pytest.raises(RuntimeError, match="out of memory"):
                DenseRetriever(store, model=other_model).update(anew=True)
        assert find(store, "friend", top_k=1) == ["dog"]

        def interrupted(done: int, total: int) -> None:
            if done == 3:
                raise KeyboardInterrupt

        embedded.clear()
        with pytest.raises(KeyboardInterrupt):
            DenseRetriever(store, model=other_model).update(interrupted, anew=True)
        DenseRetriever(store, model=other_model).update(anew=True)
        assert sorted(embedded) == sorted(FACTS.values())

    def test_no_model_named_takes_the_stores(self, store, other_model, embedded):
        expected = DenseRetriever(store, model=other_model).run("x")
        embedded.clear()
        assert DenseRetriever(store).run("x") == expected
        assert embedded == []


class TestAtOnce:
    def test_threads_with_one_retriever_while_passages_come_and_go(self, store):
        retriever, done = DenseRetriever(store, top_k=3), threading.Event()
        retriever.warm_up()

        def search() -> int:
            searches = 0
            while not done.is_set():
                found = retriever.run(queries=["animals", "mountains"])["documents_per_query"]
                assert [len(documents) for documents in found] == [3, 3]
                searches += 1
            return searches

        with ThreadPoolExecutor() as pool:
            searches = [pool.submit(search) for _ in range(3)]
            for i in range(12):
                store.write_documents([doc(f"n{i}", f"Animal number {i} is small.")])
                store.delete_documents([f"n{i - 2}"])
            done.set()
            assert all(s.result() > 0 for s in searches)
        assert {"n10", "n11"} <= set(find(retriever, "small animals"))
