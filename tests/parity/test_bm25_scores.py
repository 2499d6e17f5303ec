"""BM25 scores are rank_bm25's: the same corpus and query give every passage the same score."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rank_bm25
from hypothesis import given, settings
from hypothesis import strategies as st

from needle.components.analysis import Analyzer
from needle.components.bm25 import BM25Index
from needle.components.bm25_weights import Variant
from needle.data import SHIPPED_CORPUS
from needle.data.squad import read_squad

REFERENCE: dict[Variant, Any] = {
    "okapi": rank_bm25.BM25Okapi,
    "l": rank_bm25.BM25L,
    "plus": rank_bm25.BM25Plus,
}
VARIANTS = tuple(REFERENCE)
Corpus = list[list[str]]


def index_of(passages: Corpus) -> BM25Index:
    index = BM25Index()
    index.add(range(1, len(passages) + 1), passages)
    return index


def assert_parity(index: BM25Index, passages: Corpus, queries: Corpus, variant: Variant, **parameters: float) -> None:
    """`passages` are what the index should hold, in row order."""
    reference = REFERENCE[variant](passages, **parameters)
    scorer = index.scorer(variant, **parameters)
    assert len(index.rows) == len(passages)
    for query in queries:
        scores, matched = scorer.scores(query)
        # A score that is a sum of positive and negative parts is as exact as its parts.
        np.testing.assert_allclose(scores[scorer.alive], reference.get_scores(query), rtol=1e-6, atol=1e-9)
        assert matched[scorer.alive].tolist() == [bool(set(query) & set(p)) for p in passages]


def squad(path: Path, n_questions: int) -> tuple[Corpus, Corpus]:
    """Paragraphs and questions without stop words removed: some terms are in most of the paragraphs."""
    questions = read_squad(path)
    terms = Analyzer(stop_words=False).terms
    every = max(1, len(questions) // n_questions)
    paragraphs = [terms(text) for text in dict.fromkeys(q.context for q in questions)]
    return paragraphs, [terms(q.question) for q in questions[::every]]


@pytest.mark.parametrize("variant", VARIANTS)
def test_on_the_shipped_corpus(variant):
    paragraphs, questions = squad(SHIPPED_CORPUS / "questions.json", 1000)
    assert_parity(index_of(paragraphs), paragraphs, questions, variant)


@pytest.mark.parametrize("variant", VARIANTS)
def test_on_squad(variant, shared):
    paragraphs, questions = squad(shared / "data/squad/dev-v2.0.json.gz", 40)
    assert_parity(index_of(paragraphs), paragraphs, questions, variant)


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [
        ("okapi", {"k1": 0.9, "b": 0.4}),
        ("okapi", {"b": 0.0}),
        ("okapi", {"b": 1.0}),
        ("okapi", {"epsilon": 0.0}),
        ("okapi", {"epsilon": 1.0}),
        ("l", {"k1": 1.2, "b": 0.9, "delta": 0.0}),
        ("l", {"k1": 0.0}),
        ("l", {"delta": 2.0}),
        ("plus", {"k1": 2.0, "b": 0.3, "delta": 0.0}),
        ("plus", {"delta": 0.5}),
    ],
)
def test_other_parameters(variant, parameters):
    paragraphs, questions = squad(SHIPPED_CORPUS / "questions.json", 50)
    assert_parity(index_of(paragraphs), paragraphs, questions, variant, **parameters)


@pytest.mark.parametrize("variant", VARIANTS)
class TestSpecialCases:
    def test_a_repeated_query_term_counts_as_often(self, variant):
        passages = [["a", "b"], ["b", "c", "c"], ["d"]]
        assert_parity(index_of(passages), passages, [["c"], ["c", "c"], ["c", "b", "c", "c"]], variant)

    def test_unknown_terms_and_no_terms(self, variant):
        passages = [["a", "b"], ["b", "c"], ["d"]]
        assert_parity(index_of(passages), passages, [["unknown"], ["unknown", "a"], []], variant)

    def test_terms_in_half_of_the_passages_and_in_more(self, variant):
        passages = [["all", "most", "half"], ["all", "most", "half"], ["all", "most"], ["all", "rare"]]
        assert_parity(index_of(passages), passages, [["half"], ["most"], ["all"], ["all", "most", "rare"]], variant)

    def test_one_passage(self, variant):
        assert_parity(index_of([["a", "a", "b"]]), [["a", "a", "b"]], [["a"], ["a", "b"], ["c"]], variant)

    def test_the_same_passage_over_and_over(self, variant):
        passages = [["a", "b"]] * 5
        assert_parity(index_of(passages), passages, [["a"], ["b", "a"]], variant)

    def test_empty_passages_count_as_passages(self, variant):
        passages = [[], ["a", "b"], [], ["a"]]
        assert_parity(index_of(passages), passages, [["a"], ["b"]], variant)


TERMS = st.sampled_from("abcdefgh")
PASSAGES = st.lists(st.lists(TERMS, max_size=12), min_size=1, max_size=15).filter(any)
QUERIES = st.lists(st.lists(st.sampled_from("abcdefghxy"), max_size=6), min_size=1, max_size=4)


@settings(deadline=None, max_examples=150)
@given(
    passages=PASSAGES,
    queries=QUERIES,
    variant=st.sampled_from(VARIANTS),
    k1=st.floats(0.1, 3.0),
    # Not up to 1: there, rank_bm25 divides by zero where a passage is empty.
    b=st.floats(0.0, 0.99),
    extra=st.floats(0.0, 2.0),
)
def test_on_any_small_corpus(passages, queries, variant, k1, b, extra):
    parameters = {"k1": k1, "b": b, "epsilon" if variant == "okapi" else "delta": extra}
    assert_parity(index_of(passages), passages, queries, variant, **parameters)


@settings(deadline=None, max_examples=150)
@given(data=st.data(), batches=st.lists(PASSAGES, min_size=1, max_size=8), queries=QUERIES)
def test_after_any_adds_and_removals(data, batches, queries):
    """The index is, at any time, that of the passages which remain: no trace is left of those removed."""
    index, remaining, next_row = BM25Index(), dict[int, list[str]](), 1
    for batch in batches:
        rows = range(next_row, next_row + len(batch))
        next_row = rows.stop + data.draw(st.integers(0, 3), label="rows left out")
        index.add(rows, batch)
        remaining |= zip(rows, batch, strict=True)
        removed = data.draw(st.lists(st.sampled_from([*remaining, 10_000]), unique=True), label="removed")
        # Both ways to remove: with the merge that a tenth removed sets off, and by the mark alone.
        remove = data.draw(st.sampled_from([index.remove, index.mark_removed]))
        remove(np.array(removed, np.int64))
        remaining = {row: passage for row, passage in remaining.items() if row not in removed}
        assert index.rows.tolist() == list(remaining)
        if any(remaining.values()):
            for variant in VARIANTS:
                assert_parity(index, list(remaining.values()), queries, variant)


@pytest.mark.parametrize("variant", VARIANTS)
def test_after_many_small_adds_and_removals_on_the_shipped_corpus(variant):
    paragraphs, questions = squad(SHIPPED_CORPUS / "questions.json", 30)
    index = BM25Index()
    for row, paragraph in enumerate(paragraphs):
        index.add([row], [paragraph])
        if row % 7 == 0:
            index.remove(np.array([row // 2]))
    kept = [paragraphs[row] for row in index.rows]
    assert 0 < len(kept) < len(paragraphs)
    assert_parity(index, kept, questions, variant)
