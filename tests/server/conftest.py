"""A real server, `needle serve`, on a store of the shipped corpus; it is killed when its tests are over."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from needle.pipelines import QA

NEEDLE = Path(sys.executable).with_name("needle")


class Server(httpx.Client):
    """A client of the server's, and the server's process."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path):
        super().__init__(base_url=url, timeout=60)
        self.process, self.url, self._log = process, url, log

    def log(self) -> list[dict[str, Any]]:
        """The structured lines so far."""
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]

    def wait(self, job: httpx.Response) -> dict[str, Any]:
        """The state of an upload's job when it has ended."""
        assert job.status_code == 202, job.text
        deadline = time.monotonic() + 60
        while (status := self.get(job.headers["location"]).json())["state"] not in ("done", "failed"):
            assert time.monotonic() < deadline, status
            time.sleep(0.05)
        return status

    def upload(self, name: str, data: bytes) -> dict[str, Any]:
        return self.wait(self.post("/uploads", files={"files": (name, data)}))


@contextmanager
def _serving(store: Path, *options: str, log: Path | None = None) -> Iterator[Server]:
    """`needle serve` on a port that was free; killed at the end."""
    log = log or store.with_suffix(".log")
    command = [str(NEEDLE), "serve", "--store", str(store), "--port", "0", *options]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stderr=stream, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        deadline = time.monotonic() + 60
        while not (found := re.search(r"needle listens on (http://\S+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with Server(process, found[1], log) as server:
            yield server
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def corpus_store(corpus_qa: QA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy for servers, which change it."""
    corpus_qa.update()
    store = tmp_path_factory.mktemp("served") / "store"
    shutil.copytree(corpus_qa.store.folder, store)
    return store


@pytest.fixture(scope="session")
def serving() -> Callable[..., AbstractContextManager[Server]]:
    """Starts servers: `with serving(store, "--option") as server`."""
    return _serving


@pytest.fixture(scope="session")
def server(corpus_store: Path) -> Iterator[Server]:
    """Without tokens, for this machine only."""
    with _serving(corpus_store) as started:
        yield started
