"""A server under load, on this machine: `python tests/benchmarks/load.py [--rounds 5] [--soak 300]`.

32 clients (locust's), each of which asks a question when the one before is answered, against `QA.ask_many` on the same
questions, in turns, since other work on the machine comes and goes; then 2,000 malformed requests. With --soak, questions
and uploads for so many seconds, while the server's memory is watched.
"""

import argparse
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import gevent
import httpx
from locust import FastHttpUser, constant, task
from locust.env import Environment
from locust.exception import StopUser
from results import record, table

from needle.data import SHIPPED_CORPUS

NEEDLE = Path(sys.executable).with_name("needle")
QUESTIONS = [
    qa["question"]
    for article in json.loads((SHIPPED_CORPUS / "questions.json").read_text())["data"]
    for paragraph in article["paragraphs"]
    for qa in paragraph["qas"]
]
CLIENTS, QUESTIONS_A_ROUND, MALFORMED = 32, 128, 2000
#: In a process of its own, as the server is: for each line of questions, the seconds that they take in one call.
OFFLINE = """
import json, sys, time
from needle.pipelines import QA
qa = QA.open(sys.argv[1])
for line in sys.stdin:
    begun = time.perf_counter()
    qa.ask_many(json.loads(line))
    print(time.perf_counter() - begun, flush=True)
"""


class Asker(FastHttpUser):
    """Asks what is left to be asked; if that is None, anything, without an end."""

    wait_time = constant(0)
    left: list[str] | None = None

    @task
    def ask(self) -> None:
        if self.left is not None and not self.left:
            raise StopUser
        query = random.choice(QUESTIONS) if self.left is None else self.left.pop()
        self.client.post("/ask", json={"query": query})


class Uploader(FastHttpUser):
    """Replaces a few documents and files again and again."""

    wait_time = constant(2)

    @task
    def add(self) -> None:
        n = random.randrange(20)
        text = f"In version {time.time()} the keeper of rock {n} is {random.choice('ABCDEF')}. " * 50
        self.client.post("/documents", json={"documents": [{"id": f"soak-{n}", "content": text}]})

    @task
    def upload(self) -> None:
        data = f"In version {time.time()} the ferry leaves at {random.randrange(24)}. ".encode() * 100
        with self.client.post(
            "/uploads", files={"files": (f"soak-{random.randrange(20)}.txt", data)}, catch_response=True
        ) as r:
            r.success() if r.status_code in (202, 429) else r.failure(str(r.status_code))


