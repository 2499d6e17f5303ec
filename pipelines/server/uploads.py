"""Uploaded files: their names without any path, their bytes in temporary files that nobody else can open."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from typing import BinaryIO

from fastapi import UploadFile

_MOST_NAME = 200


def spooled(uploads: Sequence[UploadFile]) -> list[tuple[str, BinaryIO]]:
    """Paths as the store is to know them, and copies without a name, which go when they are closed, or the process ends."""
    files: list[tuple[str, BinaryIO]] = []
    try:
        for upload in uploads:
            copy: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 (the job closes it)
            files.append((f"uploads/{bare_name(upload.filename)}", copy))
            shutil.copyfileobj(upload.file, copy)
            copy.seek(0)
    except OSError:
        for _, copy in files:
            copy.close()
        raise
    return files


def bare_name(given: str | None) -> str:
    """The last part of a name, as any system separates them, without control characters; "unnamed" if nothing is left."""
    name = re.split(r"[/\\]", given or "")[-1]
    name = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "", name).strip().lstrip(".")
    stem, dot, suffix = name.rpartition(".")
    most = _MOST_NAME - len(suffix) - 1
    return (f"{stem[:most]}{dot}{suffix}" if dot and most > 0 else name[:_MOST_NAME]) or "unnamed"
