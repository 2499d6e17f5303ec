"""The evaluator of extracted answers, alone and in a pipeline."""

import pytest
from haystack import ExtractedAnswer, Pipeline, component
from haystack.evaluation import EvaluationRunResult

from needle.components.evaluators import ExtractedAnswerEvaluator

RIGHT = [["1969", "20 July 1969"], [], ["Neil Armstrong"], []]


def answers(*texts: str | None) -> list[ExtractedAnswer]:
    return [ExtractedAnswer(query="?", score=0.5, data=text) for text in texts]


def test_one_answer_a_question():
    found = ExtractedAnswerEvaluator().run(RIGHT, answers("July 1969", None, None, "Mars"))
    assert found["exact_match"] == {"score": 0.25, "individual_scores": [0, 1, 0, 0]}
    assert found["f1"] == {"score": pytest.approx(0.45), "individual_scores": [pytest.approx(0.8), 1, 0, 0]}
    assert found["scores"] == {
        "exact_match": 0.25,
        "f1": pytest.approx(0.45),
        "total": 4,
        "has_answer_exact_match": 0,
        "has_answer_f1": pytest.approx(0.4),
        "has_answer_total": 2,
        "no_answer_exact_match": 0.5,
        "no_answer_f1": 0.5,
        "no_answer_total": 2,
    }


def test_of_a_list_of_answers_the_first_counts_and_of_none_no_answer():
    predicted = [answers("1969", None), answers(), answers("Mars", "Neil Armstrong"), answers(None, "Mars")]
    assert ExtractedAnswerEvaluator().run(RIGHT, predicted)["f1"]["individual_scores"] == [1, 1, 0, 1]


def test_an_empty_right_text_is_no_answer():
    assert ExtractedAnswerEvaluator().run([[""]], answers(None))["scores"]["no_answer_total"] == 1


@pytest.mark.parametrize(
    ("right", "predicted", "counts"), [([], [], "0 and 0"), ([[]], [], "1 and 0"), ([], [[]], "0 and 1")]
)
def test_there_is_one_prediction_a_question(right, predicted, counts):
    with pytest.raises(ValueError, match=f"one entry a question, and at least one; they have {counts}"):
        ExtractedAnswerEvaluator().run(right, predicted)


@component
class Fixed:
    """A reader that always answers the same."""

    @component.output_types(answers=list[ExtractedAnswer], answers_per_query=list[list[ExtractedAnswer]])
    def run(self, texts: list[str]):
        return {"answers": answers(*texts), "answers_per_query": [answers(text) for text in texts]}


@pytest.mark.parametrize("output", ["answers", "answers_per_query"])
def test_it_takes_what_a_reader_gives_and_gives_what_a_report_takes(output):
    pipeline = Pipeline()
    pipeline.add_component("reader", Fixed())
    pipeline.add_component("evaluator", ExtractedAnswerEvaluator())
    pipeline.connect(f"reader.{output}", "evaluator.predicted_answers")
    texts = ["1969", "Apollo 11"]
    found = pipeline.run({"reader": {"texts": texts}, "evaluator": {"ground_truth_answers": RIGHT[:2]}})["evaluator"]
    results = {name: found[name] for name in ("exact_match", "f1")}
    report = EvaluationRunResult("moon", {"texts": texts}, results).aggregated_report(output_format="json")
    assert report == {"metrics": ["exact_match", "f1"], "score": [0.5, 0.5]}


def test_it_is_saved_with_a_pipeline():
    pipeline = Pipeline()
    pipeline.add_component("evaluator", ExtractedAnswerEvaluator())
    loaded = Pipeline.loads(pipeline.dumps(), allowed_modules=["needle.*"])
    assert isinstance(loaded.get_component("evaluator"), ExtractedAnswerEvaluator)
