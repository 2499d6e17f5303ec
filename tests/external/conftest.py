"""Stores beside needle's own: a real PostgreSQL with pgvector, Qdrant's local form, and a stand-in for search servers."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from needle.components.embedder import DEFAULT_EMBEDDER
from needle.components.store import SQLiteDocumentStore
from needle.components.vector_files import VectorStoreIndex
from needle.data import SHIPPED_CORPUS
from needle.data.squad import read_squad
from needle.pipelines import QA
from needle.pipelines.loading import open_store


@pytest.fixture(params=["postgresql", "qdrant"])
def url(request: pytest.FixtureRequest, tmp_path) -> str:
    """URL of an empty store."""
    if request.param == "qdrant":
        return f"qdrant://{tmp_path}/qdrant"
    return f"{request.getfixturevalue('postgresql')}&table=t{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def own_corpus(tmp_path_factory: pytest.TempPathFactory) -> SQLiteDocumentStore:
    """needle's own store with the shipped corpus and its vectors."""
    store = SQLiteDocumentStore(tmp_path_factory.mktemp("own") / "store")
    QA(store, "dense_qa").index([SHIPPED_CORPUS / "documents"])
    return store


@pytest.fixture(scope="session", params=["postgresql", "qdrant"])
def corpus_url(
    request: pytest.FixtureRequest, own_corpus: SQLiteDocumentStore, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """URL of a store with the same passages and vectors: embedding them once more would give others in the last bits."""
    url = f"qdrant://{tmp_path_factory.mktemp('corpus')}/qdrant"
    if request.param == "postgresql":
        url = f"{request.getfixturevalue('postgresql')}&table=corpus"
    QA.open(url).index([SHIPPED_CORPUS / "documents"])
    store, index = open_store(url), VectorStoreIndex(own_corpus)
    vectors = {
        id_: vector
        for part in index.current().index.parts
        for segment in part.segments
        for id_, vector in zip(ids_at(own_corpus, segment.rows), segment.vectors.astype(np.float32), strict=True)
    }
    _, sources = store.not_embedded(DEFAULT_EMBEDDER)
    for passages in sources:
        store.embedded(passages, np.stack([vectors[passage.id] for passage in passages]), DEFAULT_EMBEDDER, "copied")
    return url


def ids_at(store: SQLiteDocumentStore, rows: NDArray[np.int64]) -> list[str]:
    documents = store.documents_at(rows)
    return [documents[row].id for row in rows.tolist()]


@pytest.fixture(scope="session")
def questions() -> list[str]:
    return [question.question for question in read_squad(SHIPPED_CORPUS / "questions.json")]


class SearchServer:
    """Takes what OpenSearch's and Elasticsearch's clients send, keeps it, and answers searches with all passages that match
    their filters: it shows the requests, not how such a server would rank."""

    #: Passages that it gives at a time, as such servers give no more than 10,000.
    most = 10_000
    refuses = False

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        self.passages: dict[str, dict[str, Any]] = {}

    def bodies(self, path: str) -> list[Any]:
        """Of the requests whose path ends so, those that have one."""
        return [body for _, p, body in self.requests if p.split("?")[0].endswith(path) and body]

    def answer(self, method: str, path: str, body: str) -> tuple[int, Any]:
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        name = path.split("?")[0]
        self.requests.append((method, path, lines if name.endswith("_bulk") else lines[0] if lines else None))
        if method == "HEAD":
            return (200 if any(m == "PUT" for m, _, _ in self.requests) else 404), {}
        if name.endswith("_bulk") and self.refuses:
            return 200, self._refusal(lines)
        if name.endswith("_bulk"):
            return 200, {"errors": False, "took": 1, "items": list(self._written(lines))}
        if name.endswith("_count"):
            return 200, {"count": len(self.passages)}
        if name.endswith("_search"):
            query = [part for part in (lines[0].get("query"), lines[0].get("knn", {}).get("filter")) if part]
            found = [{"_id": i, "_score": 0.9, "_source": s} for i, s in self.passages.items() if holds(query, s)]
            hits = found[: self.most]
            return 200, {"hits": {"hits": hits, "total": {"value": len(hits)}}, "aggregations": self._no_values(lines[0])}
        return 200, {"acknowledged": True, "version": {"number": "8.19.0", "build_flavor": "default"}}

    def _written(self, lines: list[Any]) -> Iterator[dict[str, Any]]:
        rest = iter(lines)
        for action in rest:
            [(kind, facts)] = action.items()
            if kind == "delete":
                self.passages.pop(facts["_id"], None)
            else:
                self.passages[facts["_id"]] = next(rest)
            yield {kind: {"_id": facts["_id"], "status": 200, "result": "done"}}

    def _refusal(self, lines: list[Any]) -> dict[str, Any]:
        error = {"type": "mapper_parsing_exception", "reason": "mapper has refused it"}
        [(kind, facts)] = lines[0].items()
        return {"errors": True, "took": 1, "items": [{kind: {"_id": facts["_id"], "status": 400, "error": error}}]}

    @staticmethod
    def _no_values(body: dict[str, Any]) -> dict[str, Any]:
        return {name: {"buckets": [], "value": 0} for name in body.get("aggs", {})}


def holds(query: Any, passage: dict[str, Any]) -> bool:
    """Whether a query's filters hold; whatever words and vectors it has match all passages."""
    if isinstance(query, list):
        return all(holds(part, passage) for part in query)
    [(kind, body)] = query.items()
    if kind == "bool":
        needed = [*_listed(body.get("must")), *_listed(body.get("filter"))]
        either = _listed(body.get("should"))
        return (
            holds(needed, passage)
            and not any(holds(part, passage) for part in _listed(body.get("must_not")))
            and (not either or any(holds(part, passage) for part in either))
        )
    if kind in ("term", "terms"):
        [(field, value)] = ((f, v) for f, v in body.items() if f != "boost")
        return passage.get(field) in (value if kind == "terms" else [value["value"] if isinstance(value, dict) else value])
    if kind == "exists":
        return passage.get(body["field"]) is not None
    assert kind in ("multi_match", "match_all", "knn"), query
    return kind != "knn" or holds(_listed(body["embedding"].get("filter")), passage)


def _listed(part: Any) -> list[Any]:
    return part if isinstance(part, list) else [] if part is None else [part]


@pytest.fixture
def search_server() -> Iterator[tuple[SearchServer, str]]:
    """The server, and its host and port."""
    kept = SearchServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            status, answer = kept.answer(self.command, self.path, body)
            content = b"" if self.command == "HEAD" else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("X-Elastic-Product", "Elasticsearch")
            self.send_header("Content-Type", self.headers.get("Accept") or "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _any

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield kept, f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
