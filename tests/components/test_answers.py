"""Spans of many passages become answers: merged, ranked, without overlaps, with "no answer" where it belongs."""

import math

import pytest
from haystack import Document

from needle.components.answers import Candidate, priors, probability, rank_answers
from needle.components.calibration import Calibration
from needle.components.confidence import FEATURES, NO_RIVAL, Confidence


def span(document: Document, text: str, margin: float) -> Candidate:
    start = document.content.index(text)
    return Candidate(document, start, start + len(text), margin)


MOON = Document(content="Apollo 11 landed on 20 July 1969. Neil Armstrong stepped out first.", meta={"page_number": 3})
RACE = Document(content="On the 20 July, 1969, two men landed. Armstrong led.", score=7.5)


def test_answers_are_ranked_by_margin_with_probabilities():
    found = rank_answers("q", [span(MOON, "20 July 1969", 2.0), span(RACE, "Armstrong", 3.0)], 5, False, 0.0)
    assert [a.data for a in found] == ["Armstrong", "20 July 1969"]
    assert [a.score for a in found] == [pytest.approx(1 / (1 + math.exp(-m))) for m in (3.0, 2.0)]
    assert probability(-1000) == 0
    assert probability(1000) == 1


def test_an_answer_from_a_passage_retrieved_with_a_lower_score_counts_for_less():
    found = [span(MOON, "20 July 1969", 2.0), span(RACE, "Armstrong", 3.0)]
    behind = [found[0], Candidate(RACE, found[1].start_char, found[1].end_char, margin=3.0, prior=-1.5)]
    answers = rank_answers("q", behind, 5, True, 0.0)
    assert [a.data for a in answers] == ["20 July 1969", "Armstrong", None]
    assert [a.score for a in answers[:2]] == [pytest.approx(probability(2.0)), pytest.approx(probability(1.5))]
    assert answers[1].meta["places"][0]["log_odds"] == 1.5
    assert rank_answers("q", [Candidate(MOON, 0, 6, margin=1.0, prior=-1.5)], 5, True, 0.0)[0].data is None


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([20.0, 10.0, 5.0], [0.0, -3.0, -4.5]),
        ([0.5, 0.8], [-2.25, 0.0]),  # in whatever order
        ([0.5, -0.2], [0.0, -6.0]),  # below 0 is no worse than nothing
        ([3.0], [0.0]),
        ([3.0, 3.0], [0.0, 0.0]),
        ([-1.0, -2.0], [0.0, 0.0]),
        ([0.0, 0.0], [0.0, 0.0]),
        ([2.0, None], [0.0, 0.0]),
        ([], []),
    ],
)
def test_what_a_passage_is_behind_the_best_retrieved(scores, expected):
    documents = [Document(content=str(i), score=score) for i, score in enumerate(scores)]
    assert priors(documents, 6.0) == pytest.approx(expected)


def test_equal_texts_are_one_answer_that_lists_every_place():
    [answer] = rank_answers("q", [span(MOON, "20 July 1969", 2.0), span(RACE, "20 July, 1969", 3.0)], 5, False, 0.0)
    assert answer.data == "20 July, 1969"
    assert answer.document is RACE
    assert [(p["document_id"], p["start_char"]) for p in answer.meta["places"]] == [(RACE.id, 7), (MOON.id, 20)]
    assert answer.meta["retrieval_score"] == 7.5


def test_of_overlapping_spans_of_one_place_the_best_is_kept():
    found = [span(MOON, "Neil Armstrong", 2.0), span(MOON, "Armstrong", 1.0), span(MOON, "Neil Armstrong stepped", 0.5)]
    assert [a.data for a in rank_answers("q", found, 5, False, 0.0)] == ["Neil Armstrong"]


def test_a_place_shown_by_two_overlapping_passages_counts_once():
    text = MOON.content
    passages = [
        Document(content=text[a:b], meta={"source_id": "s", "start_char": a, "end_char": b}) for a, b in [(0, 50), (20, 68)]
    ]
    [answer] = rank_answers("q", [span(p, "1969", 1.0 + i) for i, p in enumerate(passages)], 5, False, 0.0)
    assert len(answer.meta["places"]) == 1
    assert answer.meta["places"][0]["start_char"] == text.index("1969")


def test_the_context_is_the_sentence_around_the_answer():
    [answer] = rank_answers("q", [span(MOON, "Armstrong", 1.0)], 1, False, 0.0)
    assert answer.context == "Neil Armstrong stepped out first."
    assert answer.context[answer.context_offset.start : answer.context_offset.end] == "Armstrong"
    assert MOON.content[answer.document_offset.start : answer.document_offset.end] == "Armstrong"


def test_an_answer_over_two_sentences_has_both_as_context():
    [answer] = rank_answers("q", [span(MOON, "1969. Neil", 1.0)], 1, False, 0.0)
    assert answer.context == MOON.content


def test_the_page_counts_form_feeds_before_the_answer():
    paged = Document(content="One.\fTwo.\fThree.", meta={"page_number": 4})
    [answer] = rank_answers("q", [span(paged, "Three", 1.0)], 1, False, 0.0)
    assert answer.meta["page_number"] == 6


