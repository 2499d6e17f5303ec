"""Feedback: verdicts on answers as labels, and labels -> a file in SQuAD's format."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from needle.data.errors import NeedleError

if TYPE_CHECKING:
    from haystack import ExtractedAnswer


class Verdict(StrEnum):
    """What someone says of an answer; `Verdict("wrong-span")` and `Verdict("wrong_span")` are `Verdict("wrong span")`."""

    RIGHT = "right"
    WRONG = "wrong"
    WRONG_SPAN = "wrong span"  # the right place, but words too many or too few
    NO_ANSWER = "no answer"  # the passage holds none

    @classmethod
    def _missing_(cls, value: object) -> Verdict:
        words = [verdict.value for verdict in cls]
        if (word := re.sub("[-_]", " ", str(value))) in words:
            return cls(word)
        raise ValueError(f"There is no verdict {value!r}; there are {', '.join(map(repr, words))}.")


class Versions(NamedTuple):
    """What an answer came from: needle's version, the reader with the digest of its weights (None if they are not in one
    file, or not known), and the pipeline's definition, a name or a file."""

    needle: str
    reader: str
    reader_fingerprint: str | None
    pipeline: str


@dataclass(frozen=True)
class Label:
    """A verdict on an answer, with all it takes to use it when the document is gone. Its fields are the store's columns.

    time: UTC, ISO 8601. answer: None for "no answer". score: its probability. passage: the text in which the answer was
    found, or in which the likeliest answer was when "no answer" was said; None if there was none. start_char, end_char: the
    answer's offsets in it, half-open; None for "no answer". file_path, page_number, source_id: where the passage is from,
    None where it is not known. correction: the right answer, if it was given, with its offsets in the passage, None if it
    does not stand there. The rest are `Versions`.
    """

    time: str
    verdict: Verdict
    query: str
    answer: str | None
    score: float
    passage: str | None
    start_char: int | None
    end_char: int | None
    file_path: str | None
    page_number: int | None
    source_id: str | None
    correction: str | None
    correction_start_char: int | None
    correction_end_char: int | None
    needle: str
    reader: str
    reader_fingerprint: str | None
    pipeline: str

    @classmethod
    def of(cls, answer: ExtractedAnswer, verdict: Verdict | str, correction: str | None, versions: Versions) -> Label:
        """
        :param answer: with its passage in `document`, also where it is "no answer" (data None).
        :param correction: the right answer. It is looked for in the passage as `_find` does, and then is what stands there.
        :raises ValueError: if there is no such verdict, or it does not go with the answer or the correction.
        """
        verdict = Verdict(verdict)
        if verdict is Verdict.WRONG_SPAN and answer.data is None:
            raise ValueError("'No answer' has no span that could be wrong. Call it 'wrong', with the right answer if known.")
        if correction is not None:
            _check_correction(correction, verdict)
        document = answer.document
        passage, meta = (None, {}) if document is None else (document.content, document.meta)
        page = answer.meta.get("page_number", meta.get("page_number"))
        start = end = right_start = right_end = None
        if answer.data is not None and answer.document_offset is not None and passage is not None:
            offset = answer.document_offset
            if passage[offset.start : offset.end] == answer.data:
                start, end = offset.start, offset.end
        if correction is not None and passage is not None and (found := _find(correction, passage, near=start or 0)):
            right_start, right_end = found
            correction = passage[right_start:right_end]
        return cls(
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            verdict=verdict,
            query=answer.query,
            answer=answer.data,
            score=float(answer.score),
            passage=passage,
            start_char=start,
            end_char=end,
            file_path=None if meta.get("file_path") is None else str(meta["file_path"]),
            page_number=page if isinstance(page, int) else None,
            source_id=None if document is None else str(meta.get("source_id", document.id)),
            correction=correction,
            correction_start_char=right_start,
            correction_end_char=right_end,
            **versions._asdict(),
        )

    @property
    def squad_answers(self) -> list[dict[str, Any]] | None:
        """The right answers in SQuAD's format, none for an unanswerable question; None if the label does not tell them."""
        if self.passage is None:
            return None
        if self.verdict is Verdict.NO_ANSWER or (self.verdict is Verdict.RIGHT and self.answer is None):
            return []
        text, start = self.correction, self.correction_start_char
        if self.verdict is Verdict.RIGHT:
            text, start = self.answer, self.start_char
        return None if start is None else [{"text": text, "answer_start": start}]


@dataclass(frozen=True)
class Export:
    """What became of labels: how many questions were written, and how many labels were left out, by the reason."""

    questions: int
    left_out: dict[str, int]


def export_labels(labels: Sequence[Label], path: str | Path) -> Export:
    """Write a file in the format of SQuAD 2.0, gzipped if it is called .gz, whose contexts are the labels' passages.

    Of several labels on the same question and passage the newest counts, whatever it says. Ids are digests of the two.

    :param labels: oldest first.
    :raises NeedleError: if the file can't be written.
    """
    newest = {(label.query.strip(), label.passage): label for label in labels}
    left_out = Counter({"older than another on the same question and passage": len(labels) - len(newest)})
    articles: dict[str | None, dict[str, list[dict[str, Any]]]] = {}
    questions = 0
    for (query, passage), label in newest.items():
        answers = label.squad_answers
        if passage is None or answers is None:
            left_out[_why_left_out(label)] += 1
            continue
        id_ = hashlib.sha256(f"{query}\0{passage}".encode()).hexdigest()[:24]
        question = {"id": id_, "question": query, "answers": answers, "is_impossible": not answers}
        articles.setdefault(label.file_path or label.source_id, {}).setdefault(passage, []).append(question)
        questions += 1
    data = [
        {"title": Path(source or "").name, "paragraphs": [{"context": text, "qas": qas} for text, qas in passages.items()]}
        for source, passages in articles.items()
    ]
    packed = json.dumps({"version": "v2.0", "data": data}, ensure_ascii=False).encode()
    try:
        # Without a time in it, so that equal labels make equal files.
        Path(path).write_bytes(gzip.compress(packed, mtime=0) if Path(path).suffix == ".gz" else packed)
    except OSError as error:
        raise NeedleError(f"The labels can't be written: {error}") from error
    return Export(questions, {reason: count for reason, count in left_out.items() if count})


def _check_correction(correction: str, verdict: Verdict) -> None:
    if verdict in (Verdict.RIGHT, Verdict.NO_ANSWER):
        raise ValueError(f"The verdict '{verdict}' takes no correction ({correction!r}); 'wrong' and 'wrong span' do.")
    if not isinstance(correction, str) or not correction.strip() or re.search("[\ud800-\udfff]", correction):
        raise ValueError(f"A correction must be valid text that is not blank, not {correction!a}.")


def _find(words: str, passage: str, near: int) -> tuple[int, int] | None:
    """Where words stand in a passage, whatever the white space between them; of several places, the nearest to `near`.

    Whole words in the same case are preferred, then parts of words, then another case.
    """
    pattern = r"\s+".join(map(re.escape, words.split()))
    for wanted in (rf"(?<!\w){pattern}(?!\w)", pattern, f"(?i:{pattern})"):
        if found := [match.span() for match in re.finditer(wanted, passage)]:
            return min(found, key=lambda span: abs(span[0] - near))
    return None


def _why_left_out(label: Label) -> str:
    if label.passage is None:
        return "without a passage"
    if label.verdict is not Verdict.RIGHT and label.correction is None:
        return f"'{label.verdict}' without the right answer"
    return "whose right answer does not stand in the passage"
