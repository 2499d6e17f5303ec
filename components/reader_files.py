"""A trained model -> a reader's folder, in Hugging Face format and in the compact form (see `weights`)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedModel

from needle.components.quantise import quantise
from needle.components.tokenizer import PassageTokenizer
from needle.components.training_files import write_whole
from needle.components.weights import COMPACT_FILE, compact, open_checkpoint
from needle.components.windows import pair_batches
from needle.data.errors import NeedleError


def save_reader(model: PreTrainedModel, tokenizer_folder: Path, folder: Path) -> None:
    """Write a model with the tokenizer that it was trained with, as transformers reads them.

    :raises NeedleError: if they can't be written.
    """
    try:
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(tokenizer_folder).save_pretrained(folder)
        for file in folder.glob("*.safetensors"):  # which are left to their owner alone
            shutil.copymode(folder / "config.json", file)
    except OSError as error:
        raise NeedleError(f"The reader can't be written to '{folder}': {error}") from error


def save_compact(reader: Path, folder: Path, samples: Sequence[tuple[str, str]]) -> bool:
    """Write the compact form of the reader in a folder; False if a model of its kind has none.

    :param samples: questions and passages on which the ranges of activations are measured, some hundreds.
    :raises NeedleError: if it can't be written.
    """
    checkpoint = open_checkpoint(reader)
    if checkpoint.not_int8:
        return False
    batches = pair_batches(samples, PassageTokenizer.from_folder(reader), checkpoint.usual_seq_len)
    packed = compact(quantise(checkpoint.arrays(), checkpoint.config, batches))
    write_whole(folder / COMPACT_FILE, lambda path: path.write_bytes(packed))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(reader / name, folder / name)
    return True
