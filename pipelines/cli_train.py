"""`needle train`: train a reader."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from needle.components.training_settings import PRESETS, Settings
from needle.data.errors import NeedleError
from needle.pipelines.console import AsJson, count, err, errors_told, out, plain

if TYPE_CHECKING:
    from needle.components.training import Progress
    from needle.pipelines.training import Trained

Preset = StrEnum("Preset", {name: name for name in PRESETS})  # type: ignore[misc]
_DEFAULT = Preset("minilm-squad2")
#: What goes with --resume: how this run is made, not what is trained.
_OF_THIS_RUN = {"--out", "--resume", "--device", "--json"}
#: Seconds between the lines that are printed where there is no terminal.
_PLAIN_EVERY = 30


class TrainingDType(StrEnum):
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


def _setting(help_: str, **options: Any) -> Any:
    """An option that stands for a field of `Settings`; not given, it is the preset's."""
    return typer.Option(help=help_, show_default=False, rich_help_panel="Recipe: the preset's, if not given", **options)


def train(
    context: typer.Context,
    folder: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the reader goes; a new folder.")],
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE...", help="SQuAD 1.1 or 2.0 JSON, plain or .gz.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="PATH_OR_HUB_ID", help="A reader or encoder to start from; MiniLM-L12-H384-uncased by default."
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="W,W...", help="How often an epoch sees each file's questions; 1 by default.")
    ] = None,
    in_order: Annotated[
        bool, typer.Option("--in-order", help="Train on one file after the other, not on all mixed.")
    ] = False,
    held_out: Annotated[
        str, typer.Option(metavar="SHARE|FILE", help="What is evaluated: a share of the passages, or a file.")
    ] = "0.02",
    layers: Annotated[int | None, typer.Option(min=1, help="Start from so many of the model's layers.")] = None,
    teacher: Annotated[
        str | None, typer.Option(metavar="PATH_OR_HUB_ID", help="A larger reader to learn from as well.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out bad questions, and count them.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in --out that was interrupted.")] = False,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:1; the GPU by default, if there is one.")] = None,
    dtype: Annotated[
        TrainingDType | None, typer.Option(help="Of matrix products; by default bfloat16, float16 on older GPUs.")
    ] = None,
    preset: Annotated[Preset, typer.Option(help="A recipe by name.")] = _DEFAULT,
    epochs: Annotated[float | None, _setting("How often each question is seen; may be less than 1.")] = None,
    learning_rate: Annotated[float | None, _setting("At its peak.")] = None,
    warmup: Annotated[float | None, _setting("Share of training in which the rate rises.")] = None,
    batch_size: Annotated[int | None, _setting("Windows in a micro-batch.")] = None,
    batch_tokens: Annotated[int | None, _setting("Tokens in a micro-batch, instead of --batch-size.")] = None,
    accumulate: Annotated[int | None, _setting("Micro-batches in a step.")] = None,
    max_seq_len: Annotated[int | None, _setting("Tokens in a window.")] = None,
    stride: Annotated[int | None, _setting("Tokens that neighbouring windows share.")] = None,
    max_question_tokens: Annotated[int | None, _setting("Longer questions are cut.")] = None,
    dropout: Annotated[float | None, _setting("Probability.")] = None,
    weight_decay: Annotated[float | None, _setting("Of matrices.")] = None,
    max_grad_norm: Annotated[float | None, _setting("Longer gradients are shortened; 0 for none.")] = None,
    label_smoothing: Annotated[float | None, _setting("Share of the target spread over the window.")] = None,
    ema: Annotated[float | None, _setting("Decay of the weights' moving average; 0 for none.")] = None,
    r_drop: Annotated[float | None, _setting("Weight of R-Drop; 0 for none. Twice the work.")] = None,
    temperature: Annotated[float | None, _setting("Of the teacher's distribution.")] = None,
    teacher_weight: Annotated[float | None, _setting("Of the teacher's against the annotators' answers.")] = None,
    seed: Annotated[int | None, _setting("Of all chance.")] = None,
    evaluate_every: Annotated[int | None, _setting("Steps; after each epoch, if not given.")] = None,
    max_minutes: Annotated[float | None, _setting("End by then; the learning rate is 0 then.")] = None,
    checkpoint_minutes: Annotated[float | None, _setting("Between the checkpoints that --resume goes on from.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a reader on questions with answers, or on the labels that needle labels --export wrote.

    Started by torchrun --no-python needle train ..., on several GPUs. Ctrl-C keeps a checkpoint; --resume goes on from it.
    """
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started, the one that tells
    names = Settings.__dataclass_fields__.keys()
    settings_given = {name: value for name, value in locals().items() if name in names and value is not None}
    with errors_told():
        if resume and (refused := sorted(_given(context) - _OF_THIS_RUN)):
            raise NeedleError(
                "--resume goes on with the files, model and settings that the training began with: it takes no "
                f"{', '.join(refused)}. Leave that out."
            )
        try:
            settings = replace(PRESETS[preset.value], **settings_given)
        except ValueError as error:
            raise NeedleError(str(error)) from error
        if first and not as_json:
            err.print("reading and tokenising ...")
        # Threads that wait for each other by spinning make torch many times slower where another process wants the cores.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        from transformers.utils import logging

        from needle.pipelines import training

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        options: dict[str, Any] = {"device": device}
        if not resume:
            options |= {"model": training.BASE if model is None else model, "settings": settings, "in_order": in_order}
            options |= {"weights": _numbers(weights), "held_out": _share_or_file(held_out), "layers": layers}
            options |= {"teacher": teacher, "skip_bad": skip_bad, "dtype": dtype.value if dtype else None}
        try:
            with _told(first) as told:
                if resume:
                    trained = training.resume_training(folder, told=told, **options)
                else:
                    trained = training.train(files or [], folder, told=told, **options)
        except KeyboardInterrupt:
            if first:
                err.print(plain(f"needle: interrupted. To go on: needle train --resume --out {folder}"))
            raise typer.Exit(130) from None
    if first:
        _print(trained, as_json)


def _given(context: typer.Context) -> set[str]:
    """The options and arguments that stand in the command."""
    sources = {one.opts[0]: context.get_parameter_source(str(one.name)) for one in context.command.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def _numbers(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter("It must be numbers, parted by commas.", param_hint="--weights") from error


def _share_or_file(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


@contextmanager
def _told(first: bool) -> Iterator[Any]:
    """What to call after each step: it moves a bar, or prints a line now and then where there is no terminal."""
    if not first:
        yield None
        return
    columns = (
        TextColumn("step {task.fields[step]}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  {task.description}"),
    )
    with Bar(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=1.0, step="")
        printed = 0.0

        def told(now: Progress) -> None:
            nonlocal printed
            left = timedelta(seconds=round(now.seconds_left))
            told_ = f"loss {now.loss:.3f}  {now.tokens_per_second:,.0f} tokens/s  {left} left"
            bar.update(task, completed=now.share, description=told_, step=f"{now.step:,}/{now.steps:,}")
            if not err.is_terminal and time.monotonic() - printed >= _PLAIN_EVERY:
                printed = time.monotonic()
                err.print(f"step {now.step:,}/{now.steps:,}  {now.share:.0%}  {told_}")
            if now.held_out is not None:
                figures = "  ".join(f"{name} {now.held_out[name]:.2f}" for name in ("exact_match", "f1"))
                err.print(f"step {now.step:,}: held out  {figures}")

        yield told


def _print(trained: Trained, as_json: bool) -> None:
    fitted = asdict(trained.fitted)
    files = [
        {
            "path": f.path,
            "questions": len(f.questions),
            "unanswerable": f.unanswerable,
            "bad": len(f.bad),
            "sha256": f.sha256,
        }
        for f in trained.files
    ]
    if as_json:
        found = {
            "folder": str(trained.folder),
            "compact": trained.compact and str(trained.compact),
            "files": files,
            **fitted,
        }
        out.print(json.dumps(found, ensure_ascii=False), markup=False, soft_wrap=True)
        return
    for file in trained.files:
        for problem in file.bad:
            err.print(plain(f"left out: '{file.path}': {problem}", style="yellow"))
        if file.bad:
            err.print(plain(f"'{file.path}': {count(len(file.bad), 'bad question')} left out", style="yellow"))
    minutes, steps = trained.fitted.seconds / 60, count(trained.fitted.steps, "step")
    out.print(plain(f"{trained.folder}: {steps}, {trained.fitted.tokens:,} tokens in {minutes:.1f} minutes"))
    for name, value in trained.held_out.items():
        out.print(plain(f"  {name:<28}{value:>10,}" if isinstance(value, int) else f"  {name:<28}{value:>10.2f}"))
