"""What is made once and kept: files made from a model's weights, in the user's cache, and compiled functions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs
from numba import njit

from needle.data.whole_files import replace_file

logger = logging.getLogger(__name__)


def cache_file(folder: str, name: str) -> Path:
    """Where a file is kept, whether it is there yet or not."""
    return Path(platformdirs.user_cache_dir("needle")) / folder / name


def keep(file: Path, content: bytes) -> None:
    """Write a file, whole or not at all, whatever other processes do and whenever this one ends; warn if it can't be."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, lambda path: path.write_bytes(content))
    except OSError as error:
        logger.warning("'%s' can't be kept and is made anew each time: %s", file, error)


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Numba's njit without the GIL; what it compiles is kept beside the module or, if it can be, in the user's cache."""

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # Numba finds no place for its cache
            return njit(nogil=True, **options)(function)

    return decorate