@pytest.mark.parametrize(("threshold", "first"), [(0.0, None), (-1.5, None), (0.5, None), (1.5, "Armstrong")])
def test_no_answer_comes_first_when_no_span_beats_the_null_score_by_the_threshold(threshold, first):
    found = rank_answers("q", [span(RACE, "Armstrong", -1.0)], 5, True, threshold)
    assert found[0].data == first
    assert len(found) == 2
    assert sum(a.score for a in found) == pytest.approx(1)


def test_no_answer_never_displaces_the_best_answer_that_passed():
    found = rank_answers("q", [span(RACE, "Armstrong", 2.0), span(MOON, "Apollo 11", -4.0)], 5, True, 0.0)
    assert [a.data for a in found] == ["Armstrong", None, "Apollo 11"]


def test_top_k_counts_answers_and_zero_is_a_value():
    candidates = [span(MOON, "Apollo 11", 1.0), span(MOON, "1969", 2.0), span(RACE, "two men", 3.0)]
    assert [a.data for a in rank_answers("q", candidates, 2, False, 0.0)] == ["two men", "1969"]
    assert rank_answers("q", candidates, 0, False, 0.0) == []
    assert [a.data for a in rank_answers("q", candidates, 0, True, 0.0)] == [None]


def test_without_passages_there_is_surely_no_answer():
    [null] = rank_answers("q", [], 5, True, 0.0)
    assert (null.data, null.score, null.document) == (None, 1.0, None)
    assert rank_answers("q", [], 5, False, 0.0) == []


def test_answers_that_are_only_an_article_or_punctuation_are_not_merged_with_each_other():
    text = Document(content="The % sign, the # sign.")
    found = rank_answers("q", [span(text, "%", 2.0), span(text, "#", 1.0)], 5, False, 0.0)
    assert [a.data for a in found] == ["%", "#"]


@pytest.mark.parametrize("page", ["iv", None, float("inf"), [3]])
def test_a_page_number_that_is_none_counts_as_the_first(page):
    [answer] = rank_answers(
        "q", [span(Document(content="One.\fTwo.", meta={"page_number": page}), "Two", 1.0)], 1, False, 0.0
    )
    assert answer.meta["page_number"] == 2


def test_passages_of_haystacks_own_splitter_are_places_of_their_source():
    """It tells where a passage begins as split_idx_start."""
    text = "The keeper was Ada Pell. The mate was Ada Pell too."
    passages = [Document(content=text[a:b], meta={"source_id": "s", "split_idx_start": a}) for a, b in [(0, 24), (25, 51)]]
    [answer] = rank_answers("q", [span(p, "Ada Pell", 2.0 - i) for i, p in enumerate(passages)], 5, False, 0.0)
    assert [p["start_char"] for p in answer.meta["places"]] == [15, 38]


def test_passages_whose_place_in_their_source_is_not_told_do_not_overlap():
    passages = [Document(content=c, meta={"source_id": "s"}) for c in ("The keeper was Ada Pell.", "They said it was Tom.")]
    found = rank_answers("q", [span(passages[0], "Ada Pell", 2.0), span(passages[1], "Tom", 1.0)], 5, False, 0.0)
    assert [a.data for a in found] == ["Ada Pell", "Tom"]


def test_an_answer_carries_the_evidence_that_its_probability_is_computed_from():
    found = [span(MOON, "20 July 1969", 2.0), span(RACE, "20 July, 1969", 3.0), span(RACE, "Armstrong led", 1.0)]
    first, second, null = rank_answers("q", found, 5, True, 0.0)
    expected = {"margin": 3.0, "prior": 0.0, "gap": 2.0, "sources": 2, "words": 3, "passages": 2}
    assert first.meta["evidence"] == null.meta["evidence"] == expected
    assert second.meta["evidence"] == {"margin": 1.0, "prior": 0.0, "gap": -2.0, "sources": 1, "words": 2, "passages": 2}
    [alone] = rank_answers("q", found[:1], 5, False, 0.0)
    assert alone.meta["evidence"]["gap"] == NO_RIVAL


def test_with_a_calibration_scores_are_its_probabilities():
    zeros = [0.0] * len(FEATURES)
    by_sources = Calibration(FEATURES, tuple(float(name == "sources") for name in FEATURES), -1.0)
    confidence = Confidence(by_sources, Calibration(FEATURES, tuple(zeros), math.log(0.2 / 0.8)), 0.0, "weights")
    found = [span(MOON, "20 July 1969", 2.0), span(RACE, "20 July, 1969", 3.0), span(RACE, "Armstrong led", 1.0)]
    first, second, null = rank_answers("q", found, 5, True, 0.0, confidence)
    assert first.score == pytest.approx(probability(math.log(2) - 1))
    assert second.score == pytest.approx(probability(-1))
    assert (null.data, null.score) == (None, pytest.approx(0.2))
    assert [a.score for a in rank_answers("q", [], 5, True, 0.0, confidence)] == [1.0]
    assert len(rank_answers("q", found, 0, True, 0.0, confidence)) == 1


def test_no_answer_has_a_higher_score_than_one_ranked_above_it():
    by_words = Calibration(FEATURES, tuple(-float(name == "words") for name in FEATURES), 0.0)
    confidence = Confidence(by_words, None, 0.0, "weights")
    found = rank_answers("q", [span(MOON, "20 July 1969", 2.0), span(RACE, "Armstrong", 1.0)], 5, False, 0.0, confidence)
    assert [a.data for a in found] == ["20 July 1969", "Armstrong"]
    assert found[0].score == found[1].score == pytest.approx(probability(-math.log(3)))
