"""Answers of Haystack 1's readers: Haystack 3's dataclass, which the old names reach too; and the text around an answer."""

from __future__ import annotations

from typing import Any

from haystack import Document, ExtractedAnswer

from needle.components.answers import Candidate, place_of
from needle.components.passages import first_page


class Answer(ExtractedAnswer):
    """An `ExtractedAnswer` with the attributes that Haystack 1's Answer had. "No answer" has data None, and answer ""."""

    type = "extractive"

    @property
    def answer(self) -> str:
        return self.data or ""

    @property
    def offsets_in_document(self) -> list[ExtractedAnswer.Span]:
        return [self.document_offset or ExtractedAnswer.Span(0, 0)]

    @property
    def offsets_in_context(self) -> list[ExtractedAnswer.Span]:
        return [self.context_offset or ExtractedAnswer.Span(0, 0)]

    @property
    def document_ids(self) -> list[str] | None:
        return None if self.document is None else [self.document.id]


def answer_at(
    query: str, score: float, document: Document, span: tuple[int, int], context: tuple[int, int], meta: dict[str, Any]
) -> Answer:
    """
    :param span, context: half-open character offsets in the document. meta: of the answer; `answer_page_number` is added
        where the document tells the page that it begins on.
    """
    text, (start, end) = document.content or "", span
    if isinstance(document.meta.get("page_number"), int):
        meta = {**meta, "answer_page_number": first_page(document) + text[:start].count("\f")}
    return Answer(
        query=query,
        score=score,
        data=text[start:end],
        document=document,
        document_offset=ExtractedAnswer.Span(start, end),
        context=text[slice(*context)],
        context_offset=ExtractedAnswer.Span(start - context[0], end - context[0]),
        meta={**meta, "places": [place_of(Candidate(document, start, end, margin=0.0))]},
    )


def window_around(start: int, end: int, size: int, length: int) -> tuple[int, int]:
    """FARM's context: `size` characters of a text with an answer in their middle, or as many as hold it.

    What would be beyond the text on one side is added on the other. Source: `_create_context_window` in haystack 1.26,
    modeling/model/predictions.py.

    :param start, end: of the answer. length: of the text.
    """
    half = max(size, end - start + 1) // 2
    middle = start + (end - start) // 2
    first, last = middle - half, middle + half
    return max(0, first - max(0, last - length)), min(length, last + max(0, -first))


def margins_around(start: int, end: int, size: int, length: int) -> tuple[int, int]:
    """TransformersReader's context: `size` characters on each side of an answer."""
    return max(0, start - size), min(length, end + size)
