"""The user's cache: files made from a model's weights, so that they are made once."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

import platformdirs

logger = logging.getLogger(__name__)


def cache_file(folder: str, name: str) -> Path:
    """Where a file is kept, whether it is there yet or not."""
    return Path(platformdirs.user_cache_dir("needle")) / folder / name


def keep(file: Path, content: bytes) -> None:
    """Write a file, whole or not at all, whatever other processes do and whenever this one ends; warn if it can't be."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as unfinished:
            try:
                unfinished.write(content)
                unfinished.flush()
                os.fsync(unfinished.fileno())
                os.replace(unfinished.name, file)
            except OSError:
                os.unlink(unfinished.name)
                raise
    except OSError as error:
        logger.warning("'%s' can't be kept and is made anew each time: %s", file, error)
