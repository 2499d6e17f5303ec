"""Training of a reader: files of questions with answers -> a folder with a reader and its card.

```python
trained = train(["squad-train.json.gz"], "my-reader", model="data/models/minilm-squad2", settings=Settings(epochs=1))
print(trained.held_out["f1"])
```
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import torch

from needle.components.engines import DType, Engine, open_engine
from needle.components.held_out import held_out_scores
from needle.components.reader import MiniLMReader
from needle.components.reader_files import save_compact, save_reader
from needle.components.tokenizer import PassageTokenizer
from needle.components.trainable import fastest_dtype, load_trainable
from needle.components.training import Fitted, Progress, fit
from needle.components.training_files import TrainingFiles, write_whole
from needle.components.training_settings import PRESETS, Settings
from needle.components.training_windows import Source, TrainingWindows
from needle.components.weights import open_checkpoint
from needle.components.workers import Workers
from needle.data.errors import ModelError, NeedleError, QueryError
from needle.data.squad import Question
from needle.data.training_data import TrainingFile, hold_out, read_training_files
from needle.pipelines.calibrate import Calibrated, calibrate_reader
from needle.pipelines.training_card import card

#: What the recipe of deepset/minilm-uncased-squad2 starts from.
BASE = "microsoft/MiniLM-L12-H384-uncased"
_RUN_FILE = "run.json"
#: Questions on which the ranges of activations are measured for the compact form.
_SAMPLES = 256


@dataclass(frozen=True)
class Run:
    """What is trained on what; kept in the folder's run.json, for `resume_training`.

    weights: how often an epoch sees each file's questions. in_order: all epochs of a file before those of the next, instead
    of all mixed. held_out: a share of the files' passages with all their questions, or a file. The others: see `train`.
    """

    files: tuple[str, ...]
    model: str | None
    settings: Settings
    weights: tuple[float, ...]
    in_order: bool
    held_out: float | str
    layers: int | None
    teacher: str | None
    skip_bad: bool
    dtype: DType
    command: str = field(default_factory=lambda: shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))


@dataclass(frozen=True)
class Trained:
    """A reader that was trained.

    folder: Hugging Face format; its `compact/` is the form that needle ships, None if the model can't have it. files: what
    was read. fitted: how training went.
    """

    folder: Path
    compact: Path | None
    files: tuple[TrainingFile, ...]
    fitted: Fitted

    @property
    def held_out(self) -> dict[str, float]:
        """The held-out part's figures, as `squad_scores` names them; empty without one."""
        return self.fitted.held_out or {}


