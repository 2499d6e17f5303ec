"""BM25 as a product of sparse vectors, for stores that know no words but weigh dimensions by their rarity, as Qdrant does.

A term is a dimension. A passage's value there is BM25's part that depends on the passage alone, a question's is how often
it has the term, and the store multiplies by its idf, ln(1 + (N - n + 1/2) / (n + 1/2)).
"""

from __future__ import annotations

import zlib
from collections import Counter

from haystack.dataclasses import SparseEmbedding

from needle.components.analysis import Analyzer

_K1, _B = 1.5, 0.75
#: Terms in a passage of the usual length: nearly all passages of a split document have it, and a store of vectors has no
#: average that could follow the corpus.
_USUAL_TERMS = 64
_ANALYZER = Analyzer(stop_words=True, stem=True)


def passage_vector(text: str) -> SparseEmbedding:
    """tf (k1 + 1) / (tf + k1 (1 - b + b length / usual length)) for each term."""
    terms = Counter(map(_dimension, _ANALYZER.terms(text)))
    norm = _K1 * (1 - _B + _B * terms.total() / _USUAL_TERMS)
    return SparseEmbedding(list(terms), [tf * (_K1 + 1) / (tf + norm) for tf in terms.values()])


def question_vector(text: str) -> SparseEmbedding:
    """How often each term stands in the question."""
    terms = Counter(map(_dimension, _ANALYZER.terms(text)))
    return SparseEmbedding(list(terms), [float(tf) for tf in terms.values()])


def _dimension(term: str) -> int:
    """Of four thousand million: two of a question's terms hardly ever share one."""
    return zlib.crc32(term.encode())
