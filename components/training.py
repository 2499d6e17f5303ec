"""Fine-tuning of a reader: labelled windows -> a trained model, one optimizer step after the other.

`fit` is to be read from top to bottom. All chance comes from (seed, epoch) and (seed, step), so that a run can be continued
at any step without a state of random numbers to restore.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from needle.components.engines import Engine
from needle.components.process_memory import keep_memory, trim_memory
from needle.components.training_files import TrainingFiles
from needle.components.training_settings import Settings
from needle.components.training_step import backward, parameter_groups
from needle.components.training_windows import Source, TrainingWindows
from needle.components.workers import Workers
from needle.data.errors import NeedleError

#: A held-out part's figures by name; `f1` says which weights are best.
Evaluate = Callable[[PreTrainedModel], dict[str, float]]


class Progress(NamedTuple):
    """What is told after each step, and written as a line of `training.jsonl`.

    share: of the training that is done, 0 ... 1. loss: a mean over the step's windows. tokens_per_second: of all steps since
    this process started, all processes' together, without padding and evaluations. held_out: if there was an evaluation.
    """

    step: int
    steps: int
    epoch: int
    share: float
    loss: float
    learning_rate: float
    tokens_per_second: float
    seconds_left: float
    held_out: dict[str, float] | None


@dataclass(frozen=True)
class Fitted:
    """What a training came to; the model has the best weights.

    seconds: evaluations and interrupted runs included. tokens: trained on, without padding. windows: the same.
    held_out: the figures of the best weights, None without an evaluation; best_step: when they were reached.
    """

    steps: int
    seconds: float
    tokens: int
    windows: int
    held_out: dict[str, float] | None
    best_step: int


def fit(
    model: PreTrainedModel,
    data: TrainingWindows,
    stages: Sequence[Sequence[Source]],
    settings: Settings,
    files: TrainingFiles,
    workers: Workers,
    dtype: torch.dtype,
    evaluate: Evaluate | None = None,
    teacher: Engine | None = None,
    resume: bool = False,
    told: Callable[[Progress], None] | None = None,
) -> Fitted:
    """Train a model in place.

    :param dtype: of the matrix products; weights and sums stay in float32.
    :param resume: go on from the last checkpoint in `files`, with the arguments of the run that wrote it.
    :raises KeyboardInterrupt: after Ctrl-C, when the step is done and a checkpoint written.
    :raises NeedleError: if the loss is no longer a number.
    """
    # 1. Start
    if workers.device.type == "cpu":
        keep_memory()
    group = max(settings.accumulate, workers.size)
    plan = data.plan(stages, settings.epochs, settings.batch_tokens, settings.batch_size, group, settings.seed)
    if not plan:
        raise NeedleError("Nothing is left to train on: of so few questions these weights and epochs take none.")
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameter_groups(model, settings.weight_decay), lr=0.0, fused=True)
    scaler = torch.amp.GradScaler(workers.device.type, enabled=dtype == torch.float16)
    scaler.scale(torch.zeros((), device=workers.device))  # made now: a process may begin without a micro-batch
    average = [p.detach().clone() for p in parameters] if settings.ema else None
    step, seconds, tokens, windows = 0, 0.0, 0, 0
    epoch, draws = -1, np.empty(0)
    best: dict[str, Any] = {"held_out": None, "step": 0}

    # 2. Resume
    if resume and (state := files.load_state(workers.is_first)) is not None:
        if state["group"] != group:
            raise NeedleError(
                f"The training began with steps of {state['group']} micro-batches; with {workers.size} processes they would "
                f"have {group}. Resume it with as many processes as it began with."
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        if average is not None:
            for mine, saved in zip(average, state["average"], strict=True):
                mine.copy_(saved)
        step, seconds, tokens, windows, best = (state[name] for name in ("step", "seconds", "tokens", "windows", "best"))
        del state  # its tensors are large

    def checkpoint() -> None:
        if workers.is_first:
            counts = {"step": step, "seconds": seconds, "tokens": tokens, "windows": windows, "best": best, "group": group}
            saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average}
            files.save_state({**counts, **saved, "scaler": scaler.state_dict()})

    limit = math.inf if settings.max_minutes is None else 60 * settings.max_minutes
    before, started = seconds, time.monotonic()
    checkpointed = started
    computing, computed = 0.0, 0  # seconds and tokens of this process's steps, for the speed
    last = step == len(plan) or seconds >= limit
    model.train()
    with _interrupts() as interrupted:
        while not last:
            # 3. Step
            began = time.monotonic()
            rate = settings.learning_rate * schedule(max((step + 0.5) / len(plan), seconds / limit), settings.warmup)
            for parameter_group in optimizer.param_groups:
                parameter_group["lr"] = rate
            if plan[step].epoch != epoch:
                epoch = plan[step].epoch
                draws = data.draws(settings.seed, epoch)
            batches = plan[step].batches
            own = batches[workers.rank :: workers.size]
            torch.manual_seed(int(np.random.SeedSequence([settings.seed, step, workers.rank]).generate_state(1)[0]))
            n_windows = sum(map(len, batches))
            loss, n_tokens = backward(model, data, own, draws, n_windows, settings, dtype, teacher, workers, scaler)
            if not math.isfinite(loss):
                raise NeedleError(
                    f"The loss is {loss} at step {step + 1}. Try a lower learning rate than {settings.learning_rate}."
                )
            scaler.unscale_(optimizer)
            if settings.max_grad_norm:
                nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            if workers.device.type == "cpu":
                trim_memory()
            step += 1
            if average is not None:
                decay = min(settings.ema, (1 + step) / (10 + step))  # or the first weights would be remembered for long
                torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
            tokens, windows = tokens + n_tokens, windows + n_windows
            computing, computed = computing + time.monotonic() - began, computed + n_tokens

            # 4. Evaluate
            now, stop = workers.largest(before + time.monotonic() - started, float(interrupted.is_set()))
            last = step == len(plan) or now >= limit
            due = step % settings.evaluate_every == 0 if settings.evaluate_every else not last and plan[step].epoch != epoch
            held_out = None
            if (due or last) and workers.is_first:
                with _averaged(parameters, average):
                    held_out = evaluate(model) if evaluate is not None else None
                    if best["held_out"] is None or (held_out is not None and held_out["f1"] > best["held_out"]["f1"]):
                        best = {"held_out": held_out, "step": step}
                        files.save_best(model)

            # 5. Tell, and keep
            seconds, stop = workers.largest(before + time.monotonic() - started, max(stop, float(interrupted.is_set())))
            share = min(1.0, max(step / len(plan), seconds / limit))
            left = seconds * (1 - share) / share
            progress = Progress(step, len(plan), epoch, share, loss, rate, computed / computing, left, held_out)
            if workers.is_first:
                files.append(progress._asdict())
                if told is not None:
                    told(progress)
            if stop or last or time.monotonic() - checkpointed >= 60 * settings.checkpoint_minutes:
                checkpoint()
                checkpointed = time.monotonic()
            if stop:
                raise KeyboardInterrupt
    if workers.is_first:
        files.load_best(model)
    return Fitted(step, seconds, tokens, windows, best["held_out"], best["step"])


def schedule(share: float, warmup: float) -> float:
    """The learning rate's part of its peak, when this share of training is done: linear from 0 up, and down to 0."""
    return min(share / warmup if warmup else 1.0, (1 - min(share, 1.0)) / (1 - warmup))


@contextmanager
def _averaged(parameters: Sequence[nn.Parameter], average: Sequence[Tensor] | None) -> Iterator[None]:
    """The model with its average weights."""
    if average is None:
        yield
        return
    own = [p.detach().clone() for p in parameters]
    for parameter, value in zip(parameters, average, strict=True):
        parameter.data.copy_(value)
    yield
    for parameter, value in zip(parameters, own, strict=True):
        parameter.data.copy_(value)


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, so that a step is not left half done; a second Ctrl-C ends at once. Python lets only the
    main thread catch it."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.getsignal(signal.SIGINT)

    def stop(*_: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, stop)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
