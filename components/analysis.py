"""Text -> index terms: case and accents folded, English stop words dropped, words stemmed (Snowball)."""

from __future__ import annotations

import re
import unicodedata

import Stemmer

# Words of any script; Chinese and Japanese, which put no space between words, one character each. An underscore is no
# part of a word: it joins several, or is a mark of emphasis.
_TERM = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
_COMBINING = re.compile(r"[\u0300-\u036f]")

#: Words that say nothing about what a passage is about. Question words are among them: passages seldom hold them.
#: "us" and "will" are not: they are names as well (the US, Will).
STOP_WORDS = frozenset(
    "a an and are as at be been but by did do does for from had has have he her his how i if in into is it its me my no "  # noqa: SIM905
    "not of on or our she so such than that the their them then there these they this those to up was we were what "
    "when where which while who whom whose why with would you your".split()
)


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
        return f"v1{'-stop' if self.stop_words else ''}{'-stem' if self.stem else ''}"

    def terms(self, text: str) -> list[str]:
        """A text's terms in order, with repetitions."""
        if not text.isascii():  # casefold after taking apart: "™" has capitals inside; then back to whole kana and Hangul
            text = _COMBINING.sub("", unicodedata.normalize("NFKD", text).casefold())
            text = unicodedata.normalize("NFC", text)
        words: list[str] = _TERM.findall(text.lower())
        known = self._known  # read once: another thread may put a new one in its place
        if new := set(words).difference(known):  # `- known.keys()` would go through all that is known
            if len(known) > 1_000_000:  # rare words would fill the memory; frequent ones are soon back
                known, new = {}, set(words)
            known.update(self._analyse(list(new)))
            self._known = known
        return [term for word in words if (term := known[word]) is not None]

    def _analyse(self, words: list[str]) -> dict[str, str | None]:
        # A Stemmer must not be used by two threads at once; making one costs microseconds.
        terms = Stemmer.Stemmer("english").stemWords(words) if self.stem else words
        return {w: None if self.stop_words and w in STOP_WORDS else t for w, t in zip(words, terms, strict=True)}
