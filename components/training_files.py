"""What a training keeps in its folder while it runs, so that it can be killed at any moment and go on.

`state.pt` has everything that a step changes, `best.safetensors` the weights that did best on the held-out part. Both are
replaced as a whole. `training.jsonl` has a line a step.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from needle.data.errors import NeedleError
from needle.data.whole_files import UNFINISHED, replace_file


class TrainingFiles:
    """The files of the training in a folder.

    :raises NeedleError: by every method that can't read or write them.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.log = folder / "training.jsonl"
        self.state = folder / "training" / "state.pt"
        self.best = folder / "training" / "best.safetensors"

    def finish(self) -> None:
        """Remove what only serves to go on."""
        shutil.rmtree(self.state.parent)

    def save_state(self, state: dict[str, Any]) -> None:
        write_whole(self.state, lambda path: torch.save(state, path))

    def load_state(self, cut_log: bool) -> dict[str, Any] | None:
        """What was saved last, None if nothing was; the log is cut back to it, which one process does, and what a kill left
        is removed."""
        if cut_log:
            for litter in self.state.parent.glob(f"{UNFINISHED}*"):
                litter.unlink()
        if not self.state.exists():
            if cut_log:
                self.log.unlink(missing_ok=True)
            return None
        try:
            # Tensors, numbers and names only: loading it runs no code.
            state: dict[str, Any] = torch.load(self.state, map_location="cpu", weights_only=True)
        except Exception as error:  # of many kinds, with long advice that does not fit
            raise NeedleError(
                f"'{self.state}' can't be read ({type(error).__name__}). Start the training anew, in a new folder."
            ) from error
        if cut_log:
            steps = [line for line in self._lines() if line["step"] <= state["step"]]
            text = "".join(json.dumps(line) + "\n" for line in steps)
            write_whole(self.log, lambda path: path.write_text(text, encoding="utf-8"))
        return state

    def append(self, line: dict[str, Any]) -> None:
        try:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise NeedleError(f"'{self.log}' can't be written: {error}") from error

    def save_best(self, model: nn.Module) -> None:
        tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        write_whole(self.best, lambda path: save_file(tensors, path, metadata={"format": "pt"}))

    def load_best(self, model: nn.Module) -> None:
        tensors: dict[str, Tensor] = load_file(self.best)
        model.load_state_dict(tensors)

    def _lines(self) -> list[dict[str, Any]]:
        """The log's lines; one that a kill cut short is left out."""
        lines = []
        for line in self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else ():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
        return lines


def write_whole(file: Path, write: Callable[[Path], Any]) -> None:
    """`replace_file`, in a folder that is made where it is missing.

    :raises NeedleError: if it can't be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, write)
    except OSError as error:
        raise NeedleError(f"'{file}' can't be written: {error}") from error
