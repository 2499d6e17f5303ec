"""Text -> index terms: case and accents folded, English stop words dropped, words stemmed (Snowball)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import Stemmer
from numpy.typing import NDArray

from needle.components.cache import compiled

# Words of any script; Chinese and Japanese, which put no space between words, one character each. An underscore is no
# part of a word: it joins several, or is a mark of emphasis.
_TERM = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
#: For a text of ASCII alone, what `_TERM` finds is what stands between all other characters. _END stands behind a text.
_END = "\0"
_SPACED = "".join(c if c.isalnum() or c == _END else " " for c in map(chr, range(128)))
#: Accents, and what stands inside words without being seen: soft hyphens, joiners, a mark of byte order.
_DROPPED = re.compile(r"[\u0300-\u036f\u00ad\u200d\u2060\ufeff]")

#: Words that say nothing about what a passage is about. Question words are among them: passages seldom hold them.
#: "us" and "will" are not: they are names as well (the US, Will).
STOP_WORDS = frozenset(
    "a an and are as at be been but by did do does for from had has have he her his how i if in into is it its me my no "  # noqa: SIM905
    "not of on or our she so such than that the their them then there these they this those to up was we were what "
    "when where which while who whom whose why with would you your".split()
)


#: What stands for a stop word, and for a text's end, among the ids of words.
_NO_TERM, _TEXT_ENDS = -1, -2

#: Texts whose words are analysed together; bounds the memory.
_AT_ONCE = 2000


class Analyzer:
    """Maps texts to terms; the same one must serve the index and its questions.

    :param stop_words: drop `STOP_WORDS`. stem: reduce English words to their Snowball stems.
    """

    def __init__(self, stop_words: bool = True, stem: bool = True):
        self.stop_words = stop_words
        self.stem = stem
        # Word -> its term, None for a stop word: most words of a text are here after a while and need no stemming.
        self._known: dict[str, str | None] = {}

    @property
    def key(self) -> str:
        """Names what this analyzer does; indexes made with another key can't be searched with it."""
        return f"v2{'-stop' if self.stop_words else ''}{'-stem' if self.stem else ''}"

    def terms(self, text: str) -> list[str]:
        """A text's terms in order, with repetitions."""
        words: list[str] = _TERM.findall(_folded(text))
        known = self._terms_of(set(words))
        return [term for word in words if (term := known[word]) is not None]

    def encode(self, texts: Sequence[str], vocabulary: dict[str, int]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The terms of texts as ids; terms that the vocabulary lacks get the next ones.

        :returns: ids of one text after another, and (n,) how many each text has.
        """
        parts = [self._encode(texts[i : i + _AT_ONCE], vocabulary) for i in range(0, len(texts), _AT_ONCE)]
        ids, lengths = zip(*parts, strict=True) if parts else ((), ())
        nothing = np.empty(0, np.int32)
        return np.concatenate([nothing, *ids]), np.concatenate([nothing, *lengths])

    def _encode(self, texts: Sequence[str], vocabulary: dict[str, int]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        # One call for many texts, and one for all their words, in place of one for each: Python's loops would take longest.
        folded = [_spaced(text) for text in texts]
        words = f" {_END} ".join([*folded, ""]).split()
        distinct = dict.fromkeys(words)
        known = self._terms_of(distinct.keys() - {_END})
        ids = {_END: _TEXT_ENDS}
        for word in distinct:  # in the order of their first occurrence, so that the same texts make the same vocabulary
            if word != _END:
                ids[word] = _NO_TERM if (term := known[word]) is None else vocabulary.setdefault(term, len(vocabulary))
        of_words = np.fromiter(map(ids.__getitem__, words), np.int32, len(words))
        split: tuple[NDArray[np.int32], NDArray[np.int32]] = _split(of_words, len(texts))
        return split

    def _terms_of(self, words: set[str]) -> dict[str, str | None]:
        """A dictionary in which all these words, and maybe others, have their terms."""
        known = self._known  # read once: another thread may put a new one in its place
        if new := words.difference(known):  # `- known.keys()` would go through all that is known
            if len(known) > 1_000_000:  # rare words would fill the memory; frequent ones are soon back
                known, new = {}, words
            known.update(self._analyse(list(new)))
            self._known = known
        return known

    def _analyse(self, words: list[str]) -> dict[str, str | None]:
        # A Stemmer must not be used by two threads at once; making one costs microseconds.
        terms = Stemmer.Stemmer("english").stemWords(words) if self.stem else words
        return {w: None if self.stop_words and w in STOP_WORDS else t for w, t in zip(words, terms, strict=True)}


def _folded(text: str) -> str:
    """Without capitals and accents."""
    if not text.isascii():  # casefold after taking apart: "™" has capitals inside; then back to whole kana and Hangul
        text = _DROPPED.sub("", unicodedata.normalize("NFKD", text).casefold())
        text = unicodedata.normalize("NFC", text)
    return text.lower()


def _spaced(text: str) -> str:
    """Folded, its words set apart by spaces."""
    text = _folded(text)
    if not text.isascii():
        return " ".join(_TERM.findall(text))
    return text.replace(_END, " ").translate(_SPACED)


@compiled()
def _split(ids: Any, n: int) -> Any:
    """Take `_NO_TERM` and `_TEXT_ENDS` out: the ids that remain, and (n,) how many stood before each text's end."""
    kept, lengths = np.empty(len(ids), np.int32), np.zeros(n, np.int32)
    text = size = 0
    for i in ids:
        if i == _TEXT_ENDS:
            text += 1
        elif i != _NO_TERM:
            kept[size] = i
            lengths[text] += 1
            size += 1
    return kept[:size], lengths
