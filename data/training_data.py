"""Training data: SQuAD 1.1/2.0 JSON (plain or .gz, as `needle labels --export` writes it too) -> checked questions.

`squad.read_squad` takes what it can use; here every question is looked at, since a wrong label is learnt in silence.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from needle.data.errors import UnreadableFile
from needle.data.squad import Question, read_json

_PARAGRAPH = {"context", "qas", "document_id"}
_QUESTION = {"id", "question", "answers", "is_impossible", "plausible_answers", "also"}
_ANSWER = {"text", "answer_start"}
#: So many bad questions are named in the message about a file.
_NAMED = 5


@dataclass(frozen=True)
class TrainingFile:
    """A file's questions.

    sha256: of the file's bytes. questions: the good ones, in order. bad: what is wrong with each of the others, by name.
    """

    path: str
    sha256: str
    questions: tuple[Question, ...]
    bad: tuple[str, ...]

    @property
    def unanswerable(self) -> int:
        return sum(question.is_impossible for question in self.questions)


def read_training_files(paths: Sequence[str | Path], skip_bad: bool = False) -> list[TrainingFile]:
    """Read and check files; a question must have an id of its own among all of them.

    :param skip_bad: leave bad questions out and tell of them in `TrainingFile.bad`.
    :raises UnreadableFile: if a file can't be read or has no question, or, without `skip_bad`, if one is bad; the message
        names the file, the question's id and what is wrong.
    """
    seen: dict[str, str] = {}
    return [_read(str(path), seen, skip_bad) for path in paths]


def hold_out(questions: Sequence[Question], share: float, seed: int) -> tuple[list[Question], list[Question]]:
    """Questions to train on and a part held out, about `share` of them: all questions on a passage go the same way, and
    which way does not depend on the other passages."""
    parts: tuple[list[Question], list[Question]] = ([], [])
    for question in questions:
        digest = hashlib.sha256(f"{seed} {question.context}".encode()).digest()
        parts[int.from_bytes(digest[:8], "big") < share * 2**64].append(question)
    return parts


def _read(path: str, seen: dict[str, str], skip_bad: bool) -> TrainingFile:
    content = read_json(path, "SQuAD JSON")
    questions: list[Question] = []
    bad: list[str] = []
    for found in _questions(path, content):
        if isinstance(found, Question) and found.id in seen:
            found = f"question '{found.id}' is there twice: its id was seen in '{seen[found.id]}' before"
        if isinstance(found, Question):
            seen[found.id] = path
            questions.append(found)
        else:
            bad.append(found)
    if bad and not skip_bad:
        more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        raise UnreadableFile(
            f"'{path}' has {len(bad)} bad of {len(bad) + len(questions)} questions: {'; '.join(bad[:_NAMED])}{more}. "
            f"Correct them, or leave them out with skip_bad (--skip-bad)."
        )
    if not questions:
        raise UnreadableFile(f"'{path}' has no question to train on{f': {bad[0]}' if bad else ''}.")
    return TrainingFile(path, hashlib.sha256(Path(path).read_bytes()).hexdigest(), tuple(questions), tuple(bad))


def _questions(path: str, content: Any) -> Iterator[Question | str]:
    """Each question, or what is wrong with it."""
    for a, article in enumerate(_list(path, content, "data")):
        for p, paragraph in enumerate(_list(path, article, "paragraphs")):
            place = f"paragraph {p} of article {a}"
            problem = _fields(paragraph, _PARAGRAPH, {"context"})
            context = paragraph["context"] if not problem else ""
            if not problem and not isinstance(context, str):
                problem = f"its 'context' is {context!r:.60}, not a text"
            elif not problem and not context.strip():
                problem = "its 'context' is empty"
            title = article.get("title", "")
            for q, qa in enumerate(_list(path, paragraph, "qas")):
                name = f"question '{qa['id']}'" if isinstance(qa, dict) and "id" in qa else f"question {q} of {place}"
                found = f"{place}: {problem}" if problem else _question(qa, context, str(title))
                yield found if isinstance(found, Question) else f"{name}: {found}"


def _question(qa: Any, context: str, title: str) -> Question | str:
    if problem := _fields(qa, _QUESTION, {"id", "question"} if _impossible(qa) else {"id", "question", "answers"}):
        return problem
    if not isinstance(qa["question"], str) or not qa["question"].strip():
        return f"its 'question' is {qa['question']!r:.60}, not a text"
    if not isinstance(qa.get("is_impossible", False), bool):
        return f"its 'is_impossible' is {qa['is_impossible']!r:.60}, neither true nor false"
    answers = [] if _impossible(qa) else qa["answers"]
    if not isinstance(answers, list):
        return f"its 'answers' are {answers!r:.60}, not a list"
    if not answers and not _impossible(qa):
        return "it has no answer, and 'is_impossible' is not true"
    for answer in answers:
        if problem := _fields(answer, _ANSWER, _ANSWER):
            return f"answer {answer!r:.60}: {problem}"
        text, start = answer["text"], answer["answer_start"]
        if not isinstance(text, str) or not text.strip():
            return f"an answer's 'text' is {text!r:.60}, not a text"
        if not any(unicodedata.category(c)[0] in "LNPS" and c != "\ufffd" for c in text):  # tokenizers make nothing of it
            return f"an answer's 'text' is {text!a:.60}, in which there is nothing to see"
        if not isinstance(start, int) or start < 0 or context[start : start + len(text)] != text:
            there = context[start : start + len(text)] if isinstance(start, int) and start >= 0 else ""
            return f"its answer '{text:.60}' does not stand at answer_start {start!r} (there stands '{there:.60}')"
    return Question(
        id=str(qa["id"]),
        question=qa["question"],
        context=context,
        title=title,
        answers=tuple(answer["text"] for answer in answers),
        answer_starts=tuple(answer["answer_start"] for answer in answers),
    )


def _impossible(qa: Any) -> bool:
    return isinstance(qa, dict) and qa.get("is_impossible") is True


def _fields(record: Any, known: set[str], needed: set[str]) -> str:
    """What is wrong with a record's fields, "" for nothing."""
    if not isinstance(record, dict):
        return f"{record!r:.60} is not an object"
    if missing := sorted(needed - record.keys()):
        return f"the field '{missing[0]}' is missing (it has {', '.join(sorted(record)) or 'none'})"
    if unknown := sorted(record.keys() - known):
        return f"the field '{unknown[0]}' is unknown (known: {', '.join(sorted(known))})"
    return ""


def _list(path: str, record: Any, name: str) -> list[Any]:
    if not isinstance(record, dict) or not isinstance(record.get(name), list):
        raise UnreadableFile(
            f"'{path}' is not in SQuAD's format: an object with a list '{name}' was expected, not {record!r:.80}."
        )
    found: list[Any] = record[name]
    return found
