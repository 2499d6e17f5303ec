"""Questions with known answers, from files: SQuAD JSON, or CSV and JSON Lines of question-answer pairs.

A row of CSV, or a line's object, has `question` and `answer` (or `answers`, a list, in CSV parted by |; empty: there is no
answer), and may have `id`, `context` (the passage that holds the answer) and `title`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from needle.data.errors import UnreadableFile
from needle.data.squad import Question, read_squad


def read_questions(path: str | Path, limit: int | None = None) -> list[Question]:
    """The questions of a file; where there is none and the path looks like "owner/name" or "owner/name:split", those of a
    data set in SQuAD's columns on the Hugging Face hub, if `datasets` is installed.

    :param limit: only the first so many.
    :raises UnreadableFile: if it can't be read, has no question, or two of one id; the message names file and place.
    """
    name = str(path)
    if not Path(path).exists() and name.count("/") == 1 and not Path(path).suffix:
        found = list(islice(_rows(name, _hub_rows(name)), limit))
    elif name.lower().endswith((".csv", ".jsonl", ".ndjson")):
        found = list(islice(_rows(name, _lines(Path(path))), limit))
    else:
        found = read_squad(path)[:limit]
    if not found:
        raise UnreadableFile(f"'{path}' has no question.")
    seen: set[str] = set()
    for question in found:
        if question.id in seen:
            raise UnreadableFile(f"'{path}' has two questions with the id '{question.id}'.")
        seen.add(question.id)
    return found


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Line numbers and rows."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFile(f"'{path}' can't be read as UTF-8 text: {error}") from error
    if path.suffix.lower() == ".csv":
        csv.field_size_limit(2**31 - 1)  # a context may be a whole article
        reader = csv.DictReader(io.StringIO(text))
        yield from ((reader.line_num, row) for row in reader)
        return
    for number, line in enumerate(text.split("\n"), start=1):  # JSON's strings may hold what else ends a line
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UnreadableFile(f"'{path}', line {number}, is no JSON: {error}") from error


def _hub_rows(name: str) -> Iterator[tuple[int, Any]]:
    dataset, _, split = name.partition(":")
    try:
        import datasets

        rows = datasets.load_dataset(dataset, split=split or "validation")
    except ImportError as error:
        raise UnreadableFile(
            f"There is no file '{name}'; to read it as a data set of the hub, `pip install datasets`."
        ) from error
    except Exception as error:  # the hub's and the library's errors are of many kinds
        raise UnreadableFile(f"There is no file '{name}', and no such data set can be had: {error}") from error
    yield from enumerate(rows, start=1)


def _rows(name: str, rows: Iterator[tuple[int, Any]]) -> Iterator[Question]:
    for number, row in rows:
        if not isinstance(row, Mapping) or not isinstance(row.get("question"), str) or not row["question"].strip():
            raise UnreadableFile(f"'{name}', line {number}: it needs a 'question' that is a text.")
        texts, starts = _answers(row, f"'{name}', line {number}")
        context = str(row.get("context") or "")
        if not starts:
            starts = tuple(context.find(text) for text in texts)
        known = context and all(context[s : s + len(t)] == t for t, s in zip(texts, starts, strict=True) if s >= 0)
        yield Question(
            id=str(row.get("id") or number),
            question=row["question"],
            context=context,
            title=str(row.get("title") or ""),
            answers=texts,
            answer_starts=starts if known else tuple(-1 for _ in texts),
        )


def _answers(row: Mapping[str, Any], place: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    if "answers" not in row and "answer" not in row:
        raise UnreadableFile(f"{place}: it needs an 'answer', or 'answers'; leave it empty where there is no answer.")
    answers = row.get("answers", row.get("answer"))
    if isinstance(answers, Mapping):  # as hub data sets have it
        try:
            return tuple(map(str, answers["text"])), tuple(map(int, answers["answer_start"]))
        except (LookupError, TypeError, ValueError) as error:
            raise UnreadableFile(
                f"{place}: an object of 'answers' holds lists 'text' and 'answer_start', unlike {answers!r}."
            ) from error
    if answers is None:
        return (), ()
    if isinstance(answers, str):
        answers = answers.split("|") if "answers" in row else [answers]
    if not isinstance(answers, list) or not all(isinstance(text, str | int | float) for text in answers):
        raise UnreadableFile(f"{place}: 'answers' must be texts, not {answers!r}.")
    return tuple(text for answer in answers if (text := str(answer).strip())), ()
