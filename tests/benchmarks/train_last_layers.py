"""Trains a MiniLM reader's last layers and its head where there is no GPU; what came of it stands in RESULTS.md.

    python tests/benchmarks/train_last_layers.py READER OUT train-natural.json.gz train-squad2-backtranslated.json.gz

The layers below stay as they are, so their part is computed once, by the int8 engine, and kept: what remains costs two
thirds of a whole training step. Questions that the reader answers well already are left out, and those that it gets so
wrong that their answers may be. A quarter of the passages is held out, for a calibration on questions that were not
trained on. The reader written is the mean of the one before and the trained one (Wortsman et al. 2022, arXiv 2109.01903):
the trained one is better on questions like those that it was trained on, and worse on others.
OUT: a reader in Hugging Face format, its compact form in OUT/compact.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from changed_questions import changed_questions
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from needle.components import bert_kernels
from needle.components.cores import available_cores
from needle.components.losses import span_loss
from needle.components.numba_engine import NumbaEngine
from needle.components.process_memory import keep_memory
from needle.components.reader_files import save_compact, save_reader
from needle.components.tokenizer import PassageTokenizer
from needle.components.trainable import fastest_dtype, load_trainable
from needle.components.training import schedule
from needle.components.training_step import parameter_groups
from needle.components.training_windows import LabelledBatch, Source, TrainingWindows
from needle.components.weights import open_checkpoint
from needle.data.squad import Question, read_squad

TRAINED_LAYERS = 8
#: Questions of each file, answerable and unanswerable, in passages of at most LONGEST characters. Then how many of the first
#: file's answerable ones are also changed into unanswerable ones.
NATURAL, BACK_TRANSLATED, CHANGED = (20_000, 3_000), (5_000, 13_000), 3_000
LONGEST = 1200
#: Held out: answerable questions of three annotators, and unanswerable ones.
HELD_OUT = 1200
EPOCHS, LEARNING_RATE, WARMUP, WEIGHT_DECAY, BATCH_TOKENS, SEED = 1, 4e-5, 0.05, 0.01, 4096, 5
#: Weight of the loss of "is there an answer?", which is asked of the best span of at most so many tokens.
ANSWERABLE, ANSWER_TOKENS = 0.5, 30
#: The reader's own loss of a question that is trained on.
LEAST_LOSS, MOST_LOSS = 0.1, 6.0
#: Share of the weights before in the mean.
BEFORE = 0.5


def main(reader: str, out: str, natural: str, back_translated: str) -> None:
    # 1. Data
    draw = random.Random(SEED)
    questions, held_out = drawn_questions(read_squad(natural), read_squad(back_translated), draw)

    # 2. The lower layers
    checkpoint = open_checkpoint(reader)
    tokenizer = PassageTokenizer.from_folder(checkpoint.folder)
    engine = NumbaEngine(checkpoint)
    questions = informative(questions, tokenizer, engine)
    training, held = TrainingWindows(questions, tokenizer), TrainingWindows(held_out, tokenizer)
    below = LowerLayers(engine)
    states, held_states = below.states(training), below.states(held)

    # 3. The upper ones
    keep_memory()
    model = load_trainable(checkpoint, torch.device("cpu"), dropout=0.0)
    for parameter in model.parameters():
        parameter.requires_grad = False
    encoder: Any = model.base_model.encoder  # type: ignore[union-attr]
    layers: Any = encoder.layer[-TRAINED_LAYERS:]
    trained = [*layers.parameters(), *model.qa_outputs.parameters()]
    before = [parameter.detach().clone() for parameter in trained]
    for parameter in trained:
        parameter.requires_grad = True
    dtype = getattr(torch, fastest_dtype(torch.device("cpu")))
    optimizer = torch.optim.AdamW(parameter_groups(model, WEIGHT_DECAY), lr=0.0, fused=True)
    plan = training.plan([[Source(0, len(questions), 1.0)]], EPOCHS, BATCH_TOKENS, 0, 1, SEED)
    print(f"{len(plan)} steps in {dtype}; held-out loss before: {mean_loss(held, held_states, layers, model, dtype):.4f}")
    started, tokens, running = time.monotonic(), 0, []
    for step, (epoch, batches) in enumerate(plan):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * schedule((step + 0.5) / len(plan), WARMUP)
        losses = window_losses(batches[0], training, states, layers, model, training.draws(SEED, epoch), dtype)
        losses.mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += int(training.windows["length"][batches[0]].sum())
        running.append(losses.detach().mean().item())
        if not (step + 1) % 100:
            per_second = tokens / (time.monotonic() - started)
            print(f"step {step + 1}, loss {np.mean(running[-100:]):.4f}, {per_second:.0f} tokens/s", flush=True)
    print(f"held-out loss after: {mean_loss(held, held_states, layers, model, dtype):.4f}")
    with torch.no_grad():
        for parameter, old in zip(trained, before, strict=True):
            parameter.lerp_(old, BEFORE)
    print(f"and of the mean: {mean_loss(held, held_states, layers, model, dtype):.4f}")

    # 4. Files
    folder = Path(out)
    save_reader(model, checkpoint.folder, folder)
    save_compact(folder, folder / "compact", [(q.question, q.context) for q in questions[:: len(questions) // 256]])


def drawn_questions(
    natural: list[Question], back_translated: list[Question], draw: random.Random
) -> tuple[list[Question], list[Question]]:
    """What is trained on, and what is held out."""
    questions, held_out = [], []
    for file, wanted in ((natural, NATURAL), (back_translated, BACK_TRANSLATED)):
        for unanswerable, n in enumerate(wanted):
            of_kind = [q for q in file if q.is_impossible == bool(unanswerable) and len(q.context) <= LONGEST]
            drawn = draw.sample([q for q in of_kind if not is_held_out(q)], n)
            if file is natural and not unanswerable:
                drawn += islice(changed_questions(drawn, draw), CHANGED)
            questions += drawn
            if (file is natural) != unanswerable:
                held_out += draw.sample([q for q in of_kind if is_held_out(q) and len(q.answers) != 1], HELD_OUT)
    draw.shuffle(questions)
    return questions, held_out


def is_held_out(question: Question) -> bool:
    return hashlib.md5(question.context.encode()).digest()[0] < 64


def informative(questions: list[Question], tokenizer: PassageTokenizer, engine: NumbaEngine) -> list[Question]:
    """Those from which there is something to learn, by their loss; of several windows the greatest counts."""
    data = TrainingWindows(questions, tokenizer)
    draws, greatest = data.draws(SEED, 0), np.zeros(len(questions))
    started = time.monotonic()
    for step in data.plan([[Source(0, len(questions), 1.0)]], 1, 16 * BATCH_TOKENS, 0, 1, SEED):
        labelled = data.labelled(step.batches[0], draws)
        start, end = (torch.from_numpy(logits) for logits in engine.logits(labelled.batch))
        np.maximum.at(greatest, labelled.batch.windows["pair"], logit_losses(start, end, labelled).numpy())
    kept = [q for q, loss in zip(questions, greatest, strict=True) if LEAST_LOSS < loss < MOST_LOSS]
    print(f"{len(kept)} of {len(questions)} questions, {time.monotonic() - started:.0f} s", flush=True)
    return kept


class LowerLayers:
    """The layers that are not trained, run by the int8 engine, whose memory holds their output when it has done."""

    def __init__(self, engine: NumbaEngine):
        self._heads, self._epsilon = engine._heads, engine._epsilon
        of_layers = ("qkv", "attention", "attention_norm", "inner", "outer", "outer_norm")
        fewer = {name: _first_layers(getattr(engine._encoder, name)) for name in of_layers}
        self._encoder = engine._encoder._replace(**fewer)
        self._inner = engine._encoder.inner.bias.shape[1]

    def states(self, data: TrainingWindows) -> Callable[[int], NDArray[np.float16]]:
        """The hidden states of each window by its index, (length, H)."""
        hidden = self._encoder.words.shape[1]
        first = np.concatenate([[0], np.cumsum(data.windows["length"], dtype=np.int64)])
        kept = np.empty((first[-1], hidden), np.float16)

        def compute(windows: NDArray[np.intp]) -> None:
            longest = int(data.windows["length"][windows].max())
            scratch = bert_kernels.scratch(longest, hidden, self._inner, hidden // self._heads)
            nowhere = np.empty((2, 1, longest), np.float32)
            for i in windows:
                batch = data.batch(np.array([i]))
                inputs = batch.input_ids, batch.token_type_ids, batch.lengths
                bert_kernels.encode(self._encoder, self._heads, self._epsilon, *inputs, scratch, *nowhere)
                kept[first[i] : first[i + 1]] = scratch.x[: batch.lengths[0]]

        started = time.monotonic()
        with ThreadPoolExecutor(available_cores()) as pool:
            parts = np.array_split(np.arange(len(data.windows)), max(1, len(data.windows) // 256))
            for n, _ in enumerate(pool.map(compute, parts)):
                if not n % 20:
                    print(f"hidden states: {n} of {len(parts)} parts, {time.monotonic() - started:.0f} s", flush=True)
        print(f"hidden states: {first[-1]} tokens in {time.monotonic() - started:.0f} s", flush=True)
        return lambda i: kept[first[i] : first[i + 1]]


def _first_layers(stacked: Any) -> Any:
    return type(stacked)(*(array[:-TRAINED_LAYERS] for array in stacked))


def window_losses(
    windows: NDArray[np.intp],
    data: TrainingWindows,
    states: Callable[[int], NDArray[np.float16]],
    layers: nn.ModuleList,
    model: Any,
    draws: NDArray[np.float64],
    dtype: torch.dtype,
) -> Tensor:
    """(B,) float32."""
    labelled = data.labelled(windows, draws)
    batch = labelled.batch
    x = np.zeros((*batch.input_ids.shape, states(0).shape[1]), np.float32)
    for row, i in enumerate(windows):
        x[row, : batch.lengths[row]] = states(i)
    inside = np.arange(x.shape[1]) < batch.lengths[:, None]
    padding = torch.from_numpy(np.where(inside, 0, -np.inf).astype(np.float32))[:, None, None]
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        out = torch.from_numpy(x)
        for layer in layers:
            out = layer(out, padding)
        start, end = model.qa_outputs(out).float().unbind(-1)
    return logit_losses(start, end, labelled)


def logit_losses(start: Tensor, end: Tensor, labelled: LabelledBatch) -> Tensor:
    """(B,) float32: the loss of the spans, and that of "is there an answer?"."""
    batch, place = labelled.batch, np.arange(start.shape[1])
    in_passage = (place >= batch.passage_start[:, None]) & (place < batch.passage_end[:, None])
    candidates = torch.from_numpy(in_passage | (place == 0))
    first, last = torch.from_numpy(labelled.start), torch.from_numpy(labelled.end)
    spans = span_loss(start, end, first, last, candidates)
    margin = best_margin(start, end, torch.from_numpy(in_passage))
    return spans + ANSWERABLE * F.binary_cross_entropy_with_logits(margin / 2, (first > 0).float(), reduction="none")


def best_margin(start: Tensor, end: Tensor, in_passage: Tensor) -> Tensor:
    """Score of the best span less that of "no answer": (B,)."""
    place = torch.arange(start.shape[1])
    behind = place - place[:, None]
    starts, ends = (logits.masked_fill(~in_passage, -1e4) for logits in (start, end))
    with torch.no_grad():
        scores = (starts[:, :, None] + ends[:, None]).masked_fill((behind < 0) | (behind >= ANSWER_TOKENS), -1e5)
        best = scores.flatten(1).argmax(1)
    i, j = best // len(place), best % len(place)
    span = start.gather(1, i[:, None]) + end.gather(1, j[:, None])
    return span[:, 0] - start[:, 0] - end[:, 0]


def mean_loss(
    data: TrainingWindows,
    states: Callable[[int], NDArray[np.float16]],
    layers: nn.ModuleList,
    model: Any,
    dtype: torch.dtype,
) -> float:
    plan = data.plan([[Source(0, len(data.questions), 1.0)]], 1, BATCH_TOKENS, 0, 1, SEED)
    draws = data.draws(SEED, 0)
    with torch.inference_mode():
        found = [window_losses(step.batches[0], data, states, layers, model, draws, dtype) for step in plan]
    return float(torch.cat(found).mean())


if __name__ == "__main__":
    main(*sys.argv[1:])
