"""Questions' and passages' tokens -> windows -> batches of equal-length input for an engine.

A window is `prefix question middle passage[start_token:end_token] suffix`; a passage that does not fit is cut into
windows of which neighbours share `stride` tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from needle.components.tokenizer import PairTemplate, PassageTokenizer, Tokens
from needle.data.errors import QueryError

#: One record a window: which (question, passage) pair, which of the passage's tokens, how many tokens in all.
WINDOW = np.dtype([("pair", np.int32), ("start_token", np.int32), ("end_token", np.int32), ("length", np.int32)])

#: A window holds at least this many tokens of the passage, or its question is refused as too long.
MIN_PASSAGE_TOKENS = 16


class Batch(NamedTuple):
    """Engine input: B windows padded to the longest, L tokens.

    windows: (B,) of `WINDOW`. input_ids, token_type_ids: (B, L) int32. lengths: (B,) int32, tokens that are not padding.
    passage_start, passage_end: (B,) int32, where the passage's tokens stand in each row, half-open.
    """

    windows: NDArray[np.void]
    input_ids: NDArray[np.int32]
    token_type_ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    passage_start: NDArray[np.int32]
    passage_end: NDArray[np.int32]


def passage_capacity(question_tokens: int, n_special: int, max_seq_len: int) -> int:
    """How many tokens of a passage fit beside a question.

    :raises QueryError: if fewer than `MIN_PASSAGE_TOKENS` do.
    """
    capacity = max_seq_len - question_tokens - n_special
    if capacity < MIN_PASSAGE_TOKENS:
        raise QueryError(
            f"The question has {question_tokens} tokens; with windows of {max_seq_len} tokens (max_seq_len) at most "
            f"{max_seq_len - n_special - MIN_PASSAGE_TOKENS} fit beside a passage. Ask a shorter question."
        )
    return capacity


def split_windows(
    question_lengths: NDArray[np.int32],
    passage_lengths: NDArray[np.int32],
    n_special: int,
    max_seq_len: int,
    stride: int,
) -> NDArray[np.void]:
    """Cut the passage of each (question, passage) pair into windows.

    Windows of a passage start `capacity - stride` tokens apart, and the last one ends where the passage ends. A stride
    that is no smaller than the room beside a long question is cut to half of that room.

    :param question_lengths: (P,) tokens of each pair's question. passage_lengths: (P,) tokens of each pair's passage.
    :returns: (n,) of `WINDOW`, ordered by pair, then by start_token; a passage without tokens has no window.
    :raises QueryError: if a question leaves no room for a passage.
    """
    capacity = passage_capacities(question_lengths, n_special, max_seq_len)
    step = capacity - np.minimum(stride, capacity // 2)
    return cut_windows(question_lengths, passage_lengths, n_special, capacity, step)


def passage_capacities(question_lengths: NDArray[np.int32], n_special: int, max_seq_len: int) -> NDArray[np.int32]:
    """`passage_capacity` of (P,) questions: (P,).

    :raises QueryError: if it fails for the longest.
    """
    passage_capacity(int(question_lengths.max(initial=0)), n_special, max_seq_len)
    return max_seq_len - n_special - question_lengths


def cut_windows(
    question_lengths: NDArray[np.int32],
    passage_lengths: NDArray[np.int32],
    n_special: int,
    capacity: NDArray[np.int32],
    step: NDArray[np.int32],
) -> NDArray[np.void]:
    """Windows of `capacity` tokens of the passage that start `step` tokens apart, as `split_windows` gives them.

    :param capacity, step: (P,), of each pair.
    """
    if len(question_lengths) == 0:
        return np.empty(0, WINDOW)
    n_windows = 1 + -(-np.maximum(passage_lengths - capacity, 0) // step)
    n_windows[passage_lengths == 0] = 0
    pair = np.repeat(np.arange(len(passage_lengths)), n_windows)
    nth = np.arange(len(pair)) - np.repeat(np.cumsum(n_windows) - n_windows, n_windows)
    windows = np.empty(len(pair), WINDOW)
    windows["pair"] = pair
    windows["start_token"] = nth * step[pair]
    windows["end_token"] = np.minimum(windows["start_token"] + capacity[pair], passage_lengths[pair])
    windows["length"] = n_special + question_lengths[pair] + windows["end_token"] - windows["start_token"]
    return windows


def batches_by_length(lengths: NDArray[np.int32], batch_tokens: int) -> Iterator[NDArray[np.intp]]:
    """Group windows of like length: indices into `lengths`, longest first, each at most `batch_tokens` when padded.

    A window longer than `batch_tokens` is a group of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    first = 0
    while first < len(order):
        size = max(1, batch_tokens // int(lengths[order[first]]))
        yield order[first : first + size]
        first += size


def fill_batch(
    windows: NDArray[np.void],
    questions: Sequence[NDArray[np.int32]],
    passages: Sequence[Tokens],
    template: PairTemplate,
    pad_id: int,
) -> Batch:
    """Write windows into a padded array.

    :param windows: (B,) of `WINDOW`. questions, passages: by pair; a question is its (n,) token ids.
    """
    n, width = len(windows), int(windows["length"].max())
    input_ids = np.full((n, width), pad_id, np.int32)
    token_type_ids = np.zeros((n, width), np.int32)
    passage_start = np.empty(n, np.int32)
    for i, (pair, start, end, length) in enumerate(windows.tolist()):
        row, types = input_ids[i], token_type_ids[i]
        question = questions[pair]
        middle = len(template.prefix) + len(question)
        passage = middle + len(template.middle)
        row[: len(template.prefix)] = template.prefix
        row[len(template.prefix) : middle] = question
        row[middle:passage] = template.middle
        row[passage : passage + end - start] = passages[pair].ids[start:end]
        row[passage + end - start : length] = template.suffix
        types[passage:length] = template.passage_type
        passage_start[i] = passage
    passage_end = passage_start + windows["end_token"] - windows["start_token"]
    return Batch(windows, input_ids, token_type_ids, windows["length"].copy(), passage_start, passage_end)


def pair_batches(
    pairs: Sequence[tuple[str, str]], tokenizer: PassageTokenizer, max_seq_len: int = 384, stride: int = 128
) -> Iterator[Batch]:
    """Tokenise (question, passage) texts and give their windows in small batches."""
    questions = [tokens.ids for tokens in tokenizer.encode([question for question, _ in pairs])]
    passages = tokenizer.encode([passage for _, passage in pairs])
    template = tokenizer.template
    question_lengths = np.array([len(q) for q in questions], np.int32)
    passage_lengths = np.array([len(p.ids) for p in passages], np.int32)
    windows = split_windows(question_lengths, passage_lengths, template.n_special, max_seq_len, stride)
    for group in batches_by_length(windows["length"], 1024):
        yield fill_batch(windows[group], questions, passages, template, tokenizer.pad_id)
