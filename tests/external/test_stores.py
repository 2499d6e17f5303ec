"""needle on PostgreSQL with pgvector and on Qdrant: the same passages, the same answers, the same commands."""

import json
import os
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from haystack import Document, Pipeline
from haystack.errors import FilterError
from haystack.utils import Secret
from haystack_integrations.document_stores.pgvector import PgvectorDocumentStore
from haystack_integrations.document_stores.qdrant import QdrantDocumentStore
from typer.testing import CliRunner

from needle.components import postgresql as postgresql_search
from needle.components.external_retrievers import ExternalBM25Retriever, ExternalDenseRetriever, ExternalWriter
from needle.components.external_store import ExternalStore
from needle.components.retrievers import BM25Retriever, DenseRetriever
from needle.components.store import SQLiteDocumentStore
from needle.data.errors import NeedleError, StoreError
from needle.pipelines import QA
from needle.pipelines.cli import app
from needle.pipelines.loading import load_pipeline, open_store
from needle.pipelines.store_urls import document_store, without_password

TARN = "The lighthouse of Tarn was lit in 1842. Its keeper was Ezra Whitcombe."
KEEPER = "Who was the keeper of the lighthouse?"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "tarn.txt").write_text(TARN)
    (folder / "mill.txt").write_text(
        "The mill was built in 1790. Its miller was Jonas Peel.\fOn its second page: Ada Quill."
    )
    return folder


def stored(store):
    return {d.id: (d.content, {k: v for k, v in d.meta.items() if not k.startswith("needle_")}) for d in store}


def test_passages_have_the_ids_offsets_and_pages_that_needles_own_store_gives_them(url, folder, tmp_path):
    QA.open(url).index(folder)
    own = QA.open(tmp_path / "own")
    own.index(folder)
    assert stored(open_store(url).document_store.filter_documents()) == stored(own.store.filter_documents())


def test_a_file_is_indexed_once_replaced_when_it_changes_and_removed(url, folder):
    qa = QA.open(url)
    first = qa.index(folder)
    assert (len(first.indexed), first.passages) == (2, 2)
    assert len(qa.index(folder).unchanged) == 2
    assert qa.ask(KEEPER).answer.data == "Ezra Whitcombe"
    (folder / "tarn.txt").write_text(TARN.replace("Ezra Whitcombe", "Mary Holt"))
    assert qa.index(folder).indexed == [str(folder / "tarn.txt")]
    assert qa.ask(KEEPER).answer.data == "Mary Holt"
    assert qa.status()["files"] == {str(folder / "mill.txt"): 1, str(folder / "tarn.txt"): 1}
    assert qa.remove(folder / "tarn.txt") == 1
    assert list(qa.status()["files"]) == [str(folder / "mill.txt")]
    assert qa.status()["passages"] == 1


def test_documents_from_no_file_replace_those_with_the_same_id(url):
    qa = QA.open(url)
    qa.index_documents([Document(id="a", content=TARN)])
    qa.index_documents([Document(id="a", content=TARN.replace("1842", "1901"))])
    assert [p.content for p in qa.search("When was the lighthouse lit?")] == [TARN.replace("1842", "1901")]
    assert qa.ask("When was the lighthouse lit?").answer.data == "1901"


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_a_file_whose_writing_is_interrupted_is_indexed_again_whatever_it_is_then(url, folder, nth, monkeypatch):
    """nth: which change of the store fails: unmarking, writing, deleting, marking."""
    before = TARN + "".join(f" Sentence number {i} of a long story about the sea." for i in range(60))
    (folder / "tarn.txt").write_text(before)
    qa = QA.open(url)
    qa.index(folder)
    changes = []

    def failing(real):
        def change(*arguments):
            changes.append(arguments)
            if len(changes) == nth:
                raise ConnectionError("the server is gone")
            return real(*arguments)

        return change

    for name in ("_write", "_delete"):
        monkeypatch.setattr(ExternalStore, name, failing(getattr(ExternalStore, name)))
    (folder / "tarn.txt").write_text(before.replace("1842", "1901").replace("sea", "coast"))
    with pytest.raises(StoreError, match="the server is gone"):
        qa.index(folder)
    monkeypatch.undo()
    (folder / "tarn.txt").write_text(before)
    assert qa.index(folder).indexed == ([] if nth == 1 else [str(folder / "tarn.txt")])
    passages = open_store(url).document_store.filter_documents()
    assert sum(qa.status()["files"].values()) == len(passages) > 3
    assert not any("1901" in p.content or "coast" in p.content for p in passages)


