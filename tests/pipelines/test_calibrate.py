"""Scores are fitted to questions whose answers are known, and come true on others."""

import json
import shutil
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from needle.components.confidence import CALIBRATION_FILE, Confidence
from needle.components.reader import MiniLMReader
from needle.data import SHIPPED_CORPUS, SHIPPED_READER
from needle.data.errors import QueryError
from needle.data.squad import Question, read_squad
from needle.pipelines import QA
from needle.pipelines.calibrate import calibrate_pipeline, calibrate_reader, fit, results_of_reader
from needle.pipelines.cli import app
from needle.pipelines.evaluate_answers import evaluate_reader

QUESTIONS = read_squad(SHIPPED_CORPUS / "questions.json")
FEW = QUESTIONS[:: len(QUESTIONS) // 60]


@pytest.fixture
def few(tmp_path):
    """A file of some of the questions."""
    rows = [{"question": q.question, "answers": [*q.answers, *q.also], "context": q.context} for q in FEW]
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "few.jsonl")


def test_without_unanswerable_questions_no_answer_stays_as_it_was():
    reader = MiniLMReader()
    reader.warm_up()
    before = reader.confidence
    found = calibrate_reader(reader, [q for q in QUESTIONS if not q.is_impossible][::3])
    assert not found.knows_no_answer
    assert (found.confidence.no_answer, found.confidence.null_threshold) == (before.no_answer, before.null_threshold)
    assert found.confidence.answer != before.answer


def test_the_command_keeps_the_fit_in_the_store_and_it_is_used(corpus_qa, few, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(corpus_qa.store.folder, store)
    result = CliRunner().invoke(app, ["calibrate", few, "--store", str(store), "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    saved = Confidence.load(store)
    assert report["file"] == str(store / CALIBRATION_FILE)
    assert report["null_threshold"] == saved.null_threshold
    assert report["questions"] == saved.about["questions"] == len(FEW)
    assert 0 < report["after"]["brier_score"] < 0.5
    again = QA.open(store)
    again.ask(FEW[0].question)
    assert again.pipeline.get_component("reader").confidence == saved


def test_a_reader_alone_is_calibrated_beside_its_weights(few, tmp_path):
    shutil.copytree(SHIPPED_READER, tmp_path / "reader")
    before = Confidence.load(tmp_path / "reader")
    result = CliRunner().invoke(app, ["calibrate", few, "--model", str(tmp_path / "reader")])
    assert result.exit_code == 0, result.output
    assert "expected_calibration_error" in result.stdout
    after = Confidence.load(tmp_path / "reader")
    assert after.about["questions"] <= len(FEW)
    assert (after.reader, after != before) == (before.reader, True)


def test_the_threshold_of_half_of_the_questions_serves_the_other_half():
    """In the corpus an answer is likelier than in the questions that the shipped calibration was fitted to."""
    known, new = QUESTIONS[::2], QUESTIONS[1::2]

    def f1(threshold: float | None) -> float:
        return evaluate_reader(MiniLMReader(null_threshold=threshold), new).figures["f1"]

    fitted = f1(calibrate_reader(MiniLMReader(), known).confidence.null_threshold)
    assert fitted > f1(None)
    assert fitted > max(map(f1, (0.0, 1.0, 2.0, 3.0, 4.0))) - 3


def test_where_doubt_tells_nothing_the_threshold_stays_among_the_doubts():
    """Here the reader is right where it doubts, and wrong where it is sure."""
    reader = MiniLMReader()
    results = results_of_reader(reader, QUESTIONS)
    turned = [
        replace(q, answers=(r.answers[0].data,) if q.is_impossible else (), also=())
        for q, r in zip(QUESTIONS, results, strict=True)
    ]
    doubts = [-r.answers[0].meta["evidence"]["margin"] for r in results]
    assert min(doubts) <= fit(reader, turned, results).confidence.null_threshold <= max(doubts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Say what to calibrate"),
        (["--model", "deepset/minilm-uncased-squad2"], "Say what to calibrate"),
        (["--model", str(SHIPPED_READER), "--retriever", "dense"], "are for a store"),
        (["--store", "nowhere"], "no store"),
    ],
)
def test_the_command_says_what_is_missing(arguments, message):
    result = CliRunner().invoke(app, ["calibrate", str(SHIPPED_CORPUS / "questions.json"), *arguments])
    assert result.exit_code == 1
    assert message in result.stderr


def test_too_few_questions_or_answers_all_wrong_are_refused(corpus_qa):
    with pytest.raises(QueryError, match="at least 50 questions"):
        calibrate_pipeline(corpus_qa, QUESTIONS[:20])
    with pytest.raises(QueryError, match="are wrong: nothing to fit"):
        calibrate_pipeline(corpus_qa, [q for q in QUESTIONS if q.is_impossible][:55])
    nearly = [
        replace(q, answers=("no such words",)) if not q.is_impossible and i else q for i, q in enumerate(QUESTIONS[:60])
    ]
    with pytest.raises(QueryError, match="wrong: nothing to fit"):
        calibrate_reader(MiniLMReader(), nearly)
    with pytest.raises(QueryError, match="'1' has no passage"):
        calibrate_reader(MiniLMReader(), [Question("1", "Who?", "", "")])
