"""A reader -> a folder that transformers, older versions too, can open."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from needle.components.weights import Checkpoint, Quantised
from needle.data.errors import ModelError


def save_hugging_face(checkpoint: Checkpoint, folder: str | Path, config: Mapping[str, Any] | None = None) -> None:
    """Write a reader's files into a folder; what is there under the same names is replaced.

    Beside the compact form, which needle reads first, its weights stand in `model.safetensors`, as float32.

    :param config: entries of config.json that are set anew, or added.
    :raises ModelError: if the folder is the reader's own, or can't be written.
    """
    folder = Path(folder)
    if folder.resolve() == checkpoint.folder.resolve():
        raise ModelError(f"The reader is in '{folder}' already; name another folder to save it in.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in checkpoint.folder.iterdir():
            if file.is_file() and file.name != "README.md":
                shutil.copyfile(file, folder / file.name)
        numbers = {}
        if checkpoint.is_compact:
            arrays = {n: w.dequantised() if isinstance(w, Quantised) else w for n, w in checkpoint.arrays().items()}
            (folder / "model.safetensors").write_bytes(save(arrays, metadata={"format": "pt"}))
            numbers = {"dtype": "float32", "torch_dtype": "float32"}
        told = {**checkpoint.config, **numbers, **(config or {})}
        (folder / "config.json").write_text(json.dumps(told, indent=2), encoding="utf-8")
    except OSError as error:
        raise ModelError(f"The reader can't be saved in '{folder}': {error}") from error
