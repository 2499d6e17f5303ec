"""Uploaded files -> passages in the store, one job after another, in the background."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import BinaryIO, Literal

from needle.data.errors import NeedleError, UnreadableFile
from needle.data.files import SkippedFile, SourceFile
from needle.pipelines.qa import QA
from needle.pipelines.server.errors import Refusal
from needle.pipelines.server.limits import Limits
from needle.pipelines.server.metrics import Metrics
from needle.pipelines.server.sandbox import Sandbox

logger = logging.getLogger("needle.server")

#: Ended jobs that can still be asked about.
_REMEMBERED = 1000

State = Literal["queued", "running", "done", "failed"]


@dataclass
class Job:
    """What becomes of an upload. A path is in `indexed` when its passages are committed, and so kept whatever happens."""

    job_id: str
    files: int
    state: State = "queued"
    indexed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)
    passages: int = 0
    error: str | None = None

    @property
    def done(self) -> int:
        return len(self.indexed) + len(self.unchanged) + len(self.skipped)


class Jobs:
    """The queue of uploads. A restarted server has forgotten the jobs, but not what they had indexed."""

    def __init__(self, qa: QA, writing: threading.Lock, limits: Limits, metrics: Metrics):
        """writing: held while the store is changed."""
        self._qa, self._writing, self._limits, self._metrics = qa, writing, limits, metrics
        self._sandbox = Sandbox(limits.convert_bytes, limits.convert_s)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="needle-jobs")
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        metrics.watch("needle_jobs_open", "Indexing jobs that wait or run.", lambda: self.open)

    @property
    def open(self) -> int:
        """Jobs that wait or run."""
        return sum(job.state in ("queued", "running") for job in list(self._jobs.values()))

    def submit(self, files: Sequence[tuple[str, BinaryIO]]) -> Job:
        """Take files, as their paths and open temporary files, which the job closes.

        :raises Refusal: 429 if too many jobs wait.
        """
        with self._lock:
            self.refuse_if_full()
            job = Job(secrets.token_hex(16), len(files))
            ended = [one.job_id for one in self._jobs.values() if one.state in ("done", "failed")]
            for job_id in ended[: max(0, len(ended) - _REMEMBERED)]:
                del self._jobs[job_id]
            self._jobs[job.job_id] = job
        self._pool.submit(self._run, job, files)
        return job

    def refuse_if_full(self) -> None:
        """:raises Refusal:"""
        if self.open >= self._limits.jobs:
            raise Refusal(429, f"{self.open} uploads wait to be indexed; send more later.", retry_after_s=10)

    def get(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def close(self) -> None:
        """End the process that reads files; jobs that wait are given up."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._sandbox.close()

    def _run(self, job: Job, files: Sequence[tuple[str, BinaryIO]]) -> None:
        job.state = "running"
        try:
            for path, file in files:
                with file:
                    self._index(job, path, file.read())
            self._qa.update()
            job.state = "done"
        except NeedleError as error:
            logger.error("job failed", extra={"fields": {"job_id": job.job_id, "error": type(error).__name__}})
            job.state, job.error = "failed", "The store can't be changed at the moment; send the files again."
        except Exception as error:
            logger.exception("job failed", extra={"fields": {"job_id": job.job_id, "error": type(error).__name__}})
            job.state, job.error = "failed", "Something went wrong; the server's log says more."
        self._metrics.jobs.labels(job.state).inc()

    def _index(self, job: Job, path: str, data: bytes) -> None:
        source = SourceFile.of(path, data)
        if self._qa.has(source):
            job.unchanged.append(path)
            return
        try:
            documents = self._sandbox.convert(path, data)
            with self._writing:
                passages = self._qa.index_documents(documents, [source])
        except (UnreadableFile, ValueError) as error:  # ValueError: it holds what can't be stored
            job.skipped.append(SkippedFile(path, str(error)))
            return
        job.passages += passages
        job.indexed.append(path)
