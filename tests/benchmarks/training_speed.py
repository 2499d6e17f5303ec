"""Training: needle's steps against a padded loop as Hugging Face's run_qa has it.

usage: python tests/benchmarks/training_speed.py READER SQUAD.json[.gz] [SECONDS [ROUNDS]]
READER: a folder in Hugging Face format, of which both continue the training.

The rival: examples/pytorch/question-answering/run_qa.py's defaults with the recipe's sizes: all windows padded to
max_seq_length 384, 12 a batch, float32, torch's own attention and dropout (0.1), AdamW, gradients clipped at 1, a linear
schedule. Ours: `fit` with the same dropout, in bfloat16 where the processor has it, batches of 4,096 tokens. Some 10,000
questions are drawn from, evenly taken; tokenising is not counted, and neither are the first two steps. The two take
turns, each time in a fresh process, and the best round of each counts. Threads wait passively in both: where another process
wants the cores, torch's default would cost the rival most of its speed.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from results import record, table
from torch.utils.data import DataLoader
from transformers import AutoModelForQuestionAnswering, get_linear_schedule_with_warmup

from needle.components.tokenizer import PassageTokenizer
from needle.components.trainable import fastest_dtype, load_trainable
from needle.components.training import fit
from needle.components.training_files import TrainingFiles
from needle.components.training_settings import Settings
from needle.components.training_windows import Source, TrainingWindows
from needle.components.weights import open_checkpoint
from needle.components.workers import Workers
from needle.data.training_data import read_training_files

WARM_UP = 2
model, path = sys.argv[1:3]
seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 60
rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 2
only = sys.argv[5] if len(sys.argv) > 5 else None  # this program starts itself


def windows() -> TrainingWindows:
    [file] = read_training_files([path])
    questions = file.questions[:: max(1, len(file.questions) // 10_000)]
    return TrainingWindows(questions, PassageTokenizer.from_folder(Path(model)))


def rival() -> dict[str, float]:
    """Windows and tokens a second, padding not counted."""
    data, width = windows(), 384

    def collate(numbers: list[int]) -> tuple[dict[str, torch.Tensor], int]:
        batch, start, end = data.labelled(np.array(numbers), data.draws(0, 0))
        pad = ((0, 0), (0, width - batch.input_ids.shape[1]))
        ids, types = (np.pad(array, pad) for array in (batch.input_ids, batch.token_type_ids))
        mask = np.arange(width) < batch.lengths[:, None]
        arrays = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}
        tensors = {name: torch.from_numpy(array.astype(np.int64)) for name, array in arrays.items()}
        return {**tensors, "start_positions": torch.from_numpy(start), "end_positions": torch.from_numpy(end)}, int(
            batch.lengths.sum()
        )

    torch.manual_seed(42)
    device = Workers().device
    trained = AutoModelForQuestionAnswering.from_pretrained(model, dtype=torch.float32).to(device).train()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=4e-5, fused=True)
    loader = DataLoader(range(len(data.windows)), batch_size=12, shuffle=True, collate_fn=collate)
    schedule = get_linear_schedule_with_warmup(optimizer, len(loader) // 5, len(loader))
    n_windows = n_tokens = 0
    for step, (inputs, tokens) in enumerate(loader):
        if step == WARM_UP:
            began = time.perf_counter()
        loss = trained(**{name: tensor.to(device) for name, tensor in inputs.items()}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        loss.item()  # as Trainer does for its log
        if step >= WARM_UP:
            n_windows, n_tokens = n_windows + 12, n_tokens + tokens
            if (spent := time.perf_counter() - began) >= seconds:
                break
    return {"windows": n_windows / spent, "tokens": n_tokens / spent}


def ours() -> dict[str, float]:
    data, workers = windows(), Workers()
    dtype = getattr(torch, fastest_dtype(workers.device))
    settings = Settings(batch_tokens=4096, accumulate=1, epochs=100, max_minutes=seconds / 60 + 1, checkpoint_minutes=999)
    trained = load_trainable(open_checkpoint(model), workers.device, dropout=0.1)
    found: dict[str, float] = {}
    plan = data.plan([[Source(0, len(data.questions), 1)]], 100, 4096, 1, 1, 42)
    began = 0.0

    class Enough(Exception):
        pass

    def told(progress):
        nonlocal began
        if progress.step == WARM_UP:
            began = time.perf_counter()
        elif progress.step > WARM_UP and (spent := time.perf_counter() - began) >= seconds:
            batches = np.concatenate([batch for step in plan[WARM_UP : progress.step] for batch in step.batches])
            found["windows"], found["tokens"] = len(batches) / spent, float(data.windows["length"][batches].sum()) / spent
            raise Enough

    with tempfile.TemporaryDirectory() as folder:
        try:
            fit(
                trained,
                data,
                [[Source(0, len(data.questions), 1)]],
                settings,
                TrainingFiles(Path(folder)),
                workers,
                dtype,
                told=told,
            )
        except Enough:
            return found
    raise SystemExit("Too little data for so many seconds.")


if only:
    print(json.dumps({"rival": rival, "ours": ours}[only]()))
    sys.exit()

best: dict[str, dict[str, float]] = {}
for _ in range(rounds):
    for name in ("rival", "ours"):
        command = [sys.executable, __file__, model, path, str(seconds), "1", name]
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
        told = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
        speed = json.loads(told.splitlines()[-1])
        print(name, speed, os.getloadavg(), file=sys.stderr)
        if name not in best or speed["tokens"] > best[name]["tokens"]:
            best[name] = speed
rows = [
    [
        label,
        f"{best[name]['windows']:.1f}",
        f"{best[name]['tokens']:,.0f}",
        f"{best[name]['tokens'] / best['rival']['tokens']:.1f}",
    ]
    for name, label in (("rival", "run_qa's loop, padded, float32"), ("ours", "needle train"))
]
command = f"python tests/benchmarks/training_speed.py {model} {path} {seconds:.0f} {rounds}"
record("Training", command, table(["training", "windows/s", "tokens/s", "times"], rows), ("transformers",))
