"""Questions and passages -> their windows' logits: what the readers of old are made of (`needle.pipelines.compat`).

`MiniLMReader` asks an engine for spans; the scores of older readers need the logits themselves.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from needle.components.engines import DType, Engine, EngineName, open_engine
from needle.components.reader import check_query
from needle.components.tokenizer import PassageTokenizer, Tokens
from needle.components.weights import Checkpoint, open_checkpoint
from needle.components.windows import Batch, batches_by_length, cut_windows, fill_batch, passage_capacities
from needle.data.errors import ModelError

_HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "pytorch_model*.bin"]


class Passage(NamedTuple):
    """A passage's tokens, and of each the word that it is a part of: (n, 2) int32, half-open character offsets."""

    tokens: Tokens
    words: NDArray[np.int32]


class WindowLogits(NamedTuple):
    """start_logits, end_logits: (B, L) float32; values at padding mean nothing."""

    batch: Batch
    start_logits: NDArray[np.float32]
    end_logits: NDArray[np.float32]


class WordTokenizer(PassageTokenizer):
    """A tokenizer that tells which tokens are one word."""

    def passages(self, texts: Sequence[str]) -> list[Passage]:
        """Tokenise texts in one batch; a text that comes twice is tokenised once."""
        encodings = self._backend.encode_batch(unique := list(dict.fromkeys(texts)), add_special_tokens=False)
        known = {text: self._passage(encoding) for text, encoding in zip(unique, encodings, strict=True)}
        return [known[text] for text in texts]

    @staticmethod
    def _passage(encoding: Any) -> Passage:
        offsets = np.array(encoding.offsets, np.int32).reshape(-1, 2)
        return Passage(Tokens(np.array(encoding.ids, np.int32), offsets), word_bounds(encoding.word_ids, offsets))


def word_bounds(word_ids: Sequence[int | None], offsets: NDArray[np.int32]) -> NDArray[np.int32]:
    """(n, 2) int32: for each token the offsets of its word, from the first of its tokens to the last.

    :param word_ids: of the n tokens, ascending; a token without one (None) is a word by itself. offsets: (n, 2).
    """
    words = np.array([-1 - i if word is None else word for i, word in enumerate(word_ids)], np.int64)
    first = np.flatnonzero(np.diff(words, prepend=np.iinfo(np.int64).min))  # tokens that begin a word
    last = np.append(first, len(words))[1:] - 1
    sizes = last - first + 1
    return np.stack([np.repeat(offsets[first, 0], sizes), np.repeat(offsets[last, 1], sizes)], axis=1)


def split_by_step(
    question_lengths: NDArray[np.int32],
    passage_lengths: NDArray[np.int32],
    n_special: int,
    max_seq_len: int,
    step: int | None = None,
    overlap: int | None = None,
) -> NDArray[np.void]:
    """`windows.split_windows`, but for any distance of neighbouring windows, as older readers let their users choose it.

    :param step: tokens from the start of a window to the start of the next, or `overlap`: tokens that the two share. Where
        a long question leaves less room, windows follow each other without a gap, or move on by one token at least.
    :returns: (n,) of `WINDOW`, ordered by pair, then by start_token; a passage without tokens has no window.
    :raises QueryError: if a question leaves no room for a passage.
    """
    capacity = passage_capacities(question_lengths, n_special, max_seq_len)
    steps = np.clip(capacity - (overlap or 0) if step is None else step, 1, capacity)
    return cut_windows(question_lengths, passage_lengths, n_special, capacity, steps)


