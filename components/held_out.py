"""How good a model is on questions that it is not trained on, by the official metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from needle.components.metrics import squad_scores
from needle.components.spans import best_spans
from needle.components.trainable import model_inputs
from needle.components.training_windows import TrainingWindows
from needle.components.windows import batches_by_length
from needle.data.squad import Question

MAX_ANSWER_TOKENS = 30


def held_out_scores(model: PreTrainedModel, windows: TrainingWindows, dtype: torch.dtype) -> dict[str, float]:
    """The figures of `squad_scores`, for the questions of these windows; null threshold 0, answers of at most 30 tokens.

    :param dtype: of the matrix products.
    """
    predictions = predict(model, windows, dtype)
    return squad_scores(windows.questions, predictions)


def predict(model: PreTrainedModel, windows: TrainingWindows, dtype: torch.dtype) -> dict[str, str]:
    """Question id -> answer, "" for none: the best span of all the passage's windows if it scores higher than the lowest
    null score of these (the reader's rule, see `answers`)."""
    device = next(model.parameters()).device
    n = len(windows.questions)
    best, null = np.full(n, -np.inf, np.float32), np.full(n, np.inf, np.float32)
    answer: list[tuple[int, int]] = [(0, 0)] * n
    was_training = model.training
    model.train(False)
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        for group in batches_by_length(windows.windows["length"], 2048 if device.type == "cpu" else 32768):
            batch = windows.batch(group)
            output: Any = model(**model_inputs(batch, model))
            start, end = output.start_logits.float(), output.end_logits.float()
            if device.type == "cpu":
                start, end = start.numpy(), end.numpy()
            spans = best_spans(start, end, batch, MAX_ANSWER_TOKENS, 1)
            shift = batch.windows["start_token"] - batch.passage_start
            for row, pair in enumerate(batch.windows["pair"].tolist()):
                null[pair] = min(null[pair], spans.null_score[row])
                if spans.score[row, 0] > best[pair]:
                    best[pair] = spans.score[row, 0]
                    answer[pair] = (spans.start[row, 0] + shift[row], spans.end[row, 0] + shift[row])
    model.train(was_training)
    return {
        question.id: _text(question, windows, pair, answer[pair]) if best[pair] > null[pair] else ""
        for pair, question in enumerate(windows.questions)
    }


def _text(question: Question, windows: TrainingWindows, pair: int, span: Sequence[int]) -> str:
    offsets = windows.passages[pair].offsets
    return question.context[offsets[span[0], 0] : offsets[span[1] - 1, 1]]