def train(
    files: Sequence[str | Path],
    out: str | Path,
    *,
    model: str | Path | None = BASE,
    settings: Settings = PRESETS["minilm-squad2"],
    weights: Sequence[float] | None = None,
    in_order: bool = False,
    held_out: float | str | Path = 0.02,
    layers: int | None = None,
    teacher: str | Path | None = None,
    skip_bad: bool = False,
    device: str | None = None,
    dtype: DType | None = None,
    told: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train a reader; started by torchrun, on several GPUs.

    :param files: SQuAD 1.1 or 2.0 JSON, plain or .gz; see `Run` for `weights` (1 each by default) and `in_order`.
    :param out: a new folder. If training ends early, `resume_training(out)` goes on.
    :param model: what to start from: a reader or an encoder, a folder or a hub id; None is the reader that needle ships.
    :param held_out: a share, or a file of questions, whose passages are then left out of training. 0 is none.
    :param layers: start from so many of the model's layers, evenly chosen.
    :param teacher: a reader with the same tokenizer from whose distributions the model learns as well.
    :param skip_bad: leave out bad questions instead of refusing their file.
    :param dtype: of the matrix products; None takes bfloat16 where the device has it, else float16 on a GPU, and float32.
        With float16 the loss is scaled, and a step whose gradients are too large for it is left out.
    :param told: called after every step.
    :raises NeedleError: if a file, model or setting can't be used.
    :raises KeyboardInterrupt: after Ctrl-C, when a checkpoint has been written.
    """
    if not files:
        raise NeedleError("There is nothing to train on: name one or more files in SQuAD's format.")
    if weights is not None and (len(weights) != len(files) or min(weights) < 0 or not sum(weights)):
        raise NeedleError(f"There must be a weight of 0 or more for each of the {len(files)} files, not {list(weights)}.")
    if not isinstance(held_out, str | Path) and not 0 <= held_out < 1:
        raise NeedleError(f"held_out must be a share of at least 0 and below 1, or a file, not {held_out!r}.")
    if dtype is not None and dtype not in get_args(DType):
        raise NeedleError(f"dtype must be one of {', '.join(get_args(DType))}, not {dtype!r}.")
    workers = _workers(device)
    folder = Path(out).expanduser()
    if workers.is_first and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise NeedleError(f"'{folder}' exists already and is not empty: name a new folder, or resume the training in it.")
    run = Run(
        files=tuple(str(Path(file).absolute()) for file in files),
        model=None if model is None else str(model),
        settings=settings,
        weights=tuple(weights or [1.0] * len(files)),
        in_order=in_order,
        held_out=held_out if isinstance(held_out, int | float) else str(Path(held_out).absolute()),
        layers=layers,
        teacher=None if teacher is None else str(teacher),
        skip_bad=skip_bad,
        dtype=dtype or fastest_dtype(workers.device),
    )
    return _trained(run, folder, workers, told)


def resume_training(
    out: str | Path, *, device: str | None = None, told: Callable[[Progress], None] | None = None
) -> Trained:
    """Go on with a training that was interrupted or killed, from its last checkpoint: the same steps as without the break.

    :param out: the folder that `train` was given. The others: as there.
    :raises NeedleError: if no unfinished training is there, or its files have changed.
    """
    folder = Path(out).expanduser()
    try:
        kept = json.loads((folder / _RUN_FILE).read_text(encoding="utf-8"))
        finished = kept["finished"]
        values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in kept["run"].items()}
        values["settings"] = Settings(**values["settings"])
        run = Run(**values)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise NeedleError(f"There is no training in '{folder}' to resume: {type(error).__name__} {error}") from error
    if finished:
        raise NeedleError(f"The training in '{folder}' is finished; there is nothing to resume.")
    return _trained(run, folder, _workers(device), told, kept["sha256"])


def _trained(
    run: Run, folder: Path, workers: Workers, told: Callable[[Progress], None] | None, digests: dict[str, str] | None = None
) -> Trained:
    """
    :param digests: of the files, by path, in a training that goes on.
    """
    # 1. Data
    own = isinstance(run.held_out, float | int)
    read = read_training_files([*run.files, *([] if own else [run.held_out])], run.skip_bad)  # type: ignore[list-item]
    found = {file.path: file.sha256 for file in read}
    if digests is not None and (changed := sorted(path for path in found if digests.get(path) != found[path])):
        raise NeedleError(f"'{changed[0]}' is not the file any more that the training in '{folder}' began with.")
    files = read[: len(run.files)]
    questions, sources, held_out = _split(files, run, None if own else read[-1].questions)

    # 2. Model
    torch.manual_seed(run.settings.seed)  # of an untrained head
    checkpoint = open_checkpoint(run.model)
    try:
        checkpoint.check_max_seq_len(run.settings.max_seq_len)
    except ValueError as error:
        raise ModelError(str(error)) from error
    tokenizer = PassageTokenizer.from_folder(checkpoint.folder)
    model = load_trainable(checkpoint, workers.device, run.settings.dropout, run.layers)
    teacher = _teacher(run.teacher, tokenizer, workers) if run.teacher is not None else None

    # 3. Training
    shape = (run.settings.max_seq_len, run.settings.stride, run.settings.max_question_tokens)
    data = TrainingWindows(questions, tokenizer, *shape)
    dtype = getattr(torch, run.dtype)
    evaluate = None
    if held_out:
        held = TrainingWindows(held_out, tokenizer, *shape)
        evaluate = lambda model: held_out_scores(model, held, dtype)  # noqa: E731
    if workers.is_first and digests is None:  # not before all could be opened: what failed is not to be resumed
        _keep_run(folder, run, found, finished=False)
    state = TrainingFiles(folder)
    stages = [[source] for source in sources] if run.in_order else [sources]
    fitted = fit(model, data, stages, run.settings, state, workers, dtype, evaluate, teacher, digests is not None, told)

    # 4. Files
    small = folder / "compact"
    if workers.is_first:
        save_reader(model, checkpoint.folder, folder)
        samples = [(q.question, q.context) for q in questions[:: max(1, len(questions) // _SAMPLES)]]
        made = save_compact(folder, small, samples)
        calibrated = _calibrated([folder, small] if made else [folder], held_out)
        text = card(folder.name, run, files, fitted, len(held_out), model, workers, made, calibrated)
        write_whole(folder / "README.md", lambda path: path.write_text(text, encoding="utf-8"))
        _keep_run(folder, run, found, finished=True)
        state.finish()
    return Trained(folder, small if small.exists() else None, tuple(files), fitted)


def _calibrated(folders: Sequence[Path], held_out: Sequence[Question]) -> Calibrated | None:
    """Fit the reader's scores to the held-out questions; None if these tell too little.

    :param folders: forms of the same reader; the fit is made on the first.
    """
    reader = MiniLMReader(str(folders[0]), max_seq_len=open_checkpoint(folders[0]).usual_seq_len)
    try:
        found = calibrate_reader(reader, held_out)
    except QueryError:
        return None
    for folder in folders:
        replace(found.confidence, reader=open_checkpoint(folder).fingerprint()).save(folder)
    return found


def _split(
    files: Sequence[TrainingFile], run: Run, held_out: Sequence[Question] | None
) -> tuple[list[Question], list[Source], list[Question]]:
    """Questions to train on, which of them are each file's, and the held-out ones."""
    questions: list[Question] = []
    sources: list[Source] = []
    held: list[Question] = list(held_out or ())
    passages = {question.context for question in held}
    for file, weight in zip(files, run.weights, strict=True):
        if held_out is None:
            kept, aside = hold_out(file.questions, float(run.held_out), run.settings.seed)
            held += aside
        else:
            kept = [question for question in file.questions if question.context not in passages]
        sources.append(Source(len(questions), len(questions) + len(kept), weight))
        questions += kept
    if not questions:
        raise NeedleError("No question is left to train on: all of them are held out.")
    return questions, sources, held


def _teacher(name: str, tokenizer: PassageTokenizer, workers: Workers) -> Engine:
    """It only reads, so it is what answers questions: on the CPU many times faster than a model of torch."""
    checkpoint = open_checkpoint(name)
    if PassageTokenizer.from_folder(checkpoint.folder).fingerprint != tokenizer.fingerprint:
        raise ModelError(
            f"The teacher '{name}' has another tokenizer than the model to train: their tokens can't be compared."
        )
    return open_engine(checkpoint, [str(workers.device)])


def _workers(device: str | None) -> Workers:
    try:
        return Workers(device)
    except ValueError as error:
        raise NeedleError(str(error)) from error


def _keep_run(folder: Path, run: Run, digests: dict[str, str], finished: bool) -> None:
    text = json.dumps({"finished": finished, "run": asdict(run), "sha256": digests}, ensure_ascii=False, indent=1)
    write_whole(folder / _RUN_FILE, lambda path: path.write_text(text, encoding="utf-8"))
