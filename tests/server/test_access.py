"""Who gets in, what they may do, and what everybody is refused: in JSON, without a trace of the inside."""

import hashlib
import json
import random
import re
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from needle.pipelines.server.auth import Scope, TokenFile

NEEDLE = Path(sys.executable).with_name("needle")
ASK = {"query": "How long is the Amazon?"}
NEW = {"documents": [{"content": "Nothing to see here."}]}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """A file of two tokens, and the tokens by scope."""
    path = tmp_path_factory.mktemp("tokens") / "tokens.json"
    return path, {scope.value: TokenFile(path).add(f"the {scope} token", scope) for scope in Scope}


@pytest.fixture(scope="module")
def closed(tokens, corpus_store, tmp_path_factory, serving):
    """A server that asks for tokens."""
    store = tmp_path_factory.mktemp("closed") / "store"
    shutil.copytree(corpus_store, store)
    with serving(store, "--tokens", str(tokens[0])) as started:
        yield started


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def check_error(response: httpx.Response, status: int, code: str) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == code
    assert error["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    assert ".py" not in response.text


def test_without_a_token_nothing_is_told(closed):
    for method, path in [("POST", "/ask"), ("POST", "/ask/stream"), ("POST", "/search"), ("GET", "/documents"),
                         ("GET", "/documents/x"), ("DELETE", "/documents/x"), ("POST", "/documents"), ("POST", "/uploads"),
                         ("GET", "/jobs/x"), ("POST", "/feedback"), ("GET", "/metrics"), ("POST", "/mcp")]:  # fmt: skip
        response = closed.request(method, path, json=ASK)
        check_error(response, 401, "unauthorised")
        assert response.headers["www-authenticate"] == "Bearer"
    assert closed.get("/info").json()["scopes"] == []
    assert closed.get("/health/ready").status_code == 200


@pytest.mark.parametrize("header", ["Bearer wrong", "Bearer", "", "Basic dTpw", "bearer needle_", "Bearer \xe9"])
def test_a_wrong_token_is_refused(closed, header):
    for path in ("/ask", "/info"):
        response = closed.request(
            "GET" if path == "/info" else "POST", path, headers={"Authorization": header.encode("latin-1")}
        )
        check_error(response, 401, "unauthorised")


def test_scopes(closed, tokens):
    read, write = bearer(tokens[1]["read"]), bearer(tokens[1]["write"])
    assert closed.post("/ask", json=ASK, headers=read).status_code == 200
    check_error(closed.post("/documents", json=NEW, headers=read), 403, "forbidden")
    check_error(closed.post("/uploads", files={"files": ("a.txt", b"x")}, headers=read), 403, "forbidden")
    check_error(closed.delete("/documents/x", headers=read), 403, "forbidden")
    assert closed.post("/documents", json=NEW, headers=write).status_code == 201
    assert closed.post("/ask", json=ASK, headers=write).status_code == 200
    assert closed.get("/info", headers=read).json()["scopes"] == ["read"]
    assert closed.get("/info", headers=write).json()["scopes"] == ["read", "write"]
    assert {line["token"] for line in closed.log() if "token" in line} >= {"the read token", "the write token"}


def test_a_body_is_not_read_for_those_who_may_not_send_it(closed):
    """The head of a request of 30 MB is enough for the refusal."""
    address = urlsplit(closed.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(b"POST /uploads HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 401 ")


def test_only_hashes_are_kept_and_only_for_the_owner(tokens):
    path, known = tokens
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert all(token not in text for token in known.values())
    assert hashlib.sha256(known["read"].encode()).hexdigest() in text


def test_tokens_by_command_and_withdrawn_at_once(closed, tokens):
    def token(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(NEEDLE), "token", *arguments, "--tokens", str(tokens[0])]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    made = token("add", "visitor").stdout.strip()
    assert re.fullmatch(r"needle_[A-Za-z0-9_-]{43}", made)
    assert closed.post("/ask", json=ASK, headers=bearer(made)).status_code == 200
    assert re.search(r"visitor +read ", token("list").stdout)
    assert (token("add", "visitor").returncode, token("add", "x", "--scope", "all").returncode) == (1, 1)
    assert token("remove", "visitor").returncode == 0
    check_error(closed.post("/ask", json=ASK, headers=bearer(made)), 401, "unauthorised")
    assert token("remove", "visitor").returncode == 1


def test_beyond_this_machine_only_with_tokens(tmp_path):
    for options, word in [(["--host", "0.0.0.0"], "--tokens"), (["--tokens", str(tmp_path / "none")], "can't be read")]:
        command = [str(NEEDLE), "serve", "--store", str(tmp_path / "s"), "--port", "0", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert word in done.stderr


def test_pages_of_other_sites_can_do_nothing(server):
    elsewhere = {"Origin": "https://evil.example"}
    check_error(server.post("/ask", json=ASK, headers=elsewhere), 403, "forbidden")
    check_error(server.post("/uploads", files={"files": ("a.txt", b"x")}, headers=elsewhere), 403, "forbidden")
    check_error(server.get("/documents", headers={"Host": "evil.example"}), 403, "forbidden")  # DNS rebinding
    assert server.post("/ask", json=ASK, headers={"Origin": server.url}).status_code == 200
    text = {"Content-Type": "text/plain"}  # what a form of another site could send
    check_error(server.post("/documents", content=json.dumps(NEW), headers=text), 422, "invalid")
    preflight = server.options("/ask", headers={"Origin": server.url, "Access-Control-Request-Method": "POST"})
    assert not [name for name in preflight.headers if name.startswith("access-control")]


def test_the_page_may_load_only_its_own_files(server):
    for path, kind in [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "javascript")]:
        response = server.get(path)
        assert response.status_code == 200
        assert kind in response.headers["content-type"]
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "unsafe" not in policy
    api = server.get("/info").headers
    assert "default-src 'none'" in api["content-security-policy"]
    assert api["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/ask", {"query": "x" * 1001}),
        ("/ask", {"query": "  "}),
        ("/ask", {"query": "\ud800"}),
        ("/ask", {"query": "什" * 1000}),  # within the length, but not within the reader's window
        ("/ask", {"query": "x", "top_k": 51}),
        ("/ask", {"query": "x", "top_k": True}),
        ("/ask", {"query": "x", "surprise": 1}),
        ("/ask", {"query": "x", "filters": {"field": "meta.a", "operator": ">", "value": "b"}}),
        ("/ask", {"query": "x", "filters": {"field": "embedding", "operator": "==", "value": 1}}),
        ("/ask/batch", {"queries": ["x"] * 65}),
        ("/ask/batch", {"queries": []}),
        ("/search", {"query": "x", "filters": {"operator": "NOT", "conditions": [{}]}}),
        ("/documents", {"documents": [{"id": "../etc", "content": "x"}]}),
        ("/documents", {"documents": [{"content": "x", "meta": {"file_path": "/etc/passwd"}}]}),
        ("/documents", {"documents": [{"content": ""}]}),
    ],
)
def test_what_is_not_valid_is_refused(server, path, body):
    content = json.dumps(body)
    response = server.post(path, content=content, headers={"Content-Type": "application/json"})
    check_error(response, 422, "invalid")


