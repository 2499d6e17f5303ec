"""What asking and indexing give back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from haystack import ExtractedAnswer

from needle.data.files import SkippedFile


@dataclass(frozen=True)
class Result:
    """What is answered to a question.

    answers: best first, without "no answer"; empty if nothing was found. no_answer_score: the probability that the passages
    hold no answer, None if the pipeline does not tell. is_answered: whether the best answer beats "no answer".
    """

    query: str
    answers: list[ExtractedAnswer]
    no_answer_score: float | None
    is_answered: bool

    @property
    def answer(self) -> ExtractedAnswer | None:
        """The best answer; None if "no answer" is likelier."""
        return self.answers[0] if self.is_answered else None

    def as_json(self) -> dict[str, Any]:
        """What `needle ask --json` prints, and `needle batch ask` writes."""
        return {
            "query": self.query,
            "is_answered": self.is_answered,
            "no_answer_score": self.no_answer_score,
            "answers": [
                {
                    "answer": answer.data,
                    "score": answer.score,
                    "context": answer.context,
                    "context_offset": [answer.context_offset.start, answer.context_offset.end]
                    if answer.context_offset
                    else None,
                    "retrieval_score": answer.meta.get("retrieval_score"),
                    "places": answer.meta.get("places", []),
                }
                for answer in self.answers
            ],
        }

    @property
    def said(self) -> ExtractedAnswer:
        """The best answer, or else "no answer" (data None) with the passage that came nearest to holding one."""
        if self.is_answered:
            return self.answers[0]
        score = 1.0 if self.no_answer_score is None else self.no_answer_score  # None: nothing at all was found
        nearest = self.answers[0].document if self.answers else None
        return ExtractedAnswer(query=self.query, score=score, data=None, document=nearest)

    @classmethod
    def of(cls, query: str, answers: Sequence[ExtractedAnswer]) -> Result:
        """Split a reader's list, in which "no answer" is the one whose data is None."""
        nulls = [a.score for a in answers if a.data is None]
        return cls(
            query=query,
            answers=[a for a in answers if a.data is not None],
            no_answer_score=nulls[0] if nulls else None,
            is_answered=bool(answers) and answers[0].data is not None,
        )


@dataclass
class IndexReport:
    """What became of the files given to `QA.index`: paths, and for skipped ones the reasons."""

    indexed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)
    passages: int = 0
