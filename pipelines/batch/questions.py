"""Questions of a file -> the shards that they are answered in."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from needle.data.errors import UnreadableFile
from needle.data.squad import read_squad


class Question(NamedTuple):
    """id: as given, or else the number of the line."""

    id: str | int
    query: str


class Shard(NamedTuple):
    """Neighbouring questions. offset: bytes into the file of all. first: the number of the first one, from 0."""

    number: int
    offset: int
    first: int
    questions: int

    @property
    def name(self) -> str:
        """Of the file with the answers."""
        return f"part-{self.number:05}.jsonl"


def read_questions(path: str | Path) -> Iterator[Question]:
    """The questions of a JSON Lines file (objects with `question` or `query`, and `id` if they have one), of SQuAD JSON, or
    of a text file, one a line. Only SQuAD JSON is read as a whole.

    :raises UnreadableFile: if it can't be read, or a line has no question; the message names file and line.
    """
    name = str(path).lower()
    if name.endswith((".json", ".json.gz")):
        yield from (Question(question.id, question.question) for question in read_squad(path))
        return
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    is_json = name.endswith((".jsonl", ".ndjson"))
                    yield _of_object(line, number, path) if is_json else Question(number, line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFile(f"'{path}' can't be read as UTF-8 text: {error}") from error


def write_shards(questions: Iterator[Question], file: Path, size: int) -> tuple[list[Shard], str]:
    """Write questions as lines that shards can be read from.

    :param size: questions in a shard.
    :returns: the shards, and a digest of all questions and ids.
    """
    shards: list[Shard] = []
    digest = hashlib.sha256()
    first = 0
    with file.open("wb") as out:
        while group := list(islice(questions, size)):
            lines = "".join(json.dumps(question._asdict()) + "\n" for question in group).encode()
            shards.append(Shard(len(shards), out.tell(), first, len(group)))
            out.write(lines)
            digest.update(lines)
            first += len(group)
        out.flush()
        os.fsync(out.fileno())
    return shards, digest.hexdigest()


def read_shard(file: Path, shard: Shard) -> list[Question]:
    with file.open("rb") as opened:
        opened.seek(shard.offset)
        return [Question(**json.loads(line)) for line in islice(opened, shard.questions)]


def _of_object(line: str, number: int, path: str | Path) -> Question:
    try:
        found: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UnreadableFile(f"'{path}', line {number}, is no JSON: {error}") from error
    query = found.get("question", found.get("query")) if isinstance(found, dict) else None
    if not isinstance(query, str) or not isinstance(found.get("id", ""), str | int):
        raise UnreadableFile(f"'{path}', line {number}: it needs a 'question' or 'query' that is a text; 'id' is one, too.")
    return Question(found.get("id", number), query)