def test_what_an_interruption_has_left_can_be_removed(url, folder, monkeypatch):
    qa = QA.open(url)
    monkeypatch.setattr(ExternalStore, "_delete", lambda *_: (_ for _ in ()).throw(ConnectionError("the server is gone")))
    with pytest.raises(StoreError):
        qa.index(folder)
    monkeypatch.undo()
    assert (qa.status()["files"], qa.status()["passages"]) == ({}, 2)
    assert qa.remove(folder) == 2
    assert qa.status()["passages"] == 0


def test_others_may_ask_while_passages_are_embedded(url):
    qa = QA.open(url)
    qa.index_documents([Document(content=TARN)])
    _, passages = open_store(url).not_embedded("any")
    assert len(next(passages)) == 1
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(qa.search, KEEPER).result(timeout=20)


def test_vectors_find_the_same_passages_with_the_same_scores_as_in_needles_own_store(corpus_url, own_corpus, questions):
    theirs = ExternalDenseRetriever(open_store(corpus_url).document_store)
    ours = DenseRetriever(own_corpus)
    found, expected = (r.run(queries=questions[::4])["documents_per_query"] for r in (theirs, ours))
    for one, other in zip(found, expected, strict=True):
        assert np.allclose([d.score for d in one], [d.score for d in other], atol=1e-4)
        apart = {d.id for d in one} ^ {d.id for d in other}
        assert len(apart) <= 2  # one of two with all but the same score, at the cut
        assert all(abs(d.score - other[-1].score) < 1e-4 for d in (*one, *other) if d.id in apart)


def test_words_find_nearly_all_passages_that_needles_own_bm25_finds(corpus_url, own_corpus, questions):
    theirs = ExternalBM25Retriever(open_store(corpus_url).document_store)
    ours = BM25Retriever(own_corpus)
    found, expected = (r.run(queries=questions)["documents_per_query"] for r in (theirs, ours))
    first = [one[0].id == other[0].id for one, other in zip(found, expected, strict=True) if other]
    shared = [len({d.id for d in one} & {d.id for d in other}) for one, other in zip(found, expected, strict=True)]
    assert np.mean(first) > 0.9
    assert sum(shared) > 0.9 * sum(map(len, expected))


@pytest.fixture(scope="module")
def own_results(own_corpus, questions):
    """What is answered to some questions from needle's own store, by definition."""
    return {name: QA(own_corpus, name).ask_many(questions[::20]) for name in ("dense_qa", "hybrid_qa")}


@pytest.mark.parametrize(("definition", "least"), [("dense_qa", 1.0), ("hybrid_qa", 0.9)])
def test_answers_are_those_of_needles_own_store(corpus_url, own_results, questions, definition, least):
    def told(result):
        return result.said.data, result.said.document and result.said.document.id

    results = QA.open(corpus_url, definition).ask_many(questions[::20])
    assert np.mean([told(a) == told(b) for a, b in zip(results, own_results[definition], strict=True)]) >= least
    answers = [result.answer for result in results if result.answer]
    assert all(a.document.content[a.document_offset.start : a.document_offset.end] == a.data for a in answers)
    assert all(not any(key.startswith("needle_") for key in a.document.meta) for a in answers)


def test_filters_choose_before_the_cut(url):
    qa = QA.open(url, "hybrid_qa")
    qa.index_documents([Document(content=TARN.replace("1842", str(y)), meta={"year": y}) for y in range(1842, 1862)])
    qa.update()
    for year in (1842, 1861):
        chosen = {"field": "meta.year", "operator": "==", "value": year}
        assert qa.ask("When was the lighthouse lit?", filters=chosen).answer.data == str(year)


def test_only_what_is_new_is_embedded_and_another_model_must_be_asked_for(url, folder, tmp_path):
    qa = QA.open(url, "dense_qa")
    told = []
    qa.index(folder / "tarn.txt", progress=lambda *now: told.append(now))
    qa.index(folder, progress=lambda *now: told.append(now))
    assert [now for now in told if now[0] == "passage"] == [("passage", 1, 1), ("passage", 1, 1)]
    assert qa.status()["embedder"] == "sentence-transformers/all-MiniLM-L6-v2"
    store = open_store(url)
    other = ExternalDenseRetriever(store.document_store, model=str(tmp_path / "another"))
    with pytest.raises(StoreError, match=r"all-MiniLM-L6-v2', whose vectors can't be compared with those of .*another"):
        other.update()
    again = []
    qa.update(progress=lambda *now: again.append(now), re_embed=True)
    assert again == [("passage", 2, 2)]


def test_vectors_of_another_length_are_refused_by_name(url, folder):
    qa = QA.open(f"{url}{'&' if '?' in url else '?'}dimension=256", "dense_qa")
    with pytest.raises(StoreError, match=r"vectors of 384 numbers, and this store is made for 256.*\?dimension=384"):
        qa.index(folder)


