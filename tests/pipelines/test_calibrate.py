"""Scores are fitted to questions whose answers are known, and come true on others."""

import json
import random
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from needle.components.calibration import brier_score, expected_calibration_error
from needle.components.confidence import CALIBRATION_FILE, Confidence
from needle.components.metrics import answer_score
from needle.components.reader import MiniLMReader
from needle.data import SHIPPED_CORPUS, SHIPPED_READER
from needle.data.errors import QueryError
from needle.data.squad import Question, read_squad
from needle.pipelines import QA
from needle.pipelines.calibrate import calibrate_pipeline, calibrate_reader
from needle.pipelines.cli import app

QUESTIONS = read_squad(SHIPPED_CORPUS / "questions.json")


@pytest.fixture(scope="module")
def qa(tmp_path_factory):
    qa = QA.open(tmp_path_factory.mktemp("store"))
    qa.index([SHIPPED_CORPUS / "documents"])
    return qa


def test_scores_fitted_on_some_questions_come_true_on_the_others(qa, monkeypatch):
    mixed = random.Random(1).sample(QUESTIONS, len(QUESTIONS))
    some, others = mixed[::2], mixed[1::2]
    reader = MiniLMReader(document_store=qa.store)
    found = calibrate_pipeline(qa, some)
    monkeypatch.setattr(qa.pipeline.get_component("reader"), "confidence", found.confidence)
    answers = [(q, result.answers[0]) for q, result in zip(others, qa.ask_many([q.question for q in others]), strict=True)]
    right = [not q.is_impossible and answer_score(a.data, (*q.answers, *q.also)).exact_match == 1 for q, a in answers]
    raw = [1 / (1 + np.exp(-a.meta["evidence"]["margin"] - a.meta["evidence"]["prior"])) for _, a in answers]
    chances = [a.score for _, a in answers]
    assert brier_score(chances, right) < brier_score(raw, right)
    assert expected_calibration_error(chances, right) < expected_calibration_error(raw, right)
    assert np.mean(chances) == pytest.approx(np.mean(right), abs=0.1)
    assert found.questions == len(some)
    assert found.knows_no_answer
    assert reader.confidence is None, "another reader is not touched"


def test_without_unanswerable_questions_no_answer_stays_as_it_was():
    reader = MiniLMReader()
    reader.warm_up()
    before = reader.confidence
    found = calibrate_reader(reader, [q for q in QUESTIONS if not q.is_impossible and q.context])
    assert not found.knows_no_answer
    assert (found.confidence.no_answer, found.confidence.null_threshold) == (before.no_answer, before.null_threshold)
    assert found.confidence.answer != before.answer


def test_the_command_keeps_the_fit_in_the_store_and_it_is_used(qa, tmp_path):
    shutil.copytree(qa.store.folder, tmp_path / "store")
    arguments = [str(SHIPPED_CORPUS / "questions.json"), "--store", str(tmp_path / "store"), "--json"]
    result = CliRunner().invoke(app, ["calibrate", *arguments])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    saved = Confidence.load(tmp_path / "store")
    assert report["file"] == str(tmp_path / "store" / CALIBRATION_FILE)
    assert report["null_threshold"] == saved.null_threshold
    assert report["questions"] == saved.about["questions"] == len(QUESTIONS)
    assert 0 < report["after"]["brier_score"] <= report["before"]["brier_score"] + 0.01
    again = QA.open(tmp_path / "store")
    again.ask(QUESTIONS[0].question)
    assert again.pipeline.get_component("reader").confidence == saved


def test_a_reader_alone_is_calibrated_beside_its_weights(tmp_path):
    shutil.copytree(SHIPPED_READER, tmp_path / "reader")
    arguments = [str(SHIPPED_CORPUS / "questions.json"), "--model", str(tmp_path / "reader")]
    result = CliRunner().invoke(app, ["calibrate", *arguments])
    assert result.exit_code == 0, result.output
    assert "expected_calibration_error" in result.stdout
    assert Confidence.load(tmp_path / "reader").about["questions"] <= len(QUESTIONS)


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


def test_too_few_questions_or_answers_all_wrong_are_refused(qa):
    with pytest.raises(QueryError, match="at least 50 questions"):
        calibrate_pipeline(qa, QUESTIONS[:20])
    with pytest.raises(QueryError, match="are wrong: nothing to fit"):
        calibrate_pipeline(qa, [q for q in QUESTIONS if q.is_impossible] * 3)
    with pytest.raises(QueryError, match="'1' has no passage"):
        calibrate_reader(MiniLMReader(), [Question("1", "Who?", "", "")])