@contextmanager
def serving(store: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    log = store.with_suffix(".log")
    with log.open("wb") as stream:
        command = [str(NEEDLE), "serve", "--store", str(store), "--port", "0"]
        process = subprocess.Popen(command, stderr=stream, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        while not (found := re.search(r"needle listens on (http://\S+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield found[1], process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def load(url: str, users: dict[type[FastHttpUser], int], seconds: float) -> Environment:
    """So many users, for so long, or until they have stopped."""
    environment = Environment(user_classes=list(users), host=url)
    for user, number in users.items():
        user.fixed_count = number
    runner = environment.create_local_runner()
    runner.start(sum(users.values()), spawn_rate=100)
    end = time.monotonic() + seconds
    while time.monotonic() < end and (runner.user_count or not environment.stats.total.num_requests):
        gevent.sleep(0.01)
    runner.quit()
    return environment


def unloaded(url: str, questions: list[str]) -> float:
    """Median seconds of one question after another, by one client."""
    seconds = []
    with httpx.Client(base_url=url) as client:
        for question in questions:
            begun = time.perf_counter()
            client.post("/ask", json={"query": question}).raise_for_status()
            seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[3:])


def malformed(url: str) -> dict[int, int]:
    """How many answers of each status there were; each of them JSON with an error."""
    draw, address = random.Random(4), urlsplit(url)
    bodies = [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"{" * 5000, b"\0" * 100, b'{"query": "' + b"x" * 2000 + b'"}']
    bodies += [
        b'{"query": 1}',
        b'{"query": ""}',
        b'{"query": "\\ud800"}',
        b'{"queries": [""]}',
        b'{"query": "x", "top_k": 1e999}',
    ]
    paths = ["/ask", "/ask/batch", "/ask/stream", "/search", "/documents", "/uploads", "/feedback", "/jobs/x", "/mcp"]
    paths += [
        "/documents/%2e%2e",
        "/documents/..%2f..%2fetc",
        "/%00",
        "/nothing",
        "/documents?limit=-1",
        "/ask?" + "a" * 3000,
    ]
    heads = ["", "Content-Type: application/json\r\n", "Content-Type: multipart/form-data\r\n", "Content-Type: x\r\n"]
    heads += ["Content-Type: multipart/form-data; boundary=b\r\n", "Origin: https://evil.example\r\n", "Bad header\r\n"]
    statuses: dict[int, int] = {}
    for _ in range(MALFORMED):
        method = draw.choice(["POST", "PUT", "PATCH", "BREW", "POST", "POST", "post", "PO ST"])
        body = draw.choice(bodies)
        head = f"{method} {draw.choice(paths)} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{draw.choice(heads)}"
        data = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
            connection.sendall(data)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        status = int(answer.split()[1])
        assert 400 <= status < 500, (data[:200], answer[:200])
        if b"/mcp" not in data:  # its protocol has errors of its own
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"], (data[:200], answer[:200])
        statuses[status] = statuses.get(status, 0) + 1
    return dict(sorted(statuses.items()))


def resident(pid: int) -> float:
    """MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def processor_s(pid: int) -> float:
    """What a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def soak(url: str, pid: int, seconds: float) -> list[list[object]]:
    Asker.left = None
    running = gevent.spawn(load, url, {Asker: 8, Uploader: 2}, seconds)
    samples = []
    begun = time.monotonic()
    while not running.ready():
        gevent.sleep(1)
        samples.append((time.monotonic() - begun, resident(pid)))
    total = running.get().stats.total
    tenths = [[m for at, m in samples if i <= 10 * at / seconds < i + 1] for i in range(10)]
    told = ", ".join(f"{statistics.mean(tenth):.0f}" for tenth in tenths if tenth)
    return [
        [f"soak of {seconds:.0f} s, 8 askers, 2 writers: requests, errors", f"{total.num_requests}, {total.num_failures}"],
        ["memory of the server in each tenth of it, MiB", told],
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--soak", type=float, default=0, help="seconds; 1800 for the half hour")
    options = parser.parse_args()
    command, packages = "python tests/benchmarks/load.py", ("fastapi", "uvicorn", "locust")
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        index = [str(NEEDLE), "index", str(SHIPPED_CORPUS / "documents"), "--store", str(store)]
        subprocess.run(index, check=True, stdout=subprocess.DEVNULL)
        if options.rounds:
            text = (
                f"{QUESTIONS_A_ROUND} questions of the shipped corpus a round, ten passages each; clients on the same cores."
            )
            figures = table(["what", "figure"], under_load(store, options.rounds))
            record("A server under load", f"{command} --rounds {options.rounds}", f"{text}\n\n{figures}", packages)
        if options.soak:
            with serving(store) as (url, process):
                text = table(["what", "figure"], soak(url, process.pid, options.soak))
            record("A server for a while", f"{command} --rounds 0 --soak {options.soak:g}", text, packages)


def under_load(store: Path, rounds: int) -> list[list[object]]:
    asked = random.Random(1).choices(QUESTIONS, k=QUESTIONS_A_ROUND)
    command = [sys.executable, "-c", OFFLINE, str(store)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def offline(questions: list[str]) -> float:
        """Questions a second by `QA.ask_many`."""
        assert child.stdin is not None
        assert child.stdout is not None
        print(json.dumps(questions), file=child.stdin, flush=True)
        return len(questions) / float(child.stdout.readline())

    offline(asked[:16])
    batch: list[float] = []
    served: list[float] = []
    alone: list[float] = []
    waited: list[tuple[float, float]] = []
    failures, work, used = 0, 0.0, 0.0  # the last two: processor seconds
    with serving(store) as (url, process):
        for _ in range(rounds):
            alone.append(unloaded(url, asked[:15]))
            work -= processor_s(child.pid)
            batch.append(offline(asked))
            work += processor_s(child.pid)
            Asker.left = list(asked)
            used -= processor_s(process.pid)
            begun = time.perf_counter()
            total = load(url, {Asker: CLIENTS}, 120).stats.total
            served.append(len(asked) / (time.perf_counter() - begun))
            used += processor_s(process.pid)
            waited.append((total.median_response_time / 1e3, total.get_response_time_percentile(0.95) / 1e3))
            failures += total.num_failures + len(asked) - total.num_requests
        statuses = malformed(url)
    child.kill()
    gain = [b * a for b, a in zip(batch, alone, strict=True)]
    times = [p95 / (a * CLIENTS / g) for (_, p95), a, g in zip(waited, alone, gain, strict=True)]
    return [
        ["QA.ask_many, questions a second", _each(batch, ".2f")],
        [f"served to {CLIENTS} clients, questions a second", _each(served, ".2f")],
        ["share of QA.ask_many's rate", _each([s / b for s, b in zip(served, batch, strict=True)], ".0%")],
        [
            "processor time a question, ms: ask_many, server",
            _each([1e3 * t / rounds / len(asked) for t in (work, used)], ".1f"),
        ],
        ["errors", failures],
        ["one client alone, median s", _each(alone, ".3f")],
        [f"{CLIENTS} clients, median s", _each([median for median, _ in waited], ".2f")],
        [f"{CLIENTS} clients, p95 s", _each([p95 for _, p95 in waited], ".2f")],
        ["batch gain (ask_many's rate x time alone)", _each(gain, ".2f")],
        ["p95 / (time alone x clients / batch gain), to be under 4", _each(times, ".2f")],
        [f"{MALFORMED:,} malformed requests, by status", ", ".join(f"{status}: {n}" for status, n in statuses.items())],
    ]


def _each(values: list[float], form: str) -> str:
    return ", ".join(format(value, form) for value in values)


if __name__ == "__main__":
    main()