def test_a_question_of_nothing_but_stop_words_or_of_odd_characters_finds_nothing(url):
    qa = QA.open(url)
    qa.index_documents([Document(content=TARN)])
    for question in ("Who is it?", "' \\ & | ! <-> :*", "%s {table}", "😀"):
        assert qa.search(question) == []
    assert qa.search("lighthouse' OR \\'1'='1 & | !x:*")


def test_the_commands_take_a_url(url, folder):
    def run(*arguments):
        result = CliRunner().invoke(app, [*arguments, "--store", url])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "2 files indexed (2 passages)" in run("index", str(folder))
    assert json.loads(run("ask", KEEPER, "--json"))["answers"][0]["answer"] == "Ezra Whitcombe"
    assert json.loads(run("ask", KEEPER, "--json", "--retriever", "hybrid"))["answers"][0]["answer"] == "Ezra Whitcombe"
    assert json.loads(run("status", "--json"))["passages"] == 2
    assert "removed 1 file" in run("remove", str(folder / "tarn.txt"))
    assert json.loads(run("status", "--json"))["passages"] == 1


def test_a_printed_definition_can_be_kept_and_loaded_and_holds_no_secret(url, folder, tmp_path):
    QA.open(url).index(folder)
    for name in ("bm25_qa", "hybrid_qa", "indexing"):
        printed = CliRunner().invoke(app, ["pipeline", name, "--store", url]).stdout
        assert "host=/" not in printed
        assert load_pipeline(name, url).to_dict() == Pipeline.loads(printed, allowed_modules=["needle.*"]).to_dict()
    (tmp_path / "mine.yaml").write_text(CliRunner().invoke(app, ["pipeline", "bm25_qa", "--store", url]).stdout)
    assert QA.open(tmp_path / "unused", tmp_path / "mine.yaml").ask(KEEPER).answer.data == "Ezra Whitcombe"


def test_components_of_a_process_share_a_store(url):
    stores = [ExternalWriter(open_store(url).document_store).store, ExternalStore.of(open_store(url).document_store)]
    assert stores[0] is stores[1]


def test_what_only_a_folder_has_is_refused_by_name(url):
    qa = QA.open(url)
    qa.index_documents([Document(content=TARN)])
    with pytest.raises(StoreError, match=r"kept beside passages in a folder only; these are in a \w+DocumentStore"):
        qa.feedback(qa.ask(KEEPER), "right")
    result = CliRunner().invoke(app, ["labels", "--store", url])
    assert result.exit_code == 1
    assert "needs a store's folder" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("mysql://host/db", "begins with postgresql://"),
        ("qdrant://", "names no host"),
        ("opensearch://", "names no host"),
        ("opensearch://me:secret@host", "OPENSEARCH_USERNAME and OPENSEARCH_PASSWORD"),
        ("elasticsearch://host?colour=red", r"may hold \?table= and \?dimension=, not colour"),
        ("postgresql://host/db?dimension=many", "the length of its vectors, not 'many'"),
        ("postgresql://host/db?table=two%20words", "1 to 48 of a-z"),
        ("postgresql+http://host/db", "begins with postgresql://"),
        ("qdrant://host:port", "makes no sense"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused(bad, told):
    with pytest.raises(NeedleError, match=told) as refused:
        document_store(bad)
    assert "secret" not in str(refused.value)


def test_a_server_that_is_not_there_is_named_without_the_password():
    qa = QA.open("postgresql://me:secret@127.0.0.1:1/db")
    with pytest.raises(StoreError, match="Connection refused") as refused:
        qa.ask(KEEPER)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "bad",
    [
        "postgresql://me:secret/x@127.0.0.1:1/db",
        "postgresql://me:%secret@127.0.0.1:1/db",
        "postgresql://me:se@cret@127.0.0.1:1/db",
        "postgresql://127.0.0.1:1/db?user=me&password=secret",
        "opensearch://me:secret/x@host:9200",
    ],
)
def test_no_message_holds_a_password(bad):
    for command in (["ask", KEEPER], ["status"], ["remove", "x"]):
        result = CliRunner().invoke(app, [*command, "--store", bad])
        assert result.exit_code == 1
        assert not any(part in result.output for part in ("secret", "cret@"))
    assert "secret" not in without_password(bad)


