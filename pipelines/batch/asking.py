"""Very many questions -> answers, one file a shard, resumable."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from filelock import FileLock, Timeout

from needle.data.errors import NeedleError, QueryError, StoreError
from needle.data.whole_files import UNFINISHED, replace_file
from needle.pipelines.batch.cluster import Share, absolute, cluster, each
from needle.pipelines.batch.questions import Question, Shard, read_questions, read_shard, write_shards
from needle.pipelines.console_qa import existing_store, open_qa
from needle.pipelines.store_urls import is_url, without_password

if TYPE_CHECKING:
    from needle.pipelines.qa import QA

#: How often a shard is begun before it is given up; a machine that goes may take others' with it.
_TRIES = 10
_MANIFEST, _QUESTIONS, _LOCK = "manifest.json", "questions.jsonl", "lock"


@dataclass
class Report:
    """What became of the questions. answered and refused (of which the line in the output says why): by this run. Those of
    the shards that were there before are neither."""

    questions: int
    shards: int
    answered: int = 0
    refused: int = 0


class _Job(NamedTuple):
    """What a worker needs. revision: of the store that is asked."""

    folder: Path
    store: str | Path
    revision: str
    pipeline: str
    model: str | None
    embedder: str | None
    top_k: int | None


def ask(
    questions: str | Path,
    store: str | Path,
    out: str | Path,
    *,
    pipeline: str = "bm25_qa",
    model: str | None = None,
    embedder: str | None = None,
    top_k: int | None = None,
    shard_size: int = 256,
    readers: int | None = None,
    cpus: int = 1,
    address: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Answer the questions of a file (see `read_questions`) from a store, on Ray. Called again after an interruption, it
    goes on: shards that are there are not answered anew.

    `out` holds the answers, `part-00000.jsonl` and so on, one line a question in the order of the questions: what
    `needle ask --json` prints, with the `id`; a question that can't be asked has an `error` in the place of answers. A file
    that is there is whole. Beside them `manifest.json` tells what they are the answers of.

    :param store, out: folders that all workers reach by these paths; the store's may be a URL. It must not change meanwhile.
    :param shard_size: questions that are answered together; what is lost with a worker.
    :param readers: workers, each with a reader; None for one a GPU, or where there is none one for every `cpus` cores.
    :param address: see `cluster`.
    :param progress: called with "passage" or "question", the number of them done, and of all.
    :raises UnreadableFile: if the questions can't be read. StoreError: if there is no store, or it changed meanwhile.
    :raises NeedleError: if `out` holds the answers of other questions, or of a store or pipeline that was another; if
        another process is at work there; or if workers die of a shard again and again.
    """
    folder, place = Path(out).absolute(), store if is_url(store) else existing_store(Path(store).absolute())
    if is_url(place) and place.startswith("qdrant:///"):
        raise NeedleError("Qdrant's local form can be opened by one process only, and this takes several: name a server.")
    pipeline = absolute(pipeline)
    model, embedder = model and absolute(model), embedder and absolute(embedder)
    qa = open_qa(place, pipeline, model=model, embedder=embedder)
    qa.update(progress)
    with _alone_in(folder):
        fresh = folder / f"{UNFINISHED}questions"
        shards, digest = write_shards(read_questions(questions), fresh, shard_size)
        if not shards:
            raise NeedleError(f"'{questions}' has no question.")
        job = _Job(folder, place, qa.revision, pipeline, model, embedder, top_k)
        count = shards[-1].first + shards[-1].questions
        facts = {"questions": count, "digest": digest, "shard_size": shard_size, "top_k": top_k, "store": job.revision}
        if is_url(place):
            facts["url"] = _digest(without_password(place))  # another store could have as many passages
        _keep_manifest(folder, facts | _about(qa))
        os.replace(fresh, folder / _QUESTIONS)
        del qa
        report = Report(count, len(shards))
        there = set(os.listdir(folder))
        if missing := [shard for shard in shards if shard.name not in there]:
            with cluster(address):
                _answer(job, missing, Share(readers, cpus, gpu=True), report, progress)
    return report


