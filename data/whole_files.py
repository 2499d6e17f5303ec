"""A file is written whole or not at all, whenever this process ends and whoever else writes it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

#: What the names of unfinished files begin with: one is left where a process is killed while it writes. torch writes to no
#: name that begins with a dot.
UNFINISHED = "unfinished-"


def replace_file(file: Path, write: Callable[[Path], Any], mode: int = 0o666) -> None:
    """Write a file beside its place, have it on disk, and put it there; of several writers' files one stays.

    :param write: is given the path to write to.
    :param mode: who may read and write it, less what the process's umask forbids.
    :raises OSError: if it can't be written; what was there before is still there.
    """
    unfinished = file.with_name(f"{UNFINISHED}{uuid.uuid4().hex}")
    try:
        unfinished.touch(mode)
        mode = unfinished.stat().st_mode
        write(unfinished)
        unfinished.chmod(mode)  # safetensors leaves a file to its owner alone
        sync(unfinished)
        os.replace(unfinished, file)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # the name, too, is on disk, where the system can do that
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def sync(file: Path) -> None:
    """Have a file on disk before another one names it, should the power fail."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