def test_a_deep_filter_is_refused(server):
    deep: dict = {"field": "meta.a", "operator": "==", "value": 1}
    for _ in range(400):
        deep = {"operator": "AND", "conditions": [deep]}
    check_error(server.post("/ask", json=ASK | {"filters": deep}), 422, "invalid")
    body = b'{"query": "x", "filters": ' + b'{"operator":"NOT","conditions":[' * 100_000
    check_error(server.post("/ask", content=body, headers={"Content-Type": "application/json"}), 413, "too_large")
    body = body[:900_000]
    assert 400 <= server.post("/ask", content=body, headers={"Content-Type": "application/json"}).status_code < 500


def test_what_is_too_large_is_refused(server):
    check_error(server.post("/ask", content=b"x" * (2**20 + 1)), 413, "too_large")
    limit = server.get("/info").json()["limits"]["upload_bytes"]
    check_error(server.post("/uploads", files={"files": ("a.txt", b"x" * (limit + 1))}), 413, "too_large")

    def endless():  # no Content-Length
        while True:
            yield b"x" * 2**16

    check_error(server.post("/ask", content=endless()), 413, "too_large")


def test_three_hundred_malformed_requests_are_each_refused_in_json(server):
    """Requests with bytes changed, cut off or put in, as they come over the wire; `tests/benchmarks/load.py` does more."""
    draw = random.Random(11)
    address = urlsplit(server.url)
    valid = [
        b"POST /ask HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n"
        b'{"query": "x"}',
        b"GET /documents/abc HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"DELETE /documents/../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ]
    junk = [b"\0", b"\xff\xfe", b"%00", b"%2e%2e%2f", b"\r\n", b'"', b"{", b"}" * 50, b" ", "\u202e".encode(), b"A" * 70_000]
    for _ in range(300):
        data = bytearray(draw.choice(valid))
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(data))
            data[at : at + draw.randint(0, 3)] = draw.choice(junk)
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
            except ConnectionError:
                continue  # it was refused before all was sent
        if not answer:  # no request came of it: its end was cut off
            continue
        head, _, body = answer.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        assert 200 <= status < 500, (bytes(data[:300]), answer[:300])
        if status >= 400:
            assert json.loads(body.partition(b"HTTP/1.1")[0])["error"]["message"], (bytes(data[:300]), answer[:300])
    assert server.post("/ask", json=ASK).status_code == 200
    assert not [line for line in server.log() if line["level"] == "error"]


def test_paths_and_methods_that_there_are_not(server):
    check_error(server.get("/nothing"), 404, "not_found")
    check_error(server.get("/documents/../../../etc/passwd"), 404, "not_found")
    check_error(server.get("/documents/..%2f..%2fetc%2fpasswd"), 404, "not_found")
    check_error(server.get("/page.css/../app.py"), 404, "not_found")
    refused = server.put("/documents/abc")
    check_error(refused, 405, "not_allowed")
    assert refused.headers["allow"] == "DELETE, GET"