def _answer(
    job: _Job, shards: list[Shard], share: Share, report: Report, progress: Callable[[str, int, int], None] | None
) -> None:
    lost: list[Shard] = []
    done = report.questions - sum(shard.questions for shard in shards)
    for shard, refused in each(partial(_Reader, job), shards, share, _TRIES):
        if refused is None:
            lost.append(shard)
            continue
        report.refused += refused
        report.answered += shard.questions - refused
        done += shard.questions
        if progress is not None:
            progress("question", done, report.questions)
    if lost:
        names = ", ".join(f"{s.name} (questions {s.first + 1} to {s.first + s.questions})" for s in lost)
        raise NeedleError(f"All is answered but {names}: workers died of it {_TRIES} times, perhaps of too little memory.")


class _Reader:
    """In a worker: a store's pipeline, and the shards that it answers."""

    def __init__(self, job: _Job):
        self._job = job
        is_there = is_url(job.store) or (Path(job.store) / "needle.sqlite").is_file()
        self._check(job.revision if is_there else None)
        self._qa = open_qa(job.store, job.pipeline, model=job.model, embedder=job.embedder)
        self._check(self._qa.revision)

    def __call__(self, shard: Shard) -> int:
        """:returns: how many questions could not be asked."""
        file = self._job.folder / shard.name
        if file.exists():  # written by a worker that died before it could say so
            return 0
        lines = list(self._answers(read_shard(self._job.folder / _QUESTIONS, shard)))
        self._check(self._qa.revision)
        _write(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        return sum("error" in line for line in lines)

    def _answers(self, questions: list[Question]) -> Iterator[dict[str, Any]]:
        try:
            results = self._qa.ask_many([question.query for question in questions], self._job.top_k)
        except QueryError as error:
            if len(questions) > 1:  # an error is only for whom it concerns
                half = len(questions) // 2
                yield from self._answers(questions[:half])
                yield from self._answers(questions[half:])
            else:
                yield questions[0]._asdict() | {"error": str(error)}
        else:
            yield from ({"id": q.id, **result.as_json()} for q, result in zip(questions, results, strict=True))

    def _check(self, revision: str | None) -> None:
        if revision != self._job.revision:
            what = "is not there" if revision is None else "has changed since the answering began, or is another one there"
            raise StoreError(
                f"The store '{without_password(self._job.store)}' {what} (on {socket.gethostname()}). All workers must "
                "reach it by this name, and it must stay as it is until all is answered."
            )


def _write(file: Path, text: str) -> None:
    """No Unicode is written as JSON spells it: \\ud800."""
    replace_file(file, lambda path: path.write_text(text, encoding="utf-8", errors="backslashreplace"))


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Make a folder, keep other processes out of it, and remove what killed ones have left half done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / _LOCK, timeout=0):
            for litter in folder.glob(f"{UNFINISHED}*"):
                litter.unlink()
            yield
    except Timeout:
        raise NeedleError(f"Another process writes answers into '{folder}'. Wait for it, or name another folder.") from None
    except OSError as error:
        raise NeedleError(f"'{folder}' can't be written: {error}") from error


def _keep_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """
    :raises NeedleError: if what is there are the answers of something else.
    """
    file = folder / _MANIFEST
    old = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if old or any(folder.glob("part-*.jsonl")):
        other = [f"{name}: {old.get(name)}, now {value}" for name, value in facts.items() if old.get(name) != value]
        if other:
            raise NeedleError(f"'{folder}' holds answers of something else ({'; '.join(other)}). Name another folder.")
    else:
        _write(file, json.dumps(facts, indent=1) + "\n")


def _about(qa: QA) -> dict[str, Any]:
    """What answers depend on, beside the questions and the documents."""
    from needle.components.confidence import confidence_of
    from needle.components.reader import MiniLMReader
    from needle.components.weights import open_checkpoint

    found = [open_checkpoint(part.model) for _, part in qa.pipeline.walk() if isinstance(part, MiniLMReader)]
    calibrations = [confidence_of(reader, qa.folder) for reader in found]
    told = [None if one is None else asdict(one) for one in calibrations]
    return {
        "needle": version("needle-qa"),
        "pipeline": qa.definition,
        "definition": _digest(qa.pipeline.dumps()),
        "reader": [None if reader.weights_file is None else reader.fingerprint() for reader in found],
        "calibration": _digest(json.dumps(told, sort_keys=True)),
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
