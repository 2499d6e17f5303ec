"""Haystack evaluators of extracted answers."""

from __future__ import annotations

from typing import Any

from haystack import ExtractedAnswer, component

from needle.components.metrics import answer_score, averages


@component
class ExtractedAnswerEvaluator:
    """SQuAD's exact match and F1 of answers, "no answer" among them, against the right texts.

    ```python
    answers = reader.run(queries=queries, documents_per_query=documents)["answers_per_query"]
    found = ExtractedAnswerEvaluator().run(ground_truth_answers=[["1969", "July 1969"], []], predicted_answers=answers)
    print(found["f1"]["score"], found["scores"]["no_answer_f1"])
    ```
    """

    @component.output_types(exact_match=dict[str, Any], f1=dict[str, Any], scores=dict[str, float])
    def run(
        self,
        ground_truth_answers: list[list[str]],
        predicted_answers: list[ExtractedAnswer] | list[list[ExtractedAnswer]],
    ) -> dict[str, Any]:
        """Score the first answer to each question.

        :param ground_truth_answers: of each question, all texts that are right; none, or only "", if it has no answer.
        :param predicted_answers: one answer a question, or a list of answers, best first. An answer whose data is None says
            that there is no answer, and so does an empty list.
        :returns: `exact_match` and `f1`, each with `score`, the mean, and `individual_scores`, one a question, as Haystack's
            `EvaluationRunResult` takes them; `scores`, the means by the names of `averages`, over all (`exact_match`, `f1`,
            `total`), the answerable (`has_answer_*`) and the unanswerable questions (`no_answer_*`). Scores are 0 ... 1.
        :raises ValueError: if there are no questions, or not as many predictions.
        """
        if not ground_truth_answers or len(ground_truth_answers) != len(predicted_answers):
            raise ValueError(
                "ground_truth_answers and predicted_answers must have one entry a question, and at least one; they have "
                f"{len(ground_truth_answers)} and {len(predicted_answers)}."
            )
        texts = [_text(predicted) for predicted in predicted_answers]
        rows = [answer_score(text, right) for text, right in zip(texts, ground_truth_answers, strict=True)]
        scores = averages(rows, [any(right) for right in ground_truth_answers], most=1)
        return {
            "exact_match": {"score": scores["exact_match"], "individual_scores": [row.exact_match for row in rows]},
            "f1": {"score": scores["f1"], "individual_scores": [row.f1 for row in rows]},
            "scores": scores,
        }


def _text(predicted: ExtractedAnswer | list[ExtractedAnswer]) -> str:
    ranked = predicted if isinstance(predicted, list) else [predicted]
    return (ranked[0].data or "") if ranked else ""
