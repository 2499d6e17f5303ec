"""Under load: batches, bounds, deadlines; and how a server ends, told to or killed."""

import asyncio
import re
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest

from needle.pipelines.qa import QA

MOON = "When did people first land on the Moon?"


def counted(server, name: str) -> float:
    """A metric's value, added up over its labels."""
    found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", server.get("/metrics").text, re.M)
    return sum(map(float, found))


@pytest.fixture(scope="module")
def narrow(corpus_store, tmp_path_factory, serving):
    """A server that lets few questions wait, and reads few at once."""
    with serving(corpus_store, "--waiting", "8", "--batch", "2", log=tmp_path_factory.mktemp("log") / "narrow") as started:
        yield started


def test_questions_of_many_clients_are_read_in_batches(server):
    batches, questions = counted(server, "needle_batch_questions_count"), counted(server, "needle_batch_questions_sum")
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: server.post("/ask", json={"query": MOON}), range(24)))
    assert {response.json()["answers"][0]["answer"] for response in found} == {"July 20, 1969"}
    read = counted(server, "needle_batch_questions_sum") - questions
    assert read == 24
    assert counted(server, "needle_batch_questions_count") - batches <= 8


def test_questions_with_other_options_do_not_disturb_each_other(server):
    def ask(n: int) -> list[dict]:
        only = {"field": "meta.title", "operator": "==", "value": "moon"} if n % 2 else None
        return server.post("/ask", json={"query": MOON, "top_k": 1 + n % 3, "filters": only}).json()["answers"]

    with ThreadPoolExecutor(12) as pool:
        for n, answers in enumerate(pool.map(ask, range(12))):
            assert len(answers) <= 1 + n % 3
            assert not n % 2 or {a["title"] for a in answers} == {"moon"}


def test_a_full_queue_says_when_to_come_again(narrow):
    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda _: narrow.post("/ask", json={"query": MOON}), range(24)))
    statuses = [response.status_code for response in found]
    assert set(statuses) == {200, 429}
    refused = found[statuses.index(429)]
    assert 1 <= int(refused.headers["retry-after"]) < 60
    assert refused.json()["error"]["code"] == "busy"
    assert narrow.post("/ask/batch", json={"queries": [MOON] * 9}).status_code == 429  # all or nothing
    assert narrow.post("/ask", json={"query": MOON}).status_code == 200


def test_past_its_deadline_a_question_is_not_read_any_more(server):
    read = counted(server, "needle_batch_questions_sum")
    begun = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        body = {"queries": [MOON] * 60, "deadline_s": 1}
        late = [pool.submit(server.post, "/ask/batch", json=body) for _ in range(4)]
        responses = [one.result() for one in late]
    assert {response.status_code for response in responses} == {504}
    assert responses[0].json()["error"]["code"] == "deadline"
    assert time.monotonic() - begun < 10
    assert server.post("/ask", json={"query": MOON}).status_code == 200
    assert counted(server, "needle_batch_questions_sum") - read < 120


async def test_what_a_client_no_longer_waits_for_is_not_read(server):
    read = counted(server, "needle_batch_questions_sum")
    body = httpx.Request("POST", server.url, json={"queries": [MOON] * 64}).content  # eight seconds, if they were all read
    head = (
        "POST /ask/batch HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    address = urlsplit(server.url)
    for _ in range(3):
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(head.encode() + body)
        await writer.drain()
        await asyncio.sleep(0.3)
        writer.close()
    deadline = time.monotonic() + 20
    while counted(server, "needle_questions_open"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert server.post("/ask", json={"query": MOON}).status_code == 200
    assert counted(server, "needle_batch_questions_sum") - read <= 1 + 3 * 3 * 16


def test_told_to_stop_it_finishes_what_it_has_accepted(corpus_store, tmp_path, serving):
    with serving(corpus_store, "--deadline", "300", "--grace", "300", log=tmp_path / "log") as server:
        words = "The lock-keeper of Dunmere is Nell Sand. " * 2000
        with ThreadPoolExecutor(2) as pool:
            asked = pool.submit(server.post, "/ask/batch", json={"queries": [MOON] * 20}, timeout=300)
            job = server.post("/uploads", files=[("files", (f"lock-{i}.txt", f"{i} {words}")) for i in range(12)])
            while counted(server, "needle_questions_open") < 20:
                time.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            refused = httpx.post(f"{server.url}/ask", json={"query": MOON})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
            assert "retry-after" in refused.headers
            assert httpx.get(f"{server.url}/health/ready").status_code == 503
            assert job.status_code == 202
            assert len(asked.result().json()["results"]) == 20
        assert server.process.wait(300) == 0
    assert sum(path.startswith("uploads/lock-") for path in QA.open(corpus_store).store.files()) == 12


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path, serving):
    store = tmp_path / "store"
    acknowledged: list[str] = []
    for round_ in range(2):
        with serving(store, log=tmp_path / f"log{round_}") as server:
            stop = threading.Event()

            def write(name: str, server=server, stop=stop, round_=round_) -> None:
                for n in range(10_000):
                    id_ = f"{name}-{round_}-{n}"
                    text = f"The code word of {id_} is {id_[::-1]}. " * 30
                    try:
                        if name == "upload":
                            path = server.upload(f"{id_}.txt", text.encode())["indexed"]
                            acknowledged.extend(path)
                        else:
                            documents = [{"id": id_, "content": text}]
                            server.post("/documents", json={"documents": documents}).raise_for_status()
                            acknowledged.append(id_)
                    except httpx.TransportError:
                        return
                    if stop.is_set():
                        return

            threads = [threading.Thread(target=write, args=[name]) for name in ("a", "b", "upload")]
            for thread in threads:
                thread.start()
            wanted = len(acknowledged) + 25
            deadline = time.monotonic() + 30
            while len(acknowledged) < wanted:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            server.process.send_signal(signal.SIGKILL)
            stop.set()
            for thread in threads:
                thread.join(30)
    kept = QA.open(store).store
    known = set(kept.files()) | set(kept.get_metadata_field_unique_values("source_id", size=10**6)[0])
    assert len(acknowledged) >= 50
    assert not set(acknowledged) - known


def test_slow_senders_are_cut_off(server):
    """Not all of a body comes: the server does not wait for ever (thirty seconds), and meanwhile serves others."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(b"POST /ask HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
        assert server.post("/ask", json={"query": MOON}).status_code == 200
