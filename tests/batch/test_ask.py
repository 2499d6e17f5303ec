"""Batch asking on two nodes: whatever dies in the middle, each question is answered once, as `QA.ask_many` answers it."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from haystack import Document
from ray_nodes import Nodes, kill_a_worker

from needle.data import SHIPPED_CORPUS
from needle.data.errors import NeedleError, UnreadableFile
from needle.data.squad import read_squad
from needle.pipelines import QA, batch
from needle.pipelines.batch.questions import read_questions

NEEDLE = Path(sys.executable).with_name("needle")
TOO_LONG = "why " * 400


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Path:
    """42 questions as JSON lines, one of them twice, one that is too long, one without an id."""
    rows = [{"id": q.id, "question": q.question} for q in read_squad(SHIPPED_CORPUS / "questions.json")[:39]]
    rows += [{"id": "long", "question": TOO_LONG}, rows[0], {"query": rows[1]["question"]}]
    file = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def expected(asked, corpus_qa) -> list[dict]:
    """Lines as they must be."""
    questions = list(read_questions(asked))
    results = iter(corpus_qa.ask_many([q.query for q in questions if q.query != TOO_LONG]))
    return [{"id": q.id} | ({} if q.query == TOO_LONG else next(results).as_json()) for q in questions]


def answers(folder: Path) -> list[dict]:
    """All lines, in the files' order; the refused question's without its error."""
    lines = [json.loads(line) for file in sorted(folder.glob("part-*.jsonl")) for line in file.read_text().splitlines()]
    assert [line["id"] for line in lines if "error" in line] in ([], ["long"])
    return [{"id": line["id"]} if "error" in line else line for line in lines]


def test_a_worker_and_a_node_are_killed(nodes: Nodes, asked, expected, corpus_qa: QA, tmp_path):
    told = []

    def progress(thing: str, done: int, total: int) -> None:
        if thing == "question":
            told.append((done, total))
            if len(told) == 2:
                kill_a_worker()
            if len(told) == 4:
                nodes.kill()
            if len(told) == 7:
                nodes.start()
            if len(told) == 9:
                kill_a_worker(1)

    report = batch.ask(
        asked, corpus_qa.store.folder, tmp_path / "out", shard_size=3, address=nodes.address, progress=progress
    )
    assert (report.questions, report.shards, report.answered, report.refused) == (42, 14, 41, 1)
    assert told[-1] == (42, 42)
    assert answers(tmp_path / "out") == expected
    assert not list((tmp_path / "out").glob("unfinished-*"))


def test_a_killed_run_goes_on(nodes: Nodes, asked, expected, corpus_qa: QA, tmp_path):
    out = tmp_path / "out"
    command = [NEEDLE, "batch", "ask", asked, "--store", corpus_qa.store.folder, "--out", out, "--shard-size", "3", "--json"]
    command += ["--address", nodes.address]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(finished := {file: file.stat().st_ino for file in out.glob("part-*.jsonl")}) < 3:
        assert first.poll() is None
        time.sleep(0.05)
    first.kill()
    first.wait()

    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 3  # a question could not be asked, in this run or the first
    report = json.loads(second.stdout)
    assert 0 < report["answered"] <= 42 - 3 * len(finished)
    assert {file: file.stat().st_ino for file in finished} == finished
    assert answers(out) == expected

    third = subprocess.run(command, capture_output=True, text=True)
    assert json.loads(third.stdout) == {"questions": 42, "shards": 14, "answered": 0, "refused": 0}
    assert not third.stderr


def test_answers_of_something_else_are_not_mixed(corpus_qa: QA, tmp_path, monkeypatch):
    def asked(text: str, top_k: int | None = None) -> None:
        (tmp_path / "questions.txt").write_text(text)
        batch.ask(tmp_path / "questions.txt", corpus_qa.store.folder, tmp_path / "out", top_k=top_k)

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(NeedleError, match=r"pip install needle-qa\[ray\]"):
        asked("Who?\n\nWhen?\n")
    with pytest.raises(NeedleError, match=r"answers of something else \(digest: .*, now .*\)\. Name another folder"):
        asked("Who?\nWhere?\n")
    with pytest.raises(NeedleError, match=r"top_k: None, now 3\)"):
        asked("Who?\n\nWhen?\n", top_k=3)


def test_what_is_no_question_is_named(tmp_path):
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"question": "Who?", "id": 7}\n\n{"answer": "him"}\n')
    with pytest.raises(UnreadableFile, match=r"lines\.jsonl', line 3: it needs a 'question'"):
        list(read_questions(lines))
    lines.write_text('{"question": "Who?", "id": 7}\n\n{"query": "When?"}\n')
    assert list(read_questions(lines)) == [(7, "Who?"), (3, "When?")]
    assert len(list(read_questions(SHIPPED_CORPUS / "questions.json"))) == 349
    with pytest.raises(UnreadableFile, match="can't be read"):
        list(read_questions(tmp_path / "nothing.txt"))


def test_a_store_on_postgresql_is_asked_by_its_url(nodes: Nodes, postgresql, tmp_path):
    url = f"{postgresql}&table=batch"
    qa = QA.open(url)
    qa.index([SHIPPED_CORPUS / "documents/antarctica.html"])
    asked = tmp_path / "questions.txt"
    asked.write_text("What is the highest peak of Antarctica?\nWho signed the treaty?\n")
    report = batch.ask(asked, url, tmp_path / "answers", address=nodes.address)
    assert (report.questions, report.answered) == (2, 2)
    results = qa.ask_many(asked.read_text().splitlines())
    assert [line.get("answers") for line in answers(tmp_path / "answers")] == [r.as_json()["answers"] for r in results]
    kept = (tmp_path / "answers/manifest.json").read_text()
    assert '"store": "4 passages"' in kept
    assert url not in kept
    qa.index_documents([Document(content="A new passage.")])
    with pytest.raises(NeedleError, match="store: 4 passages, now 5 passages"):
        batch.ask(asked, url, tmp_path / "answers", address=nodes.address)
