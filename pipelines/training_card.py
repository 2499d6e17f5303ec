"""The card of a reader that was trained, written from what was done."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from needle.components.cores import available_cores
from needle.components.training import Fitted
from needle.components.workers import Workers
from needle.data.training_data import TrainingFile

if TYPE_CHECKING:
    from needle.pipelines.calibrate import Calibrated
    from needle.pipelines.training import Run

#: F1 points by which the answerable or the unanswerable questions must be worse to be called a weakness.
_APART = 3


def card(
    name: str,
    run: Run,
    files: Sequence[TrainingFile],
    fitted: Fitted,
    n_held_out: int,
    model: PreTrainedModel,
    workers: Workers,
    has_compact: bool,
    calibrated: Calibrated | None,
) -> str:
    """README.md: what it is, how it was made, how good it is and where it is weak."""
    config = model.config
    million = sum(p.numel() for p in model.parameters()) / 1e6
    forms = "`model.safetensors` and its tokenizer: Hugging Face format."
    if has_compact:
        forms += " `compact/`: the same reader with 8-bit weights, see needle's `components/weights.py`."
    parts = [
        f"# {name}: an extractive reader",
        f"Given a question and a passage, the start and end of the answer in the passage, or that there is none. "
        f"`{type(model).__name__}`, {config.num_hidden_layers} layers of width {config.hidden_size}, {million:.1f} million "
        f"parameters. {forms}",
        "## Data",
        _data(run, files, n_held_out),
        "## Training",
        _training(run, fitted, workers),
        f"```\n{run.command}\n```",
        "## Figures",
        _figures(fitted, n_held_out),
        "## Calibration",
        _calibration(calibrated),
        "## Weaknesses",
        _weaknesses(files, fitted),
        "## Licence",
        "That of the data and of the model that it started from, whichever asks more; SQuAD and what is made of it is "
        "CC BY-SA 4.0.",
    ]
    return "\n\n".join(parts) + "\n"


def _data(run: Run, files: Sequence[TrainingFile], n_held_out: int) -> str:
    lines = [
        "| file | questions | unanswerable | left out as bad | passes an epoch | sha256 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for file, weight in zip(files, run.weights, strict=True):
        counts = f"{len(file.questions):,} | {file.unanswerable:,} | {len(file.bad):,} | {weight:g}"
        lines.append(f"| {Path(file.path).name} | {counts} | {file.sha256} |")
    told = "One file after the other, in this order." if run.in_order and len(files) > 1 else ""
    if isinstance(run.held_out, str):
        told += f" Held out: {n_held_out:,} questions of {Path(run.held_out).name}; training saw none of their passages."
    elif n_held_out:
        told += f" Held out: {n_held_out:,} of these questions, all those on {run.held_out:.1%} of the passages."
    return "\n".join(lines) + (f"\n\n{told.strip()}" if told else "")


def _training(run: Run, fitted: Fitted, workers: Workers) -> str:
    start = "the reader that needle ships" if run.model is None else run.model
    layers = f", {run.layers} of its layers" if run.layers is not None else ""
    lines = [
        f"- From: {start}{layers}.",
        *([f"- Teacher: {run.teacher}."] if run.teacher is not None else []),
        f"- Done: {fitted.steps:,} steps of AdamW on {fitted.windows:,} windows ({fitted.tokens:,} tokens) in "
        f"{fitted.seconds / 60:.1f} minutes, evaluations included; the weights kept are those of step {fitted.best_step:,}.",
        f"- On: {_machine(workers)}; products in {run.dtype}; Python {platform.python_version()}, "
        f"torch {version('torch')}, transformers {version('transformers')}; {datetime.now(UTC):%Y-%m-%d}.",
        "- Settings: " + ", ".join(f"{key} {value}" for key, value in asdict(run.settings).items()) + ".",
    ]
    return "\n".join(lines)


def _figures(fitted: Fitted, n_held_out: int) -> str:
    if fitted.held_out is None:
        return "Not measured: nothing was held out. `needle eval reader FILE --model FOLDER` measures it."
    lines = ["| questions | exact_match | f1 |", "| --- | --- | --- |"]
    for prefix, told in (("", "all"), ("has_answer_", "answerable"), ("no_answer_", "unanswerable")):
        if f"{prefix}total" in fitted.held_out:
            numbers = " | ".join(f"{fitted.held_out[prefix + name]:.2f}" for name in ("exact_match", "f1"))
            lines.append(f"| {told} ({fitted.held_out[prefix + 'total']:,}) | {numbers} |")
    return (
        f"The held-out {n_held_out:,} questions, SQuAD's official metric, null threshold 0, answers of at most 30 tokens:"
        + "\n\n"
        + "\n".join(lines)
        + "\n\nThe best of all evaluations was kept, so these are a little too good. On other data: "
        "`needle eval reader FILE --model FOLDER`."
    )


def _calibration(calibrated: Calibrated | None) -> str:
    if calibrated is None:
        return "None: too few questions were held out. `needle calibrate FILE --model FOLDER` does it on others."
    before, after = calibrated.before.expected_calibration_error, calibrated.after.expected_calibration_error
    return (
        f"`calibration.json` was fitted to {calibrated.questions:,} of the held-out questions, each on its own passage. "
        f"Expected calibration error of the best answer's score: {after:.3f} (five folds; {before:.3f} before). Null "
        f"threshold: {calibrated.confidence.null_threshold:.2f}."
    )


def _weaknesses(files: Sequence[TrainingFile], fitted: Fitted) -> str:
    found = []
    figures = fitted.held_out or {}
    has, none = figures.get("has_answer_f1"), figures.get("no_answer_f1")
    if has is not None and none is not None and has < none - _APART:
        found.append(
            f'It says "no answer" too readily: F1 {has:.1f} on answerable questions, {none:.1f} on unanswerable ones.'
        )
    elif has is not None and none is not None and none < has - _APART:
        found.append(
            f"It answers what has no answer: F1 {none:.1f} on unanswerable questions, {has:.1f} on answerable ones."
        )
    if has is not None and figures["has_answer_exact_match"] < has - 10:
        apart = has - figures["has_answer_exact_match"]
        found.append(f"Many spans have a word too many or too few: exact match is {apart:.1f} points below F1.")
    if not any(file.unanswerable for file in files):
        found.append('It never saw an unanswerable question, so that its "no answer" means nothing.')
    found.append("Measured on text like that it was trained on at best: expect less on other text, and other languages.")
    return "\n".join(f"- {one}" for one in found)


def _machine(workers: Workers) -> str:
    if workers.device.type == "cuda":
        return f"{workers.size} x {torch.cuda.get_device_name(workers.device)}"
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    processes = f", {workers.size} processes" if workers.size > 1 else ""
    memory = (
        f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB" if hasattr(os, "sysconf") else ""
    )
    return f"{available_cores()} cores of {model[1] if model else platform.processor()}{memory}{processes}"
