"""Questions and documents -> each document's answers, by FARM's scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from haystack import Document
from numpy.typing import NDArray

from needle.components.legacy_scores import farm_document, span_confidences, spread_spans
from needle.components.passages import trimmed
from needle.components.window_logits import WindowReader
from needle.pipelines.compat.answers import Answer, answer_at, window_around


class FarmOptions(NamedTuple):
    """How documents are read; the names are those of FARMReader's parameters."""

    max_seq_len: int
    doc_stride: int
    max_query_length: int
    batch_size: int
    top_k_per_candidate: int
    top_k_per_sample: int
    duplicate_filtering: int
    no_ans_boost: float
    temperature: float
    context_window_size: int
    use_confidence_scores: bool


class DocumentAnswers(NamedTuple):
    """One document's best answers to a question, best first, and FARM's figures.

    scores: the answers' sums of logits, whatever is in their `score`. null: score and confidence of "no answer".
    """

    document: Document
    answers: list[Answer]
    scores: list[float]
    gap: float
    null: tuple[float, float]


class _Windows(NamedTuple):
    """W windows, k spans of each. pair, window: (W,) whose they are, and where they start in its document.

    score, confidence, start, last: (W, k), start and last tokens of the document, the last one included. null_score: (W,).
    """

    pair: NDArray[np.int32]
    window: NDArray[np.int32]
    score: NDArray[np.float32]
    confidence: NDArray[np.float32]
    null_score: NDArray[np.float32]
    start: NDArray[np.int32]
    last: NDArray[np.int32]


def read_documents(
    reader: WindowReader, pairs: Sequence[tuple[str, Document]], options: FarmOptions
) -> list[DocumentAnswers | None]:
    """Each pair's answers, one more than top_k_per_candidate if "no answer" is not among so many; None without text."""
    read: list[DocumentAnswers | None] = [None] * len(pairs)
    at = [i for i, (_, document) in enumerate(pairs) if document.content and document.content.strip()]
    passages = reader.passages([pairs[i][1].content or "" for i in at])
    parts = []
    for batch, start_logits, end_logits in reader.read(
        [pairs[i][0] for i in at],
        passages,
        options.max_seq_len,
        step=options.doc_stride,
        max_question_len=options.max_query_length,
        batch_windows=options.batch_size,
    ):
        logits = start_logits / np.float32(options.temperature), end_logits / np.float32(options.temperature)
        spans = spread_spans(*logits, batch, options.top_k_per_sample, options.duplicate_filtering)
        confidence = span_confidences(*logits, batch, spans)
        shift = (batch.windows["start_token"] - batch.passage_start)[:, None]
        places = spans.start + shift, spans.end + shift - 1
        null = spans.null_score + np.float32(options.no_ans_boost)
        whose = batch.windows["pair"], batch.windows["start_token"]
        parts.append(_Windows(*whose, spans.score, confidence, null, *places))
    if not parts:
        return read
    windows = _Windows._make(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.lexsort((windows.window, windows.pair))
    bounds = np.searchsorted(windows.pair[order], np.arange(len(at) + 1))
    for n, i in enumerate(at):
        if len(own := order[bounds[n] : bounds[n + 1]]):
            of_document = _Windows._make(array[own] for array in windows)
            read[i] = _answers(*pairs[i], passages[n].tokens.offsets, of_document, options)
    return read


def _answers(
    query: str, document: Document, offsets: NDArray[np.int32], windows: _Windows, options: FarmOptions
) -> DocumentAnswers:
    by = "confidence" if options.use_confidence_scores else "score"
    n = options.top_k_per_candidate
    score, start, last = windows.score, windows.start, windows.last
    found = farm_document(score, windows.confidence, windows.null_score, start, last, n, by)
    told = windows.confidence if options.use_confidence_scores else score
    text = document.content or ""
    answers = []
    for i in found.keep.tolist():
        span = trimmed(text, int(offsets[start.flat[i], 0]), int(offsets[last.flat[i], 1]))
        context = window_around(*span, options.context_window_size, len(text))
        answers.append(answer_at(query, float(told.flat[i]), document, span, context, {}))
    return DocumentAnswers(document, answers, [float(x) for x in score.flat[found.keep]], found.gap, found.null)


def drop_shared(found: Sequence[DocumentAnswers]) -> None:
    """Of an answer that overlapping documents share, leave the one of the higher score.

    Haystack's splitters tell overlaps in meta: `_split_overlap`, a list of {"doc_id", "range"}, the characters of this
    document that the other has, too.
    """
    by_id = {one.document.id: one for one in found}
    for one in found:
        for other, mine, theirs in _overlaps(one.document, by_id):
            for i, answer in reversed(list(enumerate(one.answers))):
                place = _within(answer, mine)
                for j, rival in enumerate(other.answers):
                    if place is not None and place == _within(rival, theirs):
                        loser, at = (one, i) if answer.score < rival.score else (other, j)
                        del loser.answers[at], loser.scores[at]
                        break


def _overlaps(
    document: Document, by_id: Mapping[str, DocumentAnswers]
) -> Iterable[tuple[DocumentAnswers, Sequence[int], Sequence[int]]]:
    """Each other document that overlaps with this one, with the shared range here and there."""
    for overlap in document.meta.get("_split_overlap") or ():
        if (other := by_id.get(overlap["doc_id"])) is not None:
            for back in other.document.meta.get("_split_overlap") or ():
                if back["doc_id"] == document.id:
                    yield other, overlap["range"], back["range"]


def _within(answer: Answer, bounds: Sequence[int]) -> tuple[int, int] | None:
    """An answer's place in a range of its document; None if it is not inside."""
    offset = answer.document_offset
    if offset is None or offset.start < bounds[0] or offset.end > bounds[1]:
        return None
    return offset.start - bounds[0], offset.end - bounds[0]
