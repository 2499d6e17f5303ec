"""Pairs of a question and a passage -> windows -> batches -> the engine's spans; arrays all the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from needle.components.engines import Engine
from needle.components.spans import Spans
from needle.components.tokenizer import PassageTokenizer, Tokens
from needle.components.windows import Batch, batches_by_length, fill_batch, split_windows
from needle.data.errors import ModelError


class PairSpans(NamedTuple):
    """The best spans of all windows, ordered by pair, each (S,).

    pair: int32, its number. margin: float32, span_score less the pair's null_score, which is the lowest of its windows'
    (Devlin et al. 2019, in their code). start, end: int32, tokens of the passage, half-open.
    """

    pair: NDArray[np.int32]
    margin: NDArray[np.float32]
    start: NDArray[np.int32]
    end: NDArray[np.int32]


def read_pairs(
    questions: Sequence[NDArray[np.int32]],
    passages: Sequence[Tokens],
    tokenizer: PassageTokenizer,
    engine: Engine,
    max_seq_len: int,
    stride: int,
    batch_tokens: int | None,
    max_answer_tokens: int,
    spans_per_window: int,
) -> PairSpans:
    """The spans of all pairs, whose windows share batches.

    :param questions, passages: the tokens of each pair. The rest: see `MiniLMReader`.
    :raises QueryError: if a question leaves no room for a passage. ModelError: if logits are no numbers.
    """
    question_lengths = np.fromiter(map(len, questions), np.int32, len(questions))
    passage_lengths = np.fromiter((len(p.ids) for p in passages), np.int32, len(passages))
    windows = split_windows(question_lengths, passage_lengths, tokenizer.template.n_special, max_seq_len, stride)
    groups = batches_by_length(windows["length"], batch_tokens or engine.batch_tokens)
    batches = (fill_batch(windows[g], questions, passages, tokenizer.template, tokenizer.pad_id) for g in groups)
    null_score = np.full(len(passages), np.inf, np.float32)
    nothing = np.empty(0, np.int32)
    found = [(nothing, nothing.astype(np.float32), nothing, nothing)]
    for batch, spans in _computed(batches, engine, max_answer_tokens, spans_per_window):
        if not np.isfinite(spans.null_score).all():
            raise ModelError(
                f"The {engine.name} engine computed logits that are no numbers. Try dtype='float32', or other weights."
            )
        np.minimum.at(null_score, batch.windows["pair"], spans.null_score)
        row, nth = np.nonzero(np.isfinite(spans.score))
        shift = (batch.windows["start_token"] - batch.passage_start)[row]
        start, end = spans.start[row, nth] + shift, spans.end[row, nth] + shift
        found.append((batch.windows["pair"][row], spans.score[row, nth], start, end))
    pair, score, start, end = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.argsort(pair, kind="stable")
    return PairSpans(pair[order], (score - null_score[pair])[order], start[order], end[order])


def _computed(batches: Iterator[Batch], engine: Engine, max_answer_tokens: int, n: int) -> Iterator[tuple[Batch, Spans]]:
    """Batches are filled while the engine computes the ones before."""
    submitted: deque[tuple[Batch, Callable[[], Spans]]] = deque()
    for batch in batches:
        submitted.append((batch, engine.submit(batch, max_answer_tokens, n)))
        if len(submitted) > engine.in_flight:
            done, spans = submitted.popleft()
            yield done, spans()
    for done, spans in submitted:
        yield done, spans()
