"""SQuAD 1.1 and 2.0 JSON (plain or .gz) -> questions and passages; files of predictions -> answers.

The format: https://rajpurkar.github.io/SQuAD-explorer (Rajpurkar et al. 2016, arXiv 1606.05250; 2018, arXiv 1806.03822).
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from needle.data.errors import UnreadableFile


@dataclass(frozen=True)
class Question:
    """A question on a passage with its annotators' answers.

    answers: texts as given, empty for an unanswerable question. answer_starts: their character offsets in `context`.
    also: further right answers, found in other passages (the shipped corpus has some; SQuAD has none).
    """

    id: str
    question: str
    context: str
    title: str
    answers: tuple[str, ...] = ()
    answer_starts: tuple[int, ...] = ()
    also: tuple[str, ...] = ()

    @property
    def is_impossible(self) -> bool:
        return not self.answers


def read_squad(path: str | Path) -> list[Question]:
    """Read a SQuAD-format file; questions come in the file's order.

    :raises UnreadableFile: if the file is missing, is not JSON, or lacks a field; the message names the file and field.
    """
    content = read_json(path, "SQuAD JSON")
    try:
        return list(_questions(content))
    except (KeyError, TypeError, AttributeError) as error:
        raise UnreadableFile(f"'{path}' is JSON but not in SQuAD's format: {type(error).__name__} {error}") from error


def read_predictions(path: str | Path) -> dict[str, str]:
    """Read answers in the format of SQuAD's official script, an object of question id -> text, "" for no answer.

    :raises UnreadableFile: if the file is missing or not of that format; the message names the file and the entry.
    """
    content = read_json(path, "predictions")
    if not isinstance(content, dict):
        raise UnreadableFile(f"'{path}' must hold an object of question id -> answer text, not a {type(content).__name__}.")
    for id_, text in content.items():
        if not isinstance(text, str):
            raise UnreadableFile(f"'{path}': the answer to question '{id_}' is {json.dumps(text)[:80]}, not a text.")
    return content


def read_json(path: str | Path, kind: str) -> Any:
    """What a JSON file, plain or .gz, holds.

    :param kind: of content, for the message.
    :raises UnreadableFile: if it can't be read.
    """
    try:
        raw = Path(path).read_bytes()
        return json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    except (OSError, ValueError, EOFError, zlib.error, RecursionError) as error:
        raise UnreadableFile(f"'{path}' can't be read as {kind}: {error}") from error


def _questions(content: dict[str, Any]) -> Iterator[Question]:
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                answers = [] if qa.get("is_impossible", False) else qa["answers"]
                for text in (qa["question"], paragraph["context"], *(a["text"] for a in answers)):
                    if not isinstance(text, str):
                        raise TypeError(f"question '{qa['id']}' has {json.dumps(text)[:80]} where a text belongs")
                yield Question(
                    id=str(qa["id"]),
                    question=qa["question"],
                    context=paragraph["context"],
                    title=article.get("title", ""),
                    answers=tuple(a["text"] for a in answers),
                    answer_starts=tuple(a["answer_start"] for a in answers),
                    also=tuple(qa.get("also", ())),
                )
