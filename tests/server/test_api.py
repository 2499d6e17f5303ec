"""What applications call: ask, search, documents, feedback, state. The server is the real one."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from needle.data import SHIPPED_CORPUS
from needle.pipelines.qa import QA

MOON = "When did people first land on the Moon?"
TICKET = "How much does a ticket to the Eiffel Tower cost?"


def test_one_question(server):
    result = server.post("/ask", json={"query": MOON, "top_k": 2}).json()
    assert (result["query"], result["is_answered"], len(result["answers"])) == (MOON, True, 2)
    best = result["answers"][0]
    assert best["answer"] == "July 20, 1969"
    assert best["context"][best["context_start_char"] : best["context_end_char"]] == best["answer"]
    assert best["passage"][best["start_char"] : best["end_char"]] == best["answer"]
    assert 0.5 < best["score"] < 1
    assert result["no_answer_score"] < 0.5


def test_an_answer_is_what_the_python_api_gives(server, corpus_qa: QA):
    expected = corpus_qa.ask(MOON)
    found = server.post("/ask", json={"query": MOON}).json()
    assert [a["answer"] for a in found["answers"]] == [a.data for a in expected.answers]
    assert [a["score"] for a in found["answers"]] == pytest.approx([a.score for a in expected.answers], abs=0.02)


def test_no_answer(server):
    result = server.post("/ask", json={"query": TICKET}).json()
    assert result["is_answered"] is False
    assert result["no_answer_score"] > 0.5


def test_many_questions_in_order(server):
    results = server.post("/ask/batch", json={"queries": [TICKET, MOON, TICKET]}).json()["results"]
    assert [(r["query"], r["is_answered"]) for r in results] == [(TICKET, False), (MOON, True), (TICKET, False)]


def test_a_stream_gives_a_line_for_each_question(server):
    queries = [MOON, TICKET, "How long is the Amazon?"] * 6
    lines, arrived = [], 0
    with server.stream("POST", "/ask/stream", json={"queries": queries, "top_k": 1}) as response:
        assert response.headers["content-type"] == "application/x-ndjson"
        for chunk in response.iter_text():
            arrived += 1
            lines += [json.loads(line) for line in chunk.splitlines()]
    assert arrived > 1  # not all at the end
    assert sorted(line["index"] for line in lines) == list(range(18))
    assert all(line["result"]["query"] == queries[line["index"]] for line in lines)


def test_filters(server):
    only = {"field": "meta.title", "operator": "in", "value": ["apollo-11"]}
    both = {"operator": "AND", "conditions": [only, {"field": "meta.page_number", "operator": ">=", "value": 1}]}
    for filters in (only, both):
        result = server.post("/ask", json={"query": MOON, "filters": filters}).json()
        assert {place["file_path"].rpartition("/")[2] for a in result["answers"] for place in a["places"]} == {
            "apollo-11.txt"
        }


def test_search_gives_passages(server):
    passages = server.post("/search", json={"query": MOON, "top_k": 3}).json()["passages"]
    assert passages[0]["title"] == "moon"
    assert len(passages) == 3
    scores = [p["score"] for p in passages]
    assert scores == sorted(scores, reverse=True)


def test_a_document_is_opened_at_the_place(server):
    best = server.post("/ask", json={"query": MOON}).json()["answers"][0]
    place = best["places"][0]
    document = server.get(f"/documents/{place['document_id']}").json()
    assert document["text"][place["start_char"] : place["end_char"]] == "July 20, 1969"
    source = (SHIPPED_CORPUS / "documents" / "moon.md").read_text()
    assert document["passages"] > 1
    assert document["text"].split()[-3:] == source.split()[-3:]
    part = server.get(
        f"/documents/{place['document_id']}", params={"start_char": place["start_char"], "end_char": place["end_char"]}
    ).json()
    assert (part["text"], part["start_char"], part["chars"]) == (
        "July 20, 1969", place["start_char"], len(document["text"]),
    )  # fmt: skip


def test_documents_come_and_go(server):
    new = {"id": "lighthouse-1", "content": "Ezra Whitcombe kept the lighthouse of Pell Harbour.", "title": "Lighthouses"}
    added = server.post("/documents", json={"documents": [new | {"meta": {"year": 1871}}]})
    assert added.status_code == 201
    assert added.json() == {"documents": [{"document_id": "lighthouse-1", "title": "Lighthouses"}], "passages": 1}
    query = {"query": "Who kept the lighthouse of Pell Harbour?"}
    best = server.post("/ask", json=query).json()["answers"][0]
    assert (best["answer"], best["document_id"], best["title"]) == ("Ezra Whitcombe", "lighthouse-1", "Lighthouses")
    assert server.get("/documents/lighthouse-1").json()["meta"] == {"year": 1871}

    server.post("/documents", json={"documents": [new | {"content": "Ada Pell kept the lighthouse of Pell Harbour."}]})
    assert server.post("/ask", json=query).json()["answers"][0]["answer"] == "Ada Pell"

    assert server.delete("/documents/lighthouse-1").status_code == 204
    assert server.delete("/documents/lighthouse-1").status_code == 404
    assert server.get("/documents/lighthouse-1").status_code == 404
    assert "Ada Pell" not in server.post("/ask", json=query).text


def test_the_list_of_documents_goes_by_pages(server):
    first = server.get("/documents", params={"limit": 20}).json()
    assert first["total"] >= 45
    rest = server.get("/documents", params={"limit": 200, "offset": 20}).json()["documents"]
    assert len({d["document_id"] for d in first["documents"] + rest}) == first["total"]
    [moon] = server.get("/documents", params={"search": "moon"}).json()["documents"]
    assert (moon["title"], moon["file_path"].endswith("/moon.md")) == ("moon", True)


def test_an_upload_is_indexed_by_a_job(server):
    files = [
        ("files", ("ferry.md", "# Ferry\n\nThe ferry to Skarn leaves at 7:40 in the morning.", "text/markdown")),
        ("files", ("empty.txt", b"  ", "text/plain")),
    ]
    status = server.wait(server.post("/uploads", files=files))
    assert status | {"job_id": ""} == {
        "job_id": "", "state": "done", "files": 2, "done": 2, "indexed": ["uploads/ferry.md"], "unchanged": [],
        "skipped": [{"file_path": "uploads/empty.txt", "reason": "the file is empty"}], "passages": 1, "error": None,
    }  # fmt: skip
    query = {"query": "When does the ferry to Skarn leave?"}
    assert server.post("/ask", json=query).json()["answers"][0]["answer"].startswith("7:40")
    assert server.wait(server.post("/uploads", files=files[:1]))["unchanged"] == ["uploads/ferry.md"]
    later = ("files", ("ferry.md", "# Ferry\n\nThe ferry to Skarn leaves at 9:15 in the morning.", "text/markdown"))
    server.wait(server.post("/uploads", files=[later]))
    assert server.post("/ask", json=query).json()["answers"][0]["answer"].startswith("9:15")
    assert server.get("/jobs/" + "0" * 32).status_code == 404


def test_feedback_is_kept(server, corpus_store):
    best = server.post("/ask", json={"query": MOON}).json()["answers"][0]
    span = {"passage_id": best["passage_id"], "start_char": best["start_char"], "end_char": best["end_char"]}
    given = {"query": MOON, "score": best["score"], "verdict": "wrong span", "correction": "1969", **span}
    kept = server.post("/feedback", json=given)
    assert kept.status_code == 201
    assert kept.json() == {"verdict": "wrong span", "answer": "July 20, 1969", "correction": "1969"}
    null = {"query": TICKET, "verdict": "right", "score": 0.98, "passage_id": best["passage_id"]}
    assert server.post("/feedback", json=null).json()["answer"] is None
    assert [label.verdict.value for label in QA.open(corpus_store).labels()[-2:]] == ["wrong span", "right"]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"passage_id": "gone"}, 404),
        ({"verdict": "right", "correction": "1969"}, 409),
        ({"end_char": 10**6}, 409),
        ({"end_char": None}, 409),
        ({"start_char": None, "end_char": None, "verdict": "wrong span"}, 409),
        ({"verdict": "good"}, 422),
    ],
)
def test_feedback_that_does_not_go_together_is_refused(server, change, status):
    best = server.post("/ask", json={"query": MOON}).json()["answers"][0]
    span = {"passage_id": best["passage_id"], "start_char": best["start_char"], "end_char": best["end_char"]}
    given = {"query": MOON, "score": 0.5, "verdict": "wrong", **span} | change
    assert server.post("/feedback", json=given).status_code == status


def test_readers_never_see_half_an_update(server):
    """A document says the same in all its sentences, and is replaced all the time: answers are of one version."""

    def version(n: int) -> dict:
        return {
            "id": "clock",
            "content": " ".join(f"The clock of Orrin struck {n} in line {i} of the tale." for i in range(60)),
        }

    def write(n: int) -> None:
        server.post("/documents", json={"documents": [version(n)]}).raise_for_status()

    write(0)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [write(n) for n in range(1, 15)])
        seen = []
        while not writing.done():
            text = server.get("/documents/clock").json()["text"]
            seen.append({line.split(" in line")[0] for line in text.split("The clock of Orrin struck ")[1:]})
        writing.result()
    assert len(seen) > 3
    assert all(len(versions) == 1 for versions in seen)
    server.delete("/documents/clock")


def test_what_it_tells_of_itself(server):
    info = server.get("/info").json()
    assert (info["auth"], info["scopes"], info["pipeline"]) == (False, ["read", "write"], "bm25_qa")
    assert info["limits"]["question_chars"] == 1000
    assert ".pdf" in info["file_types"]
    assert server.get("/health/live").json() == server.get("/health/ready").json() == {"status": "ok"}
    server.post("/ask", json={"query": MOON})
    metrics = server.get("/metrics").text
    assert 'needle_requests_total{method="POST",route="/ask",status="200"}' in metrics
    assert "needle_batch_questions_bucket" in metrics
    assert "process_resident_memory_bytes" in metrics


def test_the_log_tells_requests_but_not_what_was_asked(server):
    request_id = "test-4711"
    query = "Which marmalade is asked for in the logbook?"
    response = server.post("/ask", json={"query": query}, headers={"X-Request-ID": request_id})
    assert response.headers["x-request-id"] == request_id
    server.get("/documents", params={"search": "marmalade"})
    [line] = [line for line in server.log() if line.get("request_id") == request_id]
    assert (line["method"], line["route"], line["status"], line["level"]) == ("POST", "/ask", 200, "info")
    assert "marmalade" not in json.dumps(server.log())
