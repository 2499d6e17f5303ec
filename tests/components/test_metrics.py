"""Exact match and F1 as SQuAD's official script computes them."""

import gzip
import json

import pytest

from needle.components.metrics import exact_match, f1, normalise_answer, squad_scores
from needle.data.squad import Question, read_squad


@pytest.mark.parametrize(
    ("text", "normalised"),
    [("The Eiffel Tower!", "eiffel tower"), ("  an  A the ", ""), ("U.S.", "us"), ("théâtre", "théâtre"), ("", "")],
)
def test_normalisation_ignores_case_articles_punctuation_and_space(text, normalised):
    assert normalise_answer(text) == normalised


def test_f1_is_the_overlap_of_tokens():
    assert f1("the big cat", "big black cat") == pytest.approx(0.8)  # 2 of 2 and 2 of 3 tokens
    assert f1("cat", "dog") == 0
    assert f1("", "") == 1
    assert f1("the", "cat") == 0


def test_exact_match_is_after_normalisation():
    assert exact_match("The cat.", "cat") == 1
    assert exact_match("cats", "cat") == 0


def test_the_best_of_several_answers_counts():
    questions = [Question("1", "?", "", "", ("1969", "20 July 1969")), Question("2", "?", "", "")]
    scores = squad_scores(questions, {"1": "July 1969", "2": ""})
    assert scores["f1"] == pytest.approx((80 + 100) / 2)
    assert scores["has_answer_exact_match"] == 0
    assert scores["no_answer_exact_match"] == 100


def test_questions_without_a_prediction_are_not_counted():
    assert squad_scores([Question("1", "?", "", "", ("a b",))], {}) == {}


def test_equal_to_the_official_script_on_published_predictions(shared):
    """BERT-large on SQuAD 2.0 dev; the official figures stand in shared/README.md."""
    questions = read_squad(shared / "data/squad/dev-v2.0.json.gz")
    with gzip.open(shared / "data/squad/dev-v2.0-predictions-bert-large.json.gz") as file:
        scores = squad_scores(questions, json.load(file))
    assert scores["exact_match"] == 78.74168280973637
    assert scores["f1"] == pytest.approx(81.77528052374727, abs=1e-11)
    assert scores["has_answer_exact_match"] == pytest.approx(74.10593792172739, abs=1e-11)
    assert scores["has_answer_f1"] == pytest.approx(80.18183293833516, abs=1e-11)
    assert scores["no_answer_exact_match"] == scores["no_answer_f1"] == pytest.approx(83.36417157275021, abs=1e-11)
    assert scores["total"] == 11873
