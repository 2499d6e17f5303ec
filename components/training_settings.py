"""What can be set about training, and the recipes that have a name."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Settings that count things, and may be 0 where that says "none".
_WHOLE = {"batch_size": 1, "accumulate": 1, "max_seq_len": 32, "stride": 0, "max_question_tokens": 1, "seed": 0}
_SHARES = ("warmup", "dropout", "label_smoothing", "ema", "teacher_weight")


@dataclass(frozen=True)
class Settings:
    """The defaults are the recipe of deepset/minilm-uncased-squad2's card, with what it leaves open as in Hugging Face's
    `run_qa`; every loss and average beyond it is off.

    epochs: how often a question is seen; 0.5 is half of them once.
    learning_rate: at its peak, with a linear warm-up over the share `warmup` of training, and linearly down to 0.
    batch_size: windows in a micro-batch. batch_tokens, if given: most tokens in one, padding included, instead.
    accumulate: micro-batches in a step, among however many processes they are shared.
    ema: decay of the weights' moving average; 0 for none. r_drop: weight of that loss; 0 for none.
    temperature, teacher_weight: of the teacher's distribution, where there is a teacher; the weight against the hard loss.
    evaluate_every: steps; None is after each epoch.
    max_minutes: training ends then, its learning rate at 0, if not before; such a run can't be repeated step by step.
    checkpoint_minutes: how much work a kill can cost.
    """

    epochs: float = 4.0
    learning_rate: float = 4e-5
    warmup: float = 0.2
    batch_size: int = 12
    batch_tokens: int | None = None
    accumulate: int = 4
    max_seq_len: int = 384
    stride: int = 128
    max_question_tokens: int = 64
    dropout: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    label_smoothing: float = 0.0
    ema: float = 0.0
    r_drop: float = 0.0
    temperature: float = 2.0
    teacher_weight: float = 0.5
    seed: int = 42
    evaluate_every: int | None = None
    max_minutes: float | None = None
    checkpoint_minutes: float = 5.0

    def __post_init__(self) -> None:
        """
        :raises ValueError: for a value that makes no sense; the message names it.
        """
        for name, least in _WHOLE.items():
            _check(name, value := getattr(self, name), isinstance(value, int) and value >= least, f"at least {least}")
        for name in _SHARES:
            _check(name, value := getattr(self, name), 0 <= value < 1, "at least 0 and below 1")
        for name in ("epochs", "learning_rate", "temperature"):
            _check(name, value := getattr(self, name), 0 < value < math.inf, "above 0")
        for name in ("weight_decay", "max_grad_norm", "r_drop", "checkpoint_minutes"):
            _check(name, value := getattr(self, name), 0 <= value < math.inf, "0 or more")
        for name in ("batch_tokens", "evaluate_every", "max_minutes"):
            _check(name, value := getattr(self, name), value is None or 0 < value < math.inf, "above 0, or None")
        if self.r_drop and not self.dropout:
            raise ValueError(
                f"r_drop compares passes with different dropout: with r_drop {self.r_drop}, dropout can't be 0."
            )


def _check(name: str, value: object, holds: bool, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {wanted}, not {value!r}.")


#: Recipes by name.
PRESETS = {"minilm-squad2": Settings()}
