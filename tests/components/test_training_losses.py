"""What training makes small, against values worked out by hand and by torch."""

import math

import pytest
import torch
from torch.nn import functional as F

from needle.components.losses import distillation_loss, r_drop_loss, span_loss

ALL = torch.ones(1, 4, dtype=torch.bool)
SOME = torch.tensor([[True, False, True, True]])
LOGITS = torch.tensor([[1.0, 5.0, 2.0, -1.0]])
OTHERS = torch.tensor([[0.5, -3.0, 1.0, 0.0]])


def test_span_loss_of_even_logits_is_the_log_of_the_number_of_candidates():
    zero, target = torch.zeros(1, 4), torch.tensor([2])
    assert span_loss(zero, zero, target, target, ALL).item() == pytest.approx(math.log(4))
    assert span_loss(zero, zero, target, target, SOME).item() == pytest.approx(math.log(3))


def test_span_loss_is_the_mean_of_two_cross_entropies_over_the_candidates():
    start, end = torch.tensor([0]), torch.tensor([2])
    kept = [0, 2, 3]
    expected = (
        F.cross_entropy(LOGITS[:, kept], torch.tensor([0])) + F.cross_entropy(OTHERS[:, kept], torch.tensor([1]))
    ) / 2
    assert span_loss(LOGITS, OTHERS, start, end, SOME).item() == pytest.approx(expected.item())


def test_smoothing_is_torchs_label_smoothing():
    target = torch.tensor([3])
    expected = F.cross_entropy(LOGITS, target, label_smoothing=0.1)
    assert span_loss(LOGITS, LOGITS, target, target, ALL, 0.1).item() == pytest.approx(expected.item())


def test_distillation_is_the_divergence_at_the_temperature_times_its_square():
    t = 2.0
    expected = t**2 * F.kl_div(F.log_softmax(LOGITS / t, 1), F.softmax(OTHERS / t, 1), reduction="sum")
    assert distillation_loss(LOGITS, OTHERS, ALL, t).item() == pytest.approx(expected.item(), rel=1e-5)
    assert distillation_loss(LOGITS, LOGITS, SOME, t).item() == pytest.approx(0, abs=1e-6)
    assert distillation_loss(LOGITS + 7, LOGITS, SOME, t).item() == pytest.approx(0, abs=1e-6)  # a softmax knows no offset


def test_r_drop_is_the_same_in_both_directions():
    one, other = r_drop_loss(LOGITS, OTHERS, SOME), r_drop_loss(OTHERS, LOGITS, SOME)
    assert one.item() == pytest.approx(other.item())
    assert one.item() > 0.01
    assert r_drop_loss(LOGITS, LOGITS, SOME).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", [lambda x: distillation_loss(x, OTHERS, SOME, 2.0), lambda x: r_drop_loss(x, OTHERS, SOME)])
def test_what_is_no_candidate_has_no_say_and_makes_no_nan(loss):
    logits = LOGITS.clone().requires_grad_()
    loss(logits).sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 1] == 0
    changed = LOGITS.clone()
    changed[0, 1] = -50
    assert loss(changed).item() == pytest.approx(loss(LOGITS).item())


def test_rows_are_losses_of_their_own():
    target = torch.tensor([0, 0])
    both = span_loss(torch.cat([LOGITS, OTHERS]), torch.cat([OTHERS, LOGITS]), target, target, ALL.repeat(2, 1))
    alone = span_loss(LOGITS, OTHERS, target[:1], target[:1], ALL)
    assert both.shape == (2,)
    assert both[0].item() == pytest.approx(alone.item())
