"""What training makes small: pure functions of logits, one value a window.

Logits are (B, L) float32. `candidates`, (B, L) bool, are the tokens at which a span may start or end: [CLS], which stands
for "no answer", and the passage's; the others get no probability.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def span_loss(
    start_logits: Tensor, end_logits: Tensor, start: Tensor, end: Tensor, candidates: Tensor, smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of the start and of the end, averaged (Devlin et al. 2019, arXiv 1810.04805, section 4.2): (B,).

    :param start: (B,) int64, position of the answer's first token. end: of its last token, not behind it; both 0 for none.
    :param smoothing: this share of the target is spread evenly over the candidates (Szegedy et al. 2016, arXiv 1512.00567,
        section 7).
    """
    losses = []
    for logits, target in ((start_logits, start), (end_logits, end)):
        log_p = _log_softmax(logits, candidates)
        loss = -log_p.gather(1, target[:, None])[:, 0]
        if smoothing:
            even = -log_p.masked_fill(~candidates, 0).sum(1) / candidates.sum(1)
            loss = (1 - smoothing) * loss + smoothing * even
        losses.append(loss)
    return (losses[0] + losses[1]) / 2


def distillation_loss(logits: Tensor, teacher_logits: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of the softmax at temperature T (Hinton et al. 2015, arXiv 1503.02531, section 2): (B,).

    The factor keeps the gradients' size the same whatever the temperature.
    """
    student, teacher = (_log_softmax(one / temperature, candidates) for one in (logits, teacher_logits))
    return temperature**2 * _kl(teacher, student, candidates)


def r_drop_loss(logits: Tensor, other_logits: Tensor, candidates: Tensor) -> Tensor:
    """Mean of KL in both directions between two passes with different dropout (Wu et al. 2021, arXiv 2106.14448,
    equation 2): (B,)."""
    one, other = (_log_softmax(pass_, candidates) for pass_ in (logits, other_logits))
    return (_kl(one, other, candidates) + _kl(other, one, candidates)) / 2


def _log_softmax(logits: Tensor, candidates: Tensor) -> Tensor:
    return F.log_softmax(logits.masked_fill(~candidates, -torch.inf), dim=1)


def _kl(p_log: Tensor, q_log: Tensor, candidates: Tensor) -> Tensor:
    # -inf minus -inf would be NaN: what is no candidate adds nothing.
    p, q = (one.masked_fill(~candidates, 0) for one in (p_log, q_log))
    return (p.exp() * (p - q)).masked_fill(~candidates, 0).sum(1)