class WindowReader:
    """A model that reads (question, passage) pairs in batches. Nothing is loaded before the first use. Thread-safe."""

    def __init__(
        self,
        model: str | Path | None = None,
        tokenizer: str | Path | WordTokenizer | None = None,
        devices: Sequence[str] | None = None,
        engine: EngineName | None = None,
        dtype: DType | None = None,
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
    ):
        """
        :param model: a folder, a hub id, or None for the reader that needle ships. tokenizer: None for its own.
        :param devices, engine, dtype: as for `engines.open_engine`.
        :param revision, token, local_files_only: of the model hub.
        """
        self._model, self._tokenizer, self._hub = model, tokenizer, (revision, token, local_files_only)
        self._how = devices, engine, dtype
        self._lock = threading.Lock()
        self._loaded: tuple[Checkpoint, WordTokenizer, Engine] | None = None

    def load(self) -> tuple[Checkpoint, WordTokenizer, Engine]:
        """:raises ModelError: if the model can't be had."""
        with self._lock:
            if self._loaded is None:
                checkpoint = self._checkpoint(self._model)
                if isinstance(self._tokenizer, WordTokenizer):
                    tokenizer = self._tokenizer
                else:
                    of = checkpoint if self._tokenizer is None else self._checkpoint(self._tokenizer)
                    loaded = WordTokenizer.from_folder(of.folder)
                    assert isinstance(loaded, WordTokenizer)
                    tokenizer = loaded
                self._loaded = checkpoint, tokenizer, open_engine(checkpoint, *self._how)
            return self._loaded

    @property
    def usual_seq_len(self) -> int:
        """See `Checkpoint`."""
        return self.load()[0].usual_seq_len

    def passages(self, texts: Sequence[str]) -> list[Passage]:
        return self.load()[1].passages(texts)

    def read(
        self,
        questions: Sequence[str],
        passages: Sequence[Passage],
        max_seq_len: int,
        step: int | None = None,
        overlap: int | None = None,
        max_question_len: int | None = None,
        batch_windows: int | None = None,
    ) -> Iterator[WindowLogits]:
        """Each pair's windows, in batches of like length; the engine computes the next batch while one is looked at.

        :param questions, passages: by pair. step, overlap: see `split_by_step`.
        :param max_question_len: tokens of a question that are read; None for all.
        :param batch_windows: most windows in a batch; None for what suits the engine.
        :raises QueryError: if a question is blank, or leaves no room for a passage.
        :raises ValueError: if the model takes fewer tokens than max_seq_len.
        """
        checkpoint, tokenizer, engine = self.load()
        checkpoint.check_max_seq_len(max_seq_len)
        for question in questions:
            check_query(question)
        known = dict(zip(unique := list(dict.fromkeys(questions)), tokenizer.encode(unique), strict=True))
        asked = [known[question].ids[:max_question_len] for question in questions]
        texts = [passage.tokens for passage in passages]
        question_lengths = np.fromiter(map(len, asked), np.int32, len(asked))
        passage_lengths = np.fromiter((len(tokens.ids) for tokens in texts), np.int32, len(asked))
        n_special = tokenizer.template.n_special
        windows = split_by_step(question_lengths, passage_lengths, n_special, max_seq_len, step, overlap)
        batch_tokens = engine.batch_tokens if batch_windows is None else batch_windows * max_seq_len
        pending: deque[Future[WindowLogits]] = deque()
        devices = engine.in_flight // 2
        with ThreadPoolExecutor(devices, "needle-windows") as pool:
            for group in batches_by_length(windows["length"], batch_tokens):
                batch = fill_batch(windows[group], asked, texts, tokenizer.template, tokenizer.pad_id)
                pending.append(pool.submit(_computed, engine, batch))
                if len(pending) > devices:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def _checkpoint(self, model: str | Path | None) -> Checkpoint:
        revision, token, local_files_only = self._hub
        if model is None or Path(model).is_dir() or not any(self._hub):
            return open_checkpoint(model)
        from huggingface_hub import snapshot_download  # not needed, and slow to import, for a reader on disk

        try:
            folder = snapshot_download(
                str(model), revision=revision, token=token, local_files_only=local_files_only, allow_patterns=_HUB_FILES
            )
        except Exception as error:  # the hub's own errors, and those of three HTTP libraries below it
            raise ModelError(
                f"The reader '{model}' (revision {revision}) can't be had from the model hub: {error}"
            ) from error
        return open_checkpoint(folder)


def _computed(engine: Engine, batch: Batch) -> WindowLogits:
    start, end = (x if isinstance(x, np.ndarray) else x.cpu().numpy() for x in engine.logits(batch))
    if not (np.isfinite(start[:, 0]).all() and np.isfinite(end[:, 0]).all()):
        raise ModelError(
            f"The {engine.name} engine computed logits that are no numbers. Try dtype='float32', or other weights."
        )
    return WindowLogits(batch, start, end)
