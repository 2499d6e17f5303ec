"""Evaluation of answers: what became of each question, and the figures that follow from it."""

import pytest
from haystack import Document

from needle.components.reader import MiniLMReader
from needle.data.errors import QueryError
from needle.data.squad import Question
from needle.pipelines import QA
from needle.pipelines.evaluate_answers import (
    Outcome,
    differences,
    evaluate_pipeline,
    evaluate_predictions,
    evaluate_reader,
)

TARN = "The lighthouse of Tarn was lit in 1842. Its keeper was Ezra Whitcombe."
QUILL = "The quill of Orm was red. It was cut by Ada Pell, who lived by the sea."


def asked(id_: str, question: str, *answers: str, context: str = TARN) -> Question:
    starts = tuple(context.find(answer) for answer in answers)
    return Question(id_, question, context, "tarn", answers, starts)


RIGHT = asked("right", "When was the lighthouse of Tarn lit?", "1842")
IMPOSSIBLE = asked("impossible", "Who painted the lighthouse of Tarn?")
ELSEWHERE = asked("elsewhere", "Who cut the quill of Orm?", "Ada Pell", context=QUILL)
MISSED = asked("missed", "What was lit in 1842?", "a bonfire", context="Xyzzy plugh: a bonfire.")
WRONG = asked("wrong", "Who was the keeper of the lighthouse of Tarn?", "The lighthouse")


@pytest.fixture(scope="module")
def evaluation():
    qa = QA.from_documents([Document(content=TARN, meta={"title": "Tarn"}), Document(content=QUILL)])
    told: list[tuple[int, int]] = []
    questions = [RIGHT, IMPOSSIBLE, ELSEWHERE, MISSED, WRONG]
    found = evaluate_pipeline(qa, questions, lambda *numbers: told.append(numbers))
    assert told == [(5, 5)]
    return found


class TestPipeline:
    def test_what_became_of_each_question(self, evaluation):
        outcomes = {one.question.id: one.outcome for one in evaluation.judged}
        assert outcomes == {
            "right": Outcome.RIGHT,
            "impossible": Outcome.RIGHT,
            "elsewhere": Outcome.RIGHT,
            "missed": Outcome.RETRIEVER_MISSED,
            "wrong": Outcome.WRONG_SPAN,
        }

    def test_where_each_answer_was_and_was_looked_for(self, evaluation):
        right, impossible, elsewhere, missed, _ = evaluation.judged
        assert (right.prediction, right.exact_match, right.f1, right.found_rank) == ("1842", 1.0, 1.0, 1)
        for place in (right.gold, right.predicted):
            assert place.passage[place.start_char : place.end_char] == "1842"
        assert right.predicted.source == "Tarn"
        assert (impossible.prediction, impossible.gold, impossible.found_rank) == ("", None, None)
        assert elsewhere.predicted.passage == QUILL
        assert missed.found_rank is None
        assert all(one.seconds > 0 for one in evaluation.judged), "so few are all timed"

    def test_figures(self, evaluation):
        figures = evaluation.figures
        assert (figures["total"], figures["has_answer_total"], figures["no_answer_total"]) == (5, 4, 1)
        assert figures["exact_match"] == 60.0
        assert figures["has_answer_exact_match"] == 50.0
        assert figures["recall@1"] == figures["recall@10"] == 75.0
        assert figures["top_1_exact_match"] == 50.0
        assert figures["reader_exact_match"] == pytest.approx(200 / 3)
        assert figures["no_answer_recall"] == 100.0
        assert figures["questions_per_second"] > 0
        assert 0 < figures["latency_p50_ms"] <= figures["latency_p95_ms"] <= figures["latency_p99_ms"]

    def test_the_funnel_counts_what_each_stage_kept_and_each_outcome(self, evaluation):
        assert evaluation.funnel == {
            "questions": 5,
            "with an answer": 4,
            "passage found": 3,
            "right among the first 5": evaluation.funnel["right among the first 5"],
            "right and first": 2,
            "right": 3,
            "wrong span": 1,
            "retriever missed": 1,
            "abstained wrongly": 0,
            "should have abstained": 0,
        }
        assert 2 <= evaluation.funnel["right among the first 5"] <= 3


class TestReader:
    def test_every_question_with_its_own_passage(self):
        evaluation = evaluate_reader(MiniLMReader(), [RIGHT, IMPOSSIBLE, ELSEWHERE])
        assert [one.outcome for one in evaluation.judged] == [Outcome.RIGHT] * 3
        assert evaluation.figures["f1"] == 100.0
        assert evaluation.name == "minilm-squad2 (shipped)"
        assert evaluation.predictions == {"right": "1842", "impossible": "", "elsewhere": "Ada Pell"}

    def test_abstaining_wrongly_and_not_abstaining(self):
        eager = MiniLMReader(null_threshold=-99.0)
        [judged] = evaluate_reader(eager, [RIGHT]).judged
        assert (judged.outcome, judged.answers[0]) == (Outcome.ABSTAINED_WRONGLY, "1842")
        stubborn = MiniLMReader(null_threshold=99.0)
        [judged] = evaluate_reader(stubborn, [IMPOSSIBLE]).judged
        assert judged.outcome is Outcome.SHOULD_HAVE_ABSTAINED

    def test_a_question_without_a_passage(self):
        with pytest.raises(QueryError, match="'x' has no passage"):
            evaluate_reader(MiniLMReader(), [Question("x", "Who?", "", "")])


def test_saved_answers_and_differences(evaluation):
    questions = [one.question for one in evaluation.judged]
    same = evaluate_predictions("saved", questions, evaluation.predictions)
    assert same.figures["exact_match"] == evaluation.figures["exact_match"]
    assert differences(evaluation, same)["exact_match"]["mean"] == 0
    worse = evaluate_predictions("worse", questions, {"impossible": "Ezra"})
    found = differences(evaluation, worse)["exact_match"]
    assert (found["mean"], found["better"], found["worse"]) == (60.0, 3, 0)
