"""Feedback through the Python API, and `needle label` and `needle labels` as users run them: real processes, piped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from haystack.dataclasses import ByteStream

from needle.components.feedback import Verdict
from needle.components.store import SQLiteDocumentStore
from needle.components.weights import open_checkpoint
from needle.data.errors import QueryError
from needle.data.squad import read_squad
from needle.pipelines import QA, Result

NEEDLE = Path(sys.executable).with_name("needle.exe" if os.name == "nt" else "needle")
TARN = "The lighthouse of Tarn was lit in 1842. Its keeper was Ezra Whitcombe, from Müllrose 🐟."
KEEPER = "Who was the keeper of the lighthouse?"
LIT = "When was the lighthouse lit?"
OPERA = "Who wrote the opera about the lighthouse?"
PLACE = "Where was the keeper of the lighthouse from?"

pytestmark = pytest.mark.skipif(not NEEDLE.exists(), reason="the needle command is not installed beside this Python")


@pytest.fixture(scope="module")
def qa() -> QA:
    """A store of one passage; the tests add labels to it and read their own."""
    qa = QA(SQLiteDocumentStore())
    qa.index([ByteStream(TARN.encode(), meta={"file_path": "/docs/tarn.txt"})])
    return qa


class TestApi:
    def test_a_result_stands_for_its_best_answer(self, qa):
        kept = qa.feedback(qa.ask(KEEPER), "wrong-span", "Whitcombe")
        assert qa.labels()[-1] == kept
        assert (kept.verdict, kept.query, kept.answer) == (Verdict.WRONG_SPAN, KEEPER, "Ezra Whitcombe")
        assert kept.passage[kept.start_char : kept.end_char] == "Ezra Whitcombe"
        assert kept.passage[kept.correction_start_char : kept.correction_end_char] == kept.correction == "Whitcombe"
        assert (kept.file_path, kept.page_number) == ("/docs/tarn.txt", 1)
        assert kept.source_id == qa.store.filter_documents()[0].meta["source_id"]

    def test_or_for_no_answer_with_the_passage_that_came_nearest(self, qa):
        result = qa.ask(OPERA)
        kept = qa.feedback(result, Verdict.RIGHT)
        assert (kept.answer, kept.score, kept.passage) == (None, result.no_answer_score, TARN)

    def test_any_of_its_answers_may_be_judged(self, qa):
        result = qa.ask(OPERA)
        assert result.answer is None
        for answer in result.answers:
            kept = qa.feedback(answer, "wrong")
            assert (kept.answer, kept.score) == (answer.data, answer.score)

    def test_where_nothing_was_found_there_is_no_passage(self, qa):
        assert qa.feedback(Result.of("xyzzy?", []), "no answer").passage is None

    def test_versions_tell_what_answered(self, qa, tmp_path):
        kept = qa.feedback(qa.ask(LIT), "right")
        assert kept.needle == "0.1.0"
        assert (kept.reader, kept.pipeline) == ("minilm-squad2 (shipped)", "bm25_qa")
        assert kept.reader_fingerprint == open_checkpoint().fingerprint()

    def test_a_pipeline_without_needles_reader_is_told_by_what_answers(self, qa, tmp_path):
        builder = {"type": "haystack.components.builders.answer_builder.AnswerBuilder"}
        (tmp_path / "own.yaml").write_text(yaml.safe_dump({"components": {"builder": builder}, "connections": []}))
        kept = QA(SQLiteDocumentStore(), tmp_path / "own.yaml").feedback(qa.ask(LIT), "right")
        assert (kept.reader, kept.reader_fingerprint, kept.pipeline) == ("AnswerBuilder", None, str(tmp_path / "own.yaml"))

    def test_labels_make_no_index_anew_and_outlive_the_documents(self, tmp_path):
        file = tmp_path / "tarn.txt"
        file.write_text(TARN)
        qa = QA.open(tmp_path / "store")
        qa.index(file)
        result, revision = qa.ask(LIT), qa.store.revision
        qa.feedback(result, "right")
        assert qa.store.revision == revision
        file.write_text("Nothing of it is left.")
        qa.index(file)
        qa.remove(file)
        assert qa.export_labels(tmp_path / "labels.json").questions == 1
        [question] = read_squad(tmp_path / "labels.json")
        assert (question.question, question.context, question.answers) == (LIT, TARN, ("1842",))

    def test_what_is_no_feedback_is_refused_and_not_kept(self, qa):
        before = len(qa.labels())
        with pytest.raises(ValueError, match="no verdict 'good'; there are 'right', 'wrong', 'wrong span', 'no answer'"):
            qa.feedback(qa.ask(LIT), "good")
        with pytest.raises(ValueError, match="on a Result, also where it says 'no answer', or on an answer, not None"):
            qa.feedback(qa.ask(OPERA).answer, "wrong")
        with pytest.raises(QueryError, match="not blank"):
            qa.feedback(Result.of(" ", []), "right")
        assert len(qa.labels()) == before


def needle(*arguments: str | Path, stdin: bytes = b"", code: int = 0) -> tuple[str, str]:
    done = subprocess.run([NEEDLE, *arguments], input=stdin, capture_output=True, timeout=60, check=False)
    out, err = done.stdout.decode(), done.stderr.decode()
    assert "\x1b" not in out + err
    assert "Traceback" not in err
    assert done.returncode == code, err
    return out, err


def kept(store: Path) -> list[tuple]:
    with SQLiteDocumentStore(store) as opened:
        return [(one.query, str(one.verdict), one.answer, one.correction) for one in opened.labels()]


@pytest.fixture
def store(tmp_path) -> Path:
    QA.open(tmp_path / "store").index([ByteStream(TARN.encode(), meta={"file_path": "/docs/tarn.txt"})])
    return tmp_path / "store"


@pytest.fixture(scope="module")
def one_store(tmp_path_factory) -> Path:
    """For commands that store nothing."""
    folder = tmp_path_factory.mktemp("label") / "store"
    QA.open(folder).index([ByteStream(TARN.encode(), meta={"file_path": "/docs/tarn.txt"})])
    return folder


class TestCommands:
    def test_verdicts_are_piped_listed_and_exported(self, store, tmp_path):
        lines = "s Whitcombe\nright\n\nno-answer\nw müllrose 🐟\n"
        out, err = needle("label", "--store", store, KEEPER, LIT, LIT, OPERA, PLACE, stdin=lines.encode())
        assert err == ""
        assert out.startswith(f"{KEEPER}\n  1. Ezra Whitcombe  ")
        assert "\n  kept as wrong span: Ezra Whitcombe -> Whitcombe\n" in out
        assert out.endswith("4 labels stored, 1 question skipped\n")
        assert kept(store) == [
            (KEEPER, "wrong span", "Ezra Whitcombe", "Whitcombe"),
            (LIT, "right", "1842", None),
            (OPERA, "no answer", None, None),
            (PLACE, "wrong", "Müllrose", "Müllrose 🐟"),
        ]

        rows = [json.loads(line) for line in needle("labels", "--store", store, "--json")[0].splitlines()]
        assert [row["query"] for row in rows] == [KEEPER, LIT, OPERA, PLACE]
        assert {row["passage"] for row in rows} == {TARN}

        out, _ = needle("label", "--store", store, LIT, "--verdict", "wrong", "--correction", "in 1999")
        assert "  kept as wrong: 1842 -> in 1999\n" in out
        out, _ = needle("labels", "--store", store, "--export", tmp_path / "labels.json.gz")
        assert out.splitlines() == [
            f"3 questions exported to {tmp_path / 'labels.json.gz'}",
            "left out: 1 label older than another on the same question and passage",
            "left out: 1 label whose right answer does not stand in the passage",
        ]
        assert [(q.question, q.answers) for q in read_squad(tmp_path / "labels.json.gz")] == [
            (KEEPER, ("Whitcombe",)),
            (OPERA, ()),
            (PLACE, ("Müllrose 🐟",)),
        ]
        listed, _ = needle("labels", "--store", store)
        assert listed.startswith(f"{KEEPER}\n  wrong span: Ezra Whitcombe -> Whitcombe  94%  tarn.txt  20")

    def test_questions_are_read_too_and_a_line_that_is_no_verdict_ends_it(self, store):
        lines = f"{KEEPER}\nwrong span\n\n{LIT}\nmaybe\nr\n"
        out, err = needle("label", "--store", store, stdin=lines.encode(), code=1)
        assert LIT in out
        assert err == "needle: 'maybe' is no verdict; say r, w, s or n, skip, or q to quit.\n"
        assert kept(store) == [(KEEPER, "wrong span", "Ezra Whitcombe", None)]
        needle("label", "--store", store, stdin=f"{LIT}\nq\n{KEEPER}\nr\n".encode())
        needle("label", "--store", store, LIT)  # nothing to read
        assert len(kept(store)) == 1

    @pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
    def test_a_terminal_is_asked_again_and_for_the_right_words(self, store):
        import pty

        ours, theirs = pty.openpty()
        environment = os.environ | {"TERM": "dumb"}
        process = subprocess.Popen(
            [NEEDLE, "label", KEEPER, "--store", store], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        )
        os.close(theirs)
        os.write(ours, b"maybe\ns\nWhitcombe\n")
        shown = b""
        try:
            while data := os.read(ours, 4096):
                shown += data
        except OSError:  # how Linux tells that the other end is closed
            pass
        os.close(ours)
        assert process.wait(60) == 0
        text = shown.decode()
        for told in (
            "[r/w/s/n, Enter skips, q quits]",
            "'maybe' is no verdict",
            "the right words, or Enter:",
            "1 label stored",
        ):
            assert told in text
        assert kept(store) == [(KEEPER, "wrong span", "Ezra Whitcombe", "Whitcombe")]

    def test_two_people_may_label_at_once(self, store):
        commands = [[NEEDLE, "label", "--store", store, *[question] * 5] for question in (LIT, KEEPER)]
        processes = [subprocess.Popen(c, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) for c in commands]
        for process in processes:
            process.communicate(b"r\n" * 5, timeout=60)
        assert [process.returncode for process in processes] == [0, 0]
        assert sorted(kept(store)) == [(LIT, "right", "1842", None)] * 5 + [(KEEPER, "right", "Ezra Whitcombe", None)] * 5

    @pytest.mark.parametrize(
        ("arguments", "code", "complaint"),
        [
            (("label", LIT, "--verdict", "good"), 2, "no verdict 'good'"),
            (("label", LIT, KEEPER, "--verdict", "right"), 2, "It is for one QUESTION"),
            (("label", LIT, "--correction", "1843"), 2, "It goes with --verdict"),
            (("label", LIT, "--verdict", "right", "--correction", "1843"), 1, "takes no correction"),
            (("label", " ", "--verdict", "right"), 1, "not blank"),
            (("labels", "--export", "/nowhere/x.json"), 1, "can't be written"),
            (("labels", "--export", "x.json", "--json"), 2, "JSON already"),
        ],
    )
    def test_what_can_not_be_done_is_told(self, one_store, arguments, code, complaint):
        _, err = needle(*arguments, "--store", one_store, code=code)
        assert complaint in " ".join(err.replace("│", " ").split())

    def test_a_store_must_be_there(self):
        assert "There is no store in 'nowhere'" in needle("labels", "--store", "nowhere", code=1)[1]
        assert "There is no store in 'nowhere'" in needle("label", LIT, "--store", "nowhere", code=1)[1]
