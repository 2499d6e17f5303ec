"""TREC's formats (plain or .gz): tagged documents and topics, relevance judgements (qrels), and ranked results (runs).

Documents and topics look like XML and are not: they have no root, tags stay open, ampersands stand alone. They are read by
their tags; only character references (`&amp;`) are expanded. Runs and qrels are those of trec_eval
(https://github.com/usnistgov/trec_eval, README). All functions raise UnreadableFile, naming the file and the line.
"""

from __future__ import annotations

import gzip
import html
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from haystack import Document

from needle.data.errors import NeedleError, UnreadableFile
from needle.data.files import find_files

#: Topic id -> document id -> grade, 0 or less for not relevant.
Qrels = dict[str, dict[str, int]]
#: Topic id -> document id -> score, best first: the order is the ranking, whatever the scores say.
Run = dict[str, dict[str, float]]

_DOCNO = re.compile(r"<docno>([^<]*)", re.IGNORECASE)
_FIELD = re.compile(r"<(title|text)\b[^<>]*>(.*?)</\1\s*>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"</?[a-z][^<>]*>", re.IGNORECASE)
# TREC's own topics leave these open, and begin them with a label.
_NUM = re.compile(r"<num>\s*(?:Number:)?([^<]*)", re.IGNORECASE)
_TITLE = re.compile(rf"<title>\s*(?:Topic:)?(.*?)(?={_TAG.pattern}|\Z)", re.IGNORECASE | re.DOTALL)


def read_documents(path: str | Path) -> list[Document]:
    """The `<doc>`s of a file, or of all files in a folder; `<docno>` is the id.

    The content is `<title>` and `<text>`, without the title where the text begins with it; nothing for an empty document.
    """
    found: dict[str, Document] = {}
    for file in find_files([path]):
        for line, element in _elements(file, "doc"):
            docno = _id(_DOCNO, element, f"'{file}', line {line}: the <doc> has no <docno> of one word.")
            if docno in found:
                raise UnreadableFile(f"'{file}', line {line}: there is a <docno> '{docno}' before; each must be there once.")
            fields = [(tag.lower(), _plain(text)) for tag, text in _FIELD.findall(element)]
            title = " ".join(" ".join(text for tag, text in fields if tag == "title").split())
            text = "\n".join(text for tag, text in fields if tag == "text")
            parts = [text] if " ".join(text.split()).startswith(title) else [title, text]
            found[docno] = Document(id=docno, content="\n".join(filter(None, parts)), meta={"title": title})
    if not any(document.content for document in found.values()):
        raise UnreadableFile(f"'{path}' holds no document with a <title> or a <text>.")
    return list(found.values())


def read_topics(path: str | Path) -> dict[str, str]:
    """The `<top>`s of a file, in its order: `<num>` -> `<title>`, on one line."""
    topics: dict[str, str] = {}
    for line, element in _elements(Path(path), "top"):
        num = _id(_NUM, element, f"'{path}', line {line}: the <top> has no <num> of one word.")
        title = _TITLE.search(element)
        query = " ".join(_plain(title[1]).split()) if title else ""
        if not query:
            raise UnreadableFile(f"'{path}', line {line}: the <top> has no <title>, which is the query.")
        if num in topics:
            raise UnreadableFile(f"'{path}', line {line}: there is a <num> '{num}' before; each must be there once.")
        topics[num] = query
    return topics


def read_qrels(path: str | Path) -> Qrels:
    """Lines of `topic 0 docno grade`."""
    qrels: Qrels = {}
    for place, (topic, _, docno, grade) in _rows(path, "topic 0 docno grade"):
        if docno in qrels.setdefault(topic, {}):
            raise UnreadableFile(f"{place}: document '{docno}' was judged for topic '{topic}' before.")
        try:
            qrels[topic][docno] = int(grade)
        except ValueError:
            raise UnreadableFile(f"{place}: the grade '{grade}' is not a whole number.") from None
    return qrels


def read_run(path: str | Path) -> Run:
    """Lines of `topic Q0 docno rank score tag`, ranked as trec_eval does: by falling score, equal ones by falling docno."""
    run: Run = {}
    for place, (topic, _, docno, _, score, _) in _rows(path, "topic Q0 docno rank score tag"):
        if docno in run.setdefault(topic, {}):
            raise UnreadableFile(f"{place}: document '{docno}' was ranked for topic '{topic}' before.")
        try:
            run[topic][docno] = float(score)
        except ValueError:
            run[topic][docno] = math.nan
        if not math.isfinite(run[topic][docno]):
            raise UnreadableFile(f"{place}: the score '{score}' is not a finite number.")
    by_score = {topic: sorted(found.items(), key=lambda f: (f[1], f[0]), reverse=True) for topic, found in run.items()}
    return {topic: dict(ranking) for topic, ranking in by_score.items()}


def write_run(path: str | Path, run: Mapping[str, Mapping[str, float]], tag: str) -> None:
    """Write what `read_run`, and trec_eval, read as the same ranking.

    A topic's scores are written as they are if they fall strictly in trec_eval's 32 bits, else the ranks below zero.

    :raises NeedleError: if the file can't be written.
    """
    lines = []
    for topic, ranking in run.items():
        scores = np.fromiter(ranking.values(), np.float32, len(ranking))
        are_falling = bool(np.isfinite(scores).all() and (scores[1:] < scores[:-1]).all())
        for rank, (docno, score) in enumerate(ranking.items(), start=1):
            lines.append(f"{topic} Q0 {docno} {rank} {score if are_falling else -rank} {tag}\n")
    try:
        Path(path).write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise NeedleError(f"The run can't be written: {error}") from error


def _elements(path: Path, tag: str) -> Iterator[tuple[int, str]]:
    """What stands between each `<tag>` and its `</tag>`, with the number of the line where it begins."""
    text = _text(path)
    opening, closing = re.compile(rf"<{tag}(?:\s[^<>]*)?>", re.IGNORECASE), re.compile(rf"</{tag}\s*>", re.IGNORECASE)
    line, counted, end = 1, 0, 0
    while start := opening.search(text, end):
        line, counted = line + text.count("\n", counted, start.start()), start.start()
        stop = closing.search(text, start.end())
        if stop is None or opening.search(text, start.end(), stop.start()):
            raise UnreadableFile(f"'{path}', line {line}: the <{tag}> is not closed by a </{tag}>.")
        yield line, text[start.end() : stop.start()]
        end = stop.end()
    if not end:
        raise UnreadableFile(f"'{path}' is not in TREC's format: it holds no <{tag}>.")


def _rows(path: str | Path, form: str) -> Iterator[tuple[str, list[str]]]:
    """The fields of each line that is not blank, with the file and line for an error."""
    is_empty = True
    for number, line in enumerate(_text(Path(path)).split("\n"), start=1):
        if fields := line.split():
            if len(fields) != len(form.split()):
                raise UnreadableFile(f"'{path}', line {number}: '{line.strip()[:80]}' is not of the form '{form}'.")
            is_empty = False
            yield f"'{path}', line {number}", fields
    if is_empty:
        raise UnreadableFile(f"'{path}' is empty; lines of '{form}' were expected.")


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UnreadableFile(f"'{path}' can't be read as text: {error}") from error
    if "\0" in text:
        raise UnreadableFile(f"'{path}' can't be read as text: it is binary.")
    return text


def _id(pattern: re.Pattern[str], element: str, complaint: str) -> str:
    """The one word that the pattern finds: runs and qrels are split at white space."""
    found = pattern.search(element)
    if found is None or len(words := found[1].split()) != 1:
        raise UnreadableFile(complaint)
    return html.unescape(words[0])


def _plain(text: str) -> str:
    return html.unescape(_TAG.sub(" ", text)).strip()
