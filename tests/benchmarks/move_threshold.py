"""Moves a null threshold into the head of a compact reader, so that its threshold is 0 also for those that know no other.

    python tests/benchmarks/move_threshold.py READER THRESHOLD train-natural.json.gz train-squad2-backtranslated.json.gz

Of the hidden states that the head reads, [CLS]'s differ from those of the passage's tokens: a direction is found on which
they lie at 1 and these at 0 (least squares), and half of the threshold's part of it is taken from the head's weights for
starts and ends. So the null score falls by THRESHOLD and the scores of spans stay, but for some hundredths.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from needle.components.tokenizer import PassageTokenizer
from needle.components.trainable import load_trainable
from needle.components.weights import COMPACT_FILE, Checkpoint, open_checkpoint
from needle.components.windows import pair_batches
from needle.data.squad import read_squad

QUESTIONS, LONGEST, SEED = 400, 1200, 3
#: How much more a token's error weighs than that of [CLS]: it may change which span is best. Then the ridge.
TOKENS, RIDGE = 30.0, 1e-3


def main(reader: str, threshold: str, *files: str) -> None:
    draw, pairs = random.Random(SEED), []
    for file in files:
        drawn = draw.sample([q for q in read_squad(file) if len(q.context) <= LONGEST], QUESTIONS)
        pairs += [(q.question, q.context) for q in drawn]
    checkpoint = open_checkpoint(reader)
    cls, tokens = hidden_states(checkpoint, pairs)
    half, other_half = (direction(cls[i::2], tokens[i::2]) for i in (0, 1))
    print(f"[CLS] {spread(cls[1::2] @ half)}, tokens {spread(tokens[1::2] @ half)} (of the half not fitted to)")
    file = Path(reader) / COMPACT_FILE
    with safe_open(file, "numpy") as stored:
        names, metadata = stored.keys(), stored.metadata()
        arrays = {name: stored.get_tensor(name) for name in names}
    arrays["qa_outputs.weight"] -= (float(threshold) / 2 * (half + other_half) / 2).astype(np.float32)
    save_file(arrays, file, metadata)


def hidden_states(checkpoint: Checkpoint, pairs: list[tuple[str, str]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Those of [CLS] and those of all passages' tokens: (n, H) and (m, H)."""
    model: Any = load_trainable(checkpoint, torch.device("cpu"), dropout=0.0).eval()
    cls, tokens = [], []
    for batch in pair_batches(pairs, PassageTokenizer.from_folder(checkpoint.folder)):
        place = np.arange(batch.input_ids.shape[1])
        arrays = {
            "input_ids": batch.input_ids,
            "token_type_ids": batch.token_type_ids,
            "attention_mask": place < batch.lengths[:, None],
        }
        with torch.inference_mode():
            inputs = {name: torch.from_numpy(array).long() for name, array in arrays.items()}
            states = model.base_model(**inputs).last_hidden_state.numpy().astype(np.float64)
        cls.append(states[:, 0])
        tokens.append(states[(place >= batch.passage_start[:, None]) & (place < batch.passage_end[:, None])])
    return np.concatenate(cls), np.concatenate(tokens)


def direction(cls: NDArray[Any], tokens: NDArray[Any]) -> NDArray[Any]:
    """(H,) u of the least mean (cls u - 1)^2 + TOKENS x mean (tokens u)^2 + RIDGE x u u."""
    square = cls.T @ cls / len(cls) + TOKENS * tokens.T @ tokens / len(tokens) + RIDGE * np.eye(cls.shape[1])
    return np.asarray(np.linalg.solve(square, cls.mean(0)))


def spread(values: NDArray[Any]) -> str:
    return f"{values.mean():.3f} ± {values.std():.3f}"


if __name__ == "__main__":
    main(*sys.argv[1:])
