"""Exact match and F1 as SQuAD's official script computes them, and what follows from them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from needle.components.metrics import (
    AnswerScore,
    Detection,
    abstention_curve,
    answer_score,
    best_thresholds,
    columns,
    exact_match,
    f1,
    no_answer_detection,
    normalise_answer,
    squad_scores,
    top_n_score,
)
from needle.data.squad import Question, read_predictions, read_squad


def question(id_: str, *answers: str) -> Question:
    return Question(id_, "?", "", "", answers)


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


class TestAnswerScore:
    def test_the_best_right_answer_counts_for_each_measure(self):
        assert answer_score("July 1969", ["1969", "20 July 1969"]) == AnswerScore(0, pytest.approx(0.8))
        assert answer_score("1969", ["20 July 1969", "1969."]) == AnswerScore(1, 1)

    def test_without_a_right_answer_only_no_answer_is_right(self):
        assert answer_score("", []) == AnswerScore(1, 1)
        assert answer_score("1969", []) == AnswerScore(0, 0)
        assert answer_score("", ["1969"]) == AnswerScore(0, 0)

    def test_a_right_answer_that_normalises_to_nothing_does_not_count(self):
        assert answer_score("", [".", "interventionism"]) == AnswerScore(0, 0)  # as in SQuAD dev, 5730b7ce069b5314008322c4
        assert answer_score("", ["."]) == AnswerScore(1, 1)

    @given(*[st.text("ab the.", max_size=12)] * 2)
    def test_against_one_answer_it_is_exact_match_and_f1(self, prediction, answer):
        assert answer_score(prediction, [answer]) == (exact_match(prediction, answer), f1(prediction, answer))


class TestTopN:
    RANKED = ("Apollo 11", "July 1969", "", "1969")

    @pytest.mark.parametrize(("n", "score"), [(1, (0, 0)), (2, (0, 2 / 3)), (3, (0, 2 / 3)), (4, (1, 1)), (9, (1, 1))])
    def test_any_of_the_first_n_may_be_right(self, n, score):
        assert top_n_score(self.RANKED, ["1969"], n) == pytest.approx(score)

    def test_no_answer_is_an_answer_among_them(self):
        assert top_n_score(self.RANKED, [], 2) == (0, 0)
        assert top_n_score(self.RANKED, [], 3) == (1, 1)

    def test_no_prediction_at_all_says_no_answer(self):
        assert top_n_score([], [], 1) == (1, 1)
        assert top_n_score([], ["1969"], 1) == (0, 0)

    def test_n_below_1_is_refused(self):
        with pytest.raises(ValueError, match="at least 1, not 0"):
            top_n_score(["1969"], ["1969"], 0)


class TestSquadScores:
    def test_answerable_and_unanswerable_questions_are_told_apart(self):
        questions = [question("1", "1969", "20 July 1969"), question("2"), question("3")]
        assert squad_scores(questions, {"1": "July 1969", "2": "", "3": "1969"}) == {
            "exact_match": pytest.approx(100 / 3),
            "f1": pytest.approx((80 + 100) / 3),
            "total": 3,
            "has_answer_exact_match": 0,
            "has_answer_f1": pytest.approx(80),
            "has_answer_total": 1,
            "no_answer_exact_match": 50,
            "no_answer_f1": 50,
            "no_answer_total": 2,
        }

    def test_a_file_of_version_1_has_no_unanswerable_questions(self):
        scores = squad_scores([question("1", "1969")], {"1": ""})
        assert scores == dict.fromkeys(["exact_match", "f1", "has_answer_exact_match", "has_answer_f1"], 0) | {
            "total": 1,
            "has_answer_total": 1,
        }

    def test_questions_without_a_prediction_are_not_counted(self):
        assert squad_scores([question("1", "a b")], {}) == {}


QUESTIONS = (question("sure", "1969"), question("near", "20 July 1969"), question("none"), question("far", "1842"))
PREDICTIONS = {"sure": "1969", "near": "July 1969", "none": "1969", "far": "1842"}


class TestBestThresholds:
    def test_worked_example(self):
        """Of 4 questions are right: 1 if none is answered; then, the most probable answers first, 2 with that to "sure", 2
        (by F1 2.8) with "near", 1 (1.8) with "none" and 2 (2.8) with "far"."""
        probabilities = {"far": 0.9, "none": 0.6, "near": 0.3, "sure": 0.1}
        found = best_thresholds(QUESTIONS, PREDICTIONS, probabilities)
        assert found == {
            "best_exact_match": 50,
            "best_exact_match_threshold": 0.1,
            "best_f1": pytest.approx(70),
            "best_f1_threshold": 0.3,
        }

    def test_where_answering_nothing_is_best_the_threshold_is_0(self):
        found = best_thresholds([question("1")], {"1": "1969"}, {"1": 0.2})
        assert (found["best_f1"], found["best_f1_threshold"]) == (100, 0)

    def test_questions_without_a_prediction_are_not_counted(self):
        assert best_thresholds(QUESTIONS, {"sure": "1969"}, {"sure": -3.0, "far": -9.0})["best_f1"] == 100
        assert best_thresholds(QUESTIONS, {}, {}) == {}

    @pytest.mark.parametrize("probabilities", [{}, {"sure": float("nan")}])
    def test_a_prediction_without_a_probability_is_refused(self, probabilities):
        with pytest.raises(ValueError, match="'sure' has a prediction and no probability"):
            best_thresholds(QUESTIONS, {"sure": "1969"}, probabilities)

    @given(
        st.lists(st.tuples(st.sampled_from(["", "x", "x y"]), st.sampled_from(["", "x", "y z"])), min_size=1), st.randoms()
    )
    def test_no_threshold_gives_a_better_score(self, pairs, random):
        """With different probabilities: the best of trying each, and of answering nothing."""
        questions = [question(str(i), *filter(None, [answer])) for i, (answer, _) in enumerate(pairs)]
        predictions = {str(i): text for i, (_, text) in enumerate(pairs)}
        ranks = random.sample(range(len(pairs)), len(pairs))
        probabilities = {str(i): rank / len(pairs) for i, rank in enumerate(ranks)}

        def score(threshold: float, name: str) -> float:
            told = {id_: text if probabilities[id_] <= threshold else "" for id_, text in predictions.items()}
            return squad_scores(questions, told)[name]

        found = best_thresholds(questions, predictions, probabilities)
        for name in ("exact_match", "f1"):
            best = max(score(threshold, name) for threshold in [-1.0, *probabilities.values()])
            assert found[f"best_{name}"] == pytest.approx(best)


@pytest.fixture(scope="module")
def published(shared):
    questions = read_squad(shared / "data/squad/dev-v2.0.json.gz")
    return questions, read_predictions(shared / "data/squad/dev-v2.0-predictions-bert-large.json.gz")


class TestPublishedPredictions:
    """BERT-large on SQuAD 2.0 dev; the official figures stand in shared/README.md."""

    def test_scores_are_the_official_scripts(self, published):
        assert squad_scores(*published) == {
            "exact_match": 78.74168280973637,
            "f1": 81.77528052374727,
            "total": 11873,
            "has_answer_exact_match": 74.10593792172739,
            "has_answer_f1": 80.18183293833516,
            "has_answer_total": 5928,
            "no_answer_exact_match": 83.36417157275021,
            "no_answer_f1": 83.36417157275021,
            "no_answer_total": 5945,
        }

    def test_without_probabilities_the_best_threshold_changes_nothing(self, published):
        questions, predictions = published
        assert best_thresholds(questions, predictions, dict.fromkeys(predictions, 0.0)) == {
            "best_exact_match": 78.74168280973637,
            "best_exact_match_threshold": 0,
            "best_f1": pytest.approx(81.77528052374727, abs=1e-11),
            "best_f1_threshold": 0,
        }


def test_no_answer_detection():
    said, true = [True, True, True, False, False], [True, False, False, True, False]
    assert no_answer_detection(said, true) == Detection(pytest.approx(1 / 3), 1 / 2, pytest.approx(2 / 5))
    assert no_answer_detection([False, False], [False, True]) == Detection(0, 0, 0)
    assert no_answer_detection([False], [False]) == Detection(0, 0, 0)


class TestAbstentionCurve:
    def test_worked_example(self):
        """The second most confident answer is to an unanswerable question; two have the same confidence."""
        curve = abstention_curve([0.5, 0.9, 0.8, 0.5], [0.5, 1, 1, 0], [True, True, False, True])
        assert curve.threshold.tolist() == [0.9, 0.8, 0.5]
        assert curve.coverage.tolist() == [0.25, 0.5, 1]
        assert curve.precision.tolist() == [1, 0.5, 0.375]
        assert curve.recall.tolist() == pytest.approx([1 / 3, 1 / 3, 0.5])

    def test_without_answerable_questions_recall_is_0(self):
        assert abstention_curve([0.5], [1], [False]).recall.tolist() == [0]

    @given(st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.7]), st.floats(0, 1), st.booleans()), min_size=1))
    def test_a_point_is_what_answering_from_its_threshold_on_gives(self, rows):
        for threshold, coverage, precision, recall in zip(*abstention_curve(*zip(*rows, strict=True)), strict=True):
            given_ = [score * has for confidence, score, has in rows if confidence >= threshold]
            assert coverage == pytest.approx(len(given_) / len(rows))
            assert precision == pytest.approx(sum(given_) / len(given_))
            assert recall == pytest.approx(sum(given_) / max(1, sum(has for *_, has in rows)))


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"ours": [1, 2], "theirs": [1]}, r"not the shapes \{'ours': \(2,\), 'theirs': \(1,\)\}"),
        ({"ours": []}, r"at least one question, not the shapes \{'ours': \(0,\)\}"),
        ({"ours": [[1]]}, "one value a question"),
        ({"ours": [1, 0], "theirs": [1, float("nan")]}, r"theirs\[1\] is NaN"),
    ],
)
def test_values_that_do_not_belong_together_are_refused(values, complaint):
    with pytest.raises(ValueError, match=complaint):
        columns(**values)
