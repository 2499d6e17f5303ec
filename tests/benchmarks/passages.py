"""As many realistic passages and real questions as a benchmark asks for, from files in SQuAD's format.

usage: python tests/benchmarks/passages.py FILE... N    (says how fast they come, and how many terms they hold)

The files' distinct paragraphs come first, as they are. Then come passages of random sentences, as many in each as a random
paragraph has, with one made-up word each: the sentences alone would repeat one vocabulary for ever, while that of natural
text grows as a power of its length (Heaps' law; here to about a million terms at a million passages). The first N passages
of a longer stream are the same.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from memory import resident
from numpy.typing import NDArray

from needle.components.analysis import Analyzer
from needle.components.passages import sentence_bounds
from needle.data.squad import read_squad

SEED = 20261124
_BLOCK = 10_000  # passages drawn at a time

#: Terms that a further passage brings, where all the paragraphs have just been seen (the two training files' 33,049 hold
#: 87,000), and the power with which that falls: 1 - 0.72.
_NEW_TERMS, _FALL = 1.9, 0.28

_SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnpqrstvwyz" for vowel in "aeiou"]


def paragraphs(paths: Sequence[str]) -> list[str]:
    """The distinct paragraphs of SQuAD-format files, in their order."""
    return list(dict.fromkeys(q.context for path in paths for q in read_squad(path)))


def questions(paths: Sequence[str], n: int) -> list[str]:
    """A random sample of the files' distinct answerable questions, those left out that are all stop words."""
    analyzer = Analyzer()
    asked = list(dict.fromkeys(q.question for path in paths for q in read_squad(path) if not q.is_impossible))
    order = np.random.default_rng(SEED).permutation(len(asked)).tolist()
    return list(islice((asked[i] for i in order if analyzer.terms(asked[i])), n))


def passages(paths: Sequence[str], n: int) -> Iterator[str]:
    real = paragraphs(paths)
    yield from real[:n]
    if n > len(real):
        yield from islice(_made(real), n - len(real))


def _made(real: list[str]) -> Iterator[str]:
    bounds = [sentence_bounds(text) for text in real]
    sentences = [text[start:end] for text, found in zip(real, bounds, strict=True) for start, end in found]
    sizes = np.array([len(found) for found in bounds])
    seen = words = 0
    while True:
        draw = np.random.default_rng((SEED, seen))
        numbers = _word_numbers(draw, words, 1 + (seen + np.arange(_BLOCK)) / len(real))
        words = max(words, int(numbers.max()) + 1)
        seen += _BLOCK
        ends = np.cumsum(draw.choice(sizes, _BLOCK)).tolist()
        picked = [sentences[i] for i in draw.integers(len(sentences), size=ends[-1]).tolist()]
        start = 0
        for end, number in zip(ends, numbers.tolist(), strict=True):
            yield f"{' '.join(picked[start:end])} {_word(number)}."
            start = end


def _word_numbers(draw: np.random.Generator, words: int, grown: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which made-up word each of a block's passages gets: the next new one, or one of the old, the oldest most often.

    :param words: how many there are already. grown: to how many times its first size the collection has grown.
    """
    new = draw.random(len(grown)) < _NEW_TERMS * grown**-_FALL
    known = words + np.cumsum(new)
    return np.where(new | (known == 0), known - 1, (known * draw.random(len(grown)) ** 3).astype(np.int64)).clip(0)


def _word(number: int) -> str:
    """Nine letters, different for each number; no suffix that a stemmer takes away ends in x."""
    scrambled = number * 61_803_399 % 100_000_007  # a prime: no two numbers below it give the same
    parts = (scrambled // 100**i % 100 for i in range(4))
    return "".join(_SYLLABLES[part] for part in parts) + "x"


if __name__ == "__main__":
    *files, count = sys.argv[1:]
    started = time.perf_counter()
    made = list(passages(files, int(count)))
    seconds = time.perf_counter() - started
    print(f"{len(made):,} passages in {seconds:.1f} s, {resident():,.0f} MiB; the last:\n{made[-1]}")
    analyzer, terms, length = Analyzer(), set[str](), 0
    started = time.perf_counter()
    for text in made:
        found = analyzer.terms(text)
        terms.update(found)
        length += len(found)
    seconds = time.perf_counter() - started
    print(f"{len(terms):,} distinct terms, {length / len(made):.1f} a passage; {seconds:.1f} s to analyse them")
