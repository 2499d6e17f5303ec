"""What one step of training computes: a step's windows -> their losses and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from needle.components.engines import Engine
from needle.components.losses import distillation_loss, r_drop_loss, span_loss
from needle.components.trainable import model_inputs
from needle.components.training_settings import Settings
from needle.components.training_windows import LabelledBatch, TrainingWindows
from needle.components.windows import Batch
from needle.components.workers import Workers


def parameter_groups(model: PreTrainedModel, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and LayerNorm's vectors don't (Devlin et al. 2019, in their code)."""
    trained = [p for p in model.parameters() if p.requires_grad]
    decaying, others = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    return [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def backward(
    model: PreTrainedModel,
    data: TrainingWindows,
    own: Sequence[NDArray[np.intp]],
    draws: NDArray[np.float64],
    n_windows: int,
    settings: Settings,
    dtype: torch.dtype,
    teacher: Engine | None,
    workers: Workers,
    scaler: torch.amp.GradScaler,
) -> tuple[float, int]:
    """Gradients of the mean loss over a step's windows, of all processes' micro-batches: the loss, and how many tokens.

    :param scaler: what the gradients are multiplied by, so that float16 does not round them to 0; it does nothing where it
        is not enabled.
    """
    total = torch.zeros((), dtype=torch.float64, device=workers.device)
    tokens = torch.zeros((), dtype=torch.int64, device=workers.device)
    for indices in own:
        labelled = data.labelled(indices, draws)
        loss = window_losses(model, labelled, settings, dtype, teacher).sum() / n_windows
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
        tokens += int(labelled.batch.lengths.sum())
    if workers.size > 1:
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)  # a process without a micro-batch in this step
        workers.add([p.grad for p in model.parameters() if p.grad is not None])
        workers.add([total, tokens])
    return float(total), int(tokens)


def window_losses(
    model: PreTrainedModel,
    labelled: LabelledBatch,
    settings: Settings,
    dtype: torch.dtype,
    teacher: Engine | None = None,
) -> Tensor:
    """The loss of each window: (B,) float32, where the model is."""
    inputs = model_inputs(labelled.batch, model)
    device = inputs["input_ids"].device
    start, end = (torch.from_numpy(a).to(device) for a in (labelled.start, labelled.end))
    candidates = torch.from_numpy(_candidates(labelled.batch)).to(device)
    passes = 2 if settings.r_drop else 1
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        output: Any = model(**{name: value.repeat(passes, 1) for name, value in inputs.items()})
    # Each (passes, B, L), for starts and for ends.
    logits = [one.float().unflatten(0, (passes, -1)) for one in (output.start_logits, output.end_logits)]
    losses = [span_loss(s, e, start, end, candidates, settings.label_smoothing) for s, e in zip(*logits, strict=True)]
    loss = torch.stack(losses).mean(0)
    if teacher is not None:
        teachers = [torch.as_tensor(one).clone() for one in teacher.logits(labelled.batch)]  # not an inference tensor
        soft = [
            distillation_loss(one, theirs, candidates, settings.temperature)
            for ours, theirs in zip(logits, teachers, strict=True)
            for one in ours
        ]
        loss = (1 - settings.teacher_weight) * loss + settings.teacher_weight * torch.stack(soft).mean(0)
    if settings.r_drop:
        apart = [r_drop_loss(one[0], one[1], candidates) for one in logits]
        loss = loss + settings.r_drop * torch.stack(apart).mean(0)
    return loss


def _candidates(batch: Batch) -> NDArray[np.bool_]:
    """(B, L): where a span may start or end, see `losses`."""
    place = np.arange(batch.input_ids.shape[1])
    in_passage = (place >= batch.passage_start[:, None]) & (place < batch.passage_end[:, None])
    candidates: NDArray[np.bool_] = in_passage | (place == 0)
    return candidates
