"""A reader's files -> arrays: the compact form that needle ships, and Hugging Face folders and hub ids.

The compact form is one safetensors file (no pickle, so loading it runs no code), `model.int8.safetensors`:

- a matrix `name` of shape (rows, columns) is stored as int8 under its own name, with float32 `name.scale` of shape
  (rows, 1): value = int8 * scale, scale = max |row| / 127. A row of a linear layer is one output channel, the unit in
  which int8 matrix multiplication can apply a scale after summing, so the CPU engine multiplies by these very integers;
- the matrices of the feed-forward layers have a float32 `name.smooth` of shape (columns,) too: value = int8 * scale /
  smooth. The CPU engine divides the layer's input by it, so that no few large channels spoil the int8 range of the
  others (see `quantise`);
- vectors (biases, LayerNorm) are stored as float32;
- the head `qa_outputs` (two rows) stays float32.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from needle.data import SHIPPED_READER
from needle.data.errors import ModelError

COMPACT_FILE = "model.int8.safetensors"
SCALE, SMOOTH = ".scale", ".smooth"

#: Model types whose encoder is BERT's, with the prefix of their weights' names.
BERT_FAMILY = {"bert": "bert.", "roberta": "roberta.", "xlm-roberta": "roberta."}


class Quantised(NamedTuple):
    """A matrix as int8 rows: values * scale / smooth.

    values: (rows, columns) int8. scale: (rows, 1) float32. smooth: (columns,) float32, None for ones.
    """

    values: NDArray[np.int8]
    scale: NDArray[np.float32]
    smooth: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, matrix: NDArray[np.float32], smooth: NDArray[np.float32] | None = None) -> Quantised:
        """Round a (rows, columns) matrix, its columns multiplied by `smooth` before."""
        if smooth is not None:
            matrix = matrix * smooth
        scale = np.abs(matrix).max(axis=1, keepdims=True) / 127
        scale[scale == 0] = 1
        return cls(np.rint(matrix / scale).astype(np.int8), scale, smooth)

    def dequantised(self) -> NDArray[np.float32]:
        matrix = self.values * self.scale
        return matrix if self.smooth is None else matrix / self.smooth


Weights = dict[str, "NDArray[np.float32] | Quantised"]


@dataclass(frozen=True)
class Checkpoint:
    """A reader on disk.

    folder: where its files are. config: its config.json. weights_file: its safetensors file, None where it has another
    format (then only the torch engine reads it).
    """

    folder: Path
    config: dict[str, Any]
    weights_file: Path | None

    @property
    def is_compact(self) -> bool:
        return self.weights_file is not None and self.weights_file.name == COMPACT_FILE

    @property
    def is_bert_family(self) -> bool:
        """Whether `bert_graph` can express this model."""
        return (
            self.config.get("model_type") in BERT_FAMILY
            and self.config.get("hidden_act") == "gelu"
            and self.config.get("position_embedding_type", "absolute") == "absolute"
        )

    @property
    def not_int8(self) -> str:
        """Why the int8 engines can't run this model; "" if they can."""
        if not self.is_bert_family:
            names = ("model_type", "hidden_act", "position_embedding_type")
            told = ", ".join(f"{name} {self.config[name]!r}" for name in names if name in self.config)
            return f"it is no BERT with GELU and absolute positions ({told})"
        return "" if self.weights_file is not None else "its weights are not in one safetensors file"

    @property
    def max_seq_len(self) -> int:
        """Most tokens in a window, by the config; without bound where that names none."""
        positions = int(self.config.get("max_position_embeddings", sys.maxsize))
        if "roberta" in self.config.get("model_type", ""):  # its first positions stand for padding
            positions -= int(self.config.get("pad_token_id", 1)) + 1
        return positions

    @property
    def usual_seq_len(self) -> int:
        """Tokens in a window where nothing else is asked for: 384, or as many as the model takes."""
        return min(384, self.max_seq_len)

    def check_max_seq_len(self, max_seq_len: int) -> None:
        """:raises ValueError: if the model takes fewer tokens."""
        if max_seq_len > self.max_seq_len:
            raise ValueError(f"max_seq_len is {max_seq_len}, but this model takes at most {self.max_seq_len} tokens.")

    def fingerprint(self) -> str:
        """A name for these weights: a digest of the file's bytes."""
        assert self.weights_file is not None
        with self.weights_file.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    def arrays(self) -> Weights:
        """All weights: float32, or `Quantised` where the file holds int8 rows.

        :raises ModelError: if the file can't be read, or its numbers are of a type that NumPy lacks (bfloat16).
        """
        assert self.weights_file is not None
        try:
            with safe_open(self.weights_file, framework="numpy") as file:
                names = set(file.keys())
                arrays: Weights = {}
                for name in sorted(n for n in names if not n.endswith((SCALE, SMOOTH))):
                    array = file.get_tensor(name)
                    if name + SCALE in names:
                        smooth = file.get_tensor(name + SMOOTH) if name + SMOOTH in names else None
                        arrays[name] = Quantised(array, file.get_tensor(name + SCALE), smooth)
                    else:
                        arrays[name] = array.astype(np.float32)
                return arrays
        except (SafetensorError, OSError, TypeError) as error:
            raise ModelError(f"The weights '{self.weights_file}' can't be read: {error}") from error


def compact(weights: Weights) -> bytes:
    """Weights of which the matrices are `Quantised` as a file in the compact form."""
    tensors: dict[str, NDArray[Any]] = {}
    for name, weight in weights.items():
        if isinstance(weight, Quantised):
            tensors[name], tensors[name + SCALE] = weight.values, weight.scale
            if weight.smooth is not None:
                tensors[name + SMOOTH] = weight.smooth
        else:
            tensors[name] = weight
    return save(tensors, metadata={"format": "needle-int8-rows", "version": "1"})


def open_checkpoint(model: str | Path | None = None) -> Checkpoint:
    """Find a reader: None for the shipped one, a folder, or a hub id (downloaded once, by huggingface_hub).

    :raises ModelError: if there is no such folder, the hub can't be reached, or there is no config.json.
    """
    folder = SHIPPED_READER if model is None else Path(model).expanduser()
    if not folder.is_dir():
        if isinstance(model, Path) or str(model).startswith((".", "/", "~")) or str(model).count("/") != 1:
            raise ModelError(
                f"No reader at '{model}': it is neither a folder nor a hub id such as 'deepset/minilm-uncased-squad2'. "
                f"Leave the model out (None) for the reader that needle ships."
            )
        folder = _download(str(model))
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ModelError(f"'{folder}' is no reader: it has no config.json.")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"'{config_file}' can't be read as JSON: {error}") from error
    candidates = (folder / COMPACT_FILE, folder / "model.safetensors")
    return Checkpoint(
        folder=folder,
        config=config,
        weights_file=next((f for f in candidates if f.is_file()), None),
    )


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download  # not needed, and slow to import, for a reader on disk

    patterns = ["*.json", "*.txt", "*.model", "model.safetensors", "model.safetensors.index.json"]
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=patterns))
        if not (folder / "model.safetensors").exists():
            folder = Path(snapshot_download(hub_id, allow_patterns=[*patterns, "*.safetensors", "pytorch_model*.bin"]))
    except Exception as error:  # the hub's own errors, and those of three HTTP libraries below it
        raise ModelError(
            f"The reader '{hub_id}' can't be had from the model hub ({type(error).__name__}: {error}). Check the name and "
            f"the network, give a local folder, or leave the model out (None) for the reader that needle ships, "
            f"'{SHIPPED_READER.name}'."
        ) from error
    return folder
