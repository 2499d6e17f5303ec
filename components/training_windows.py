"""Questions with known answers -> labelled windows, in batches of like length.

The windows are the reader's own (`windows`). A window that holds the whole answer is labelled with its first and last
token, any other with [CLS] twice: "no answer" (Devlin et al. 2019, arXiv 1810.04805, section 4.3).

Tokenising takes no worker processes of its own: the tokenizers library works in threads on all cores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from needle.components.tokenizer import PassageTokenizer
from needle.components.windows import Batch, batches_by_length, fill_batch, split_windows
from needle.data.errors import UnreadableFile
from needle.data.squad import Question


class LabelledBatch(NamedTuple):
    """A batch, and where in each row the answer begins and ends: (B,) int64 positions of its first and its last token, both
    0 where the window does not hold it."""

    batch: Batch
    start: NDArray[np.int64]
    end: NDArray[np.int64]


class Step(NamedTuple):
    """The windows of one step of the optimizer: micro-batches, as indices into `TrainingWindows.windows`."""

    epoch: int
    batches: list[NDArray[np.intp]]


@dataclass(frozen=True)
class Source:
    """A file's questions in training.

    first, last: which of all questions, half-open. passes: how often an epoch sees each of them; 0.5 takes half of them
    in one epoch and the other half in the next.
    """

    first: int
    last: int
    passes: float


class TrainingWindows:
    """Questions as windows.

    windows: (n,) of `WINDOW`, ordered by question; `pair` is the question's number.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        tokenizer: PassageTokenizer,
        max_seq_len: int = 384,
        stride: int = 128,
        max_question_tokens: int = 64,
    ):
        self.questions = questions
        self._tokenizer = tokenizer
        self._question_ids = [t.ids[:max_question_tokens] for t in tokenizer.encode([q.question for q in questions])]
        contexts = list(dict.fromkeys(question.context for question in questions))
        tokens = dict(zip(contexts, tokenizer.encode(contexts), strict=True))
        self.passages = [tokens[question.context] for question in questions]
        question_lengths = np.array([len(ids) for ids in self._question_ids], np.int32)
        passage_lengths = np.array([len(passage.ids) for passage in self.passages], np.int32)
        n_special = tokenizer.template.n_special
        self.windows = split_windows(question_lengths, passage_lengths, n_special, max_seq_len, stride)
        self._first_window = np.searchsorted(self.windows["pair"], np.arange(len(questions) + 1))
        self._answers = [self._token_spans(pair, question) for pair, question in enumerate(questions)]

    def _token_spans(self, pair: int, question: Question) -> NDArray[np.int32]:
        """(answers, 2): first token and past the last one of each answer, all tokens that it touches."""
        offsets = self.passages[pair].offsets
        starts = np.array(question.answer_starts, np.int32)
        ends = starts + np.array([len(text) for text in question.answers], np.int32)
        first = np.searchsorted(offsets[:, 1], starts, side="right")
        past = np.searchsorted(offsets[:, 0], ends, side="left")
        if (past <= first).any():
            raise UnreadableFile(
                f"Question '{question.id}': the tokenizer makes no token of an answer in {question.answers}."
            )
        return np.stack([first, past], axis=1).astype(np.int32)

    def plan(
        self,
        stages: Sequence[Sequence[Source]],
        epochs: float,
        batch_tokens: int | None,
        batch_size: int,
        group: int,
        seed: int,
    ) -> list[Step]:
        """All steps of a training, the same ones for the same arguments.

        Stages come one after the other, each of `epochs` epochs. An epoch is shuffled, put into micro-batches of like
        length, and these are shuffled again: a step has `group` of them.

        :param batch_tokens: most tokens in a micro-batch, padding included; None takes `batch_size` windows instead.
        """
        steps: list[Step] = []
        n_epochs = math.ceil(epochs)
        for number, sources in enumerate(stages):
            for nth in range(n_epochs):
                epoch = number * n_epochs + nth
                rng = np.random.default_rng([seed, epoch])
                pairs = np.concatenate([_nth_part(s, nth, epochs / n_epochs, seed) for s in sources])
                first, last = self._first_window[pairs], self._first_window[pairs + 1]
                windows = np.concatenate([np.arange(0), *(np.arange(f, e) for f, e in zip(first, last, strict=True))])
                windows = rng.permutation(windows)
                lengths = self.windows["length"][windows]
                if batch_tokens is None:
                    order = np.argsort(-lengths, kind="stable")
                    groups = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
                else:
                    groups = list(batches_by_length(lengths, batch_tokens))
                batches = [windows[groups[i]] for i in rng.permutation(len(groups))]
                steps += [Step(epoch, batches[i : i + group]) for i in range(0, len(batches), group)]
        return steps

    def draws(self, seed: int, epoch: int) -> NDArray[np.float64]:
        """(questions,) 0 ... 1: which annotator's answer each question has in an epoch, see `labelled`."""
        return np.random.default_rng([seed, epoch, 1]).random(len(self.questions))

    def labelled(self, windows: NDArray[np.intp], draws: NDArray[np.float64]) -> LabelledBatch:
        """Fill a batch, with one of each question's answers: that at its draw's place among them."""
        batch = self.batch(windows)
        start, end = np.zeros(len(windows), np.int64), np.zeros(len(windows), np.int64)
        for row, (pair, start_token, end_token, _) in enumerate(batch.windows.tolist()):
            answers = self._answers[pair]
            if len(answers):
                first, past = answers[int(draws[pair] * len(answers))].tolist()
                if start_token <= first and past <= end_token:
                    shift = int(batch.passage_start[row]) - start_token
                    start[row], end[row] = first + shift, past - 1 + shift
        return LabelledBatch(batch, start, end)

    def batch(self, windows: NDArray[np.intp]) -> Batch:
        template = self._tokenizer.template
        return fill_batch(self.windows[windows], self._question_ids, self.passages, template, self._tokenizer.pad_id)


def _nth_part(source: Source, nth: int, share: float, seed: int) -> NDArray[np.intp]:
    """The questions that the nth epoch sees: the source's are put in an order, and every epoch goes on in it where the one
    before ended, round and round."""
    n = source.last - source.first
    order = np.random.default_rng([seed, source.first]).permutation(n)
    places = np.arange(round(nth * share * source.passes * n), round((nth + 1) * share * source.passes * n))
    return source.first + order[places % n]
