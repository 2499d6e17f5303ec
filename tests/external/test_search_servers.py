"""What OpenSearch and Elasticsearch are asked. No such server runs here: a stand-in takes the requests of the real clients,
so that these tests hold the query language, not the ranking."""

import pytest
from haystack import Document

from needle.components.external_retrievers import ExternalBM25Retriever
from needle.data.errors import StoreError
from needle.pipelines import QA
from needle.pipelines.loading import open_store

TARN = "The lighthouse of Tarn was lit in 1842. Its keeper was Ezra Whitcombe."


@pytest.fixture(params=["opensearch", "elasticsearch"])
def url(request, search_server):
    return f"{request.param}+http://{search_server[1]}?table=passages"


@pytest.fixture
def server(search_server):
    return search_server[0]


def test_an_index_is_made_for_english_text_and_cosines(url, server):
    QA.open(url).index_documents([Document(content=TARN)])
    [made] = server.bodies("/passages")
    properties = made["mappings"]["properties"]
    assert properties["content"] == {"type": "text", "analyzer": "english"}
    assert made["mappings"]["date_detection"] is False  # or a title like 2024-01-05 would make all titles dates
    vector = properties["embedding"]
    cosines = vector.get("similarity") == "cosine" or vector["method"]["space_type"] == "cosinesimil"
    assert cosines
    assert 384 in vector.values()


def test_passages_are_written_with_their_ids_places_and_marks(url, server, tmp_path):
    (tmp_path / "tarn.txt").write_text(TARN)
    QA.open(url).index(tmp_path / "tarn.txt")
    [(_, passage)] = server.passages.items()
    assert passage["content"] == TARN
    assert (passage["start_char"], passage["end_char"], passage["page_number"]) == (0, len(TARN), 1)
    assert passage["file_path"] == str(tmp_path / "tarn.txt")
    assert passage["needle_file"].startswith(f'["{tmp_path / "tarn.txt"}", ')


def test_any_word_of_a_question_may_match_exactly_and_filters_go_with_it(url, server):
    qa = QA.open(url)
    qa.index_documents([Document(content=TARN, meta={"year": 1842})])
    server.requests.clear()
    chosen = {"field": "meta.year", "operator": "==", "value": 1842}
    assert qa.ask("When was the lighthouse lit?", filters=chosen).answer.data == "1842"
    [body] = server.bodies("/_search")
    assert body["size"] == 10
    query = body["query"]["bool"]
    [words] = [must["multi_match"] for must in query["must"]]
    assert words["query"] == "When was the lighthouse lit?"
    assert words["operator"] == "OR"
    assert str(words.get("fuzziness", 0)) == "0"
    assert "1842" in str(query["filter"])


def test_vectors_are_searched_with_filters_inside_and_scores_become_cosines(url, server):
    qa = QA.open(url, "dense_qa")
    qa.index_documents([Document(content=TARN, meta={"year": 1842})])
    server.requests.clear()
    chosen = {"field": "meta.year", "operator": "==", "value": 1842}
    [found] = qa.search("When was the lighthouse lit?", filters=chosen)
    assert found.score == pytest.approx(2 * 0.9 - 1)
    body = server.bodies("/_search")[-1]
    if url.startswith("opensearch"):
        [must] = body["query"]["bool"]["must"]
        near = must["knn"]["embedding"]
        assert (len(near["vector"]), near["k"]) == (384, 10)
        assert "1842" in str(near["filter"])
    else:
        assert (len(body["knn"]["query_vector"]), body["knn"]["k"]) == (384, 10)
        assert "1842" in str(body["knn"]["filter"])


def test_the_answer_is_read_from_the_passage_that_was_found(url, server):
    qa = QA.open(url)
    qa.index_documents([Document(id="tarn", content=TARN)])
    answer = qa.ask("Who was the keeper of the lighthouse?").answer
    assert answer.data == "Ezra Whitcombe"
    assert answer.document.meta["source_id"] == "tarn"
    assert answer.document.content[answer.document_offset.start : answer.document_offset.end] == answer.data


def test_removed_files_are_deleted_by_id(url, server, tmp_path):
    (tmp_path / "tarn.txt").write_text(TARN)
    qa = QA.open(url)
    qa.index(tmp_path / "tarn.txt")
    [id_] = server.passages
    open_store(url).remove_files([str(tmp_path / "tarn.txt")])
    assert server.passages == {}
    deleted = [line["delete"]["_id"] for body in server.bodies("_bulk") for line in body if "delete" in line]
    assert deleted == [id_]


def test_all_passages_go_also_if_the_server_gives_few_at_a_time(url, server):
    QA.open(url).index_documents([Document(content=TARN, meta={"file_path": "/a.txt", "n": n}) for n in range(7)])
    server.most = 2
    assert open_store(url).remove_files(["/a.txt"]) == 7
    assert server.passages == {}


def test_a_refusal_is_told(url, server):
    server.refuses = True
    with pytest.raises(StoreError, match=r"refused some of 1 passages|mapper has refused it"):
        QA.open(url).index_documents([Document(content=TARN)])


def test_a_question_without_words_is_not_sent(url, server):
    assert ExternalBM25Retriever(open_store(url).document_store).run(query="Who is it?")["documents"] == []
    assert server.bodies("/_search") == []