def test_a_store_of_ones_own_is_the_one_that_is_asked(tmp_path):
    mine = QdrantDocumentStore(path=str(tmp_path / "q"), embedding_dim=384, use_sparse_embeddings=True, sparse_idf=True)
    qa = QA(ExternalStore(mine), "hybrid_qa")
    qa.index_documents([Document(content=TARN)])
    assert qa.ask(KEEPER).answer.data == "Ezra Whitcombe"
    assert mine.count_documents() == 1


def test_a_qdrant_without_sparse_vectors_is_searched_by_vectors_only(tmp_path):
    qa = QA(ExternalStore(QdrantDocumentStore(path=str(tmp_path / "q"), embedding_dim=384)))
    with pytest.raises(StoreError, match="use_sparse_embeddings and sparse_idf must be true"):
        qa.search(KEEPER)


def test_a_secret_that_no_definition_can_name_is_refused():
    store = PgvectorDocumentStore(connection_string=Secret.from_token("postgresql://me:secret@host/db"))
    with pytest.raises(StoreError, match=r"Use Secret\.from_env_var") as refused:
        QA(ExternalStore(store))
    assert "secret@" not in str(refused.value)


def test_a_definition_of_one_store_is_moved_to_another(url, folder, tmp_path):
    (tmp_path / "mine.yaml").write_text(load_pipeline("hybrid_qa", "postgresql://elsewhere.example/db").dumps())
    qa = QA.open(url, tmp_path / "mine.yaml", embedder="sentence-transformers/all-MiniLM-L6-v2")
    qa.index(folder)
    assert qa.ask(KEEPER).answer.data == "Ezra Whitcombe"


def test_a_table_without_passages_is_told(url):
    result = CliRunner().invoke(app, ["ask", KEEPER, "--store", url])
    assert result.exit_code == 1
    assert "There are no passages in" in " ".join(result.output.split())


def test_a_malformed_filter_is_refused_as_everywhere(url):
    qa = QA.open(url)
    qa.index_documents([Document(content=TARN)])
    with pytest.raises(FilterError):
        qa.search(KEEPER, filters={"field": "meta.year", "operator": "like", "value": 1})


def test_passages_without_vectors_are_not_found_by_vectors(url):
    QA.open(url).index_documents([Document(content=TARN)])
    assert ExternalDenseRetriever(open_store(url).document_store).run(query=KEEPER)["documents"] == []


class TestPostgreSQL:
    @pytest.fixture
    def url(self, postgresql):
        return f"{postgresql}&table=t{uuid.uuid4().hex}"

    def test_a_word_of_nearly_all_passages_is_worth_little_also_where_their_number_is_not_known(self, url, monkeypatch):
        monkeypatch.setattr(postgresql_search, "_ESTIMATED", 1)
        qa = QA.open(url)
        qa.index_documents([Document(content="A lighthouse.")])
        qa._store.document_store._cursor.execute("ANALYZE")  # from now on the planner believes in one passage
        qa.index_documents([Document(content=f"Lighthouse number {n} stands far away.") for n in range(30)])
        assert len(qa.search("Which lighthouse?")) == 10

    def test_of_many_that_hold_the_only_word_the_shortest_come_first_as_by_bm25(self, url):
        qa = QA.open(url)
        long = "The lighthouse is one of several buildings on this coast, and nothing more is told of it here: number "
        qa.index_documents([Document(content=f"{long}{n}.") for n in range(300)])
        qa.index_documents([Document(content="Lighthouse keepers: Ezra Whitcombe.")])
        assert "Ezra" in qa.search("lighthouse?")[0].content

    def test_words_with_quotes_and_hyphens_are_found(self, url):
        qa = QA.open(url)
        qa.index_documents([Document(content="A state-of-the-art lamp, said O'Neill\\'s keeper, at www.tarn.example/lamp.")])
        for question in ("state-of-the-art", "O'Neill\\'s", "www.tarn.example/lamp"):
            assert len(qa.search(question)) == 1

    @pytest.mark.parametrize(
        ("url", "asked"),
        [
            ("postgresql:///work?table=x", "postgresql:///work"),  # by the server's socket
            ("postgres://host/db", "postgresql://host/db"),
            (
                "postgresql://host1:1,host2:2/db?options=-c%20search_path%3Dmine&table=x&application_name=a+b",
                "postgresql://host1:1,host2:2/db?options=-c%20search_path%3Dmine&application_name=a+b",
            ),
        ],
    )
    def test_the_url_reaches_the_server_as_it_is_but_for_what_is_needles(self, url, asked):
        name = document_store(url)["init_parameters"]["connection_string"]["env_vars"][0]
        assert os.environ[name] == asked


def test_another_kind_of_store_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"PgvectorDocumentStore.*, not SQLiteDocumentStore"):
        ExternalBM25Retriever(SQLiteDocumentStore(tmp_path / "own"))
