"""Files and folders -> Haystack Documents: which of Haystack's converters reads which type of file."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

import charset_normalizer
from haystack import Document, component
from haystack.dataclasses import ByteStream

from needle.data.errors import UnreadableFile

#: Keys of a JSON object, and names of a CSV column, that hold a document's text.
TEXT_KEYS = ("content", "text")

#: Marks at the beginning of a text that tell its encoding; UTF-32's begins like UTF-16's.
_MARKS = [
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]
#: What text that is not Unicode is tried as: with rarer encodings among them, short texts are taken for the wrong one.
_WESTERN = "cp1252"
_LEGACY = [_WESTERN, "cp1250", "cp1251", "koi8_r", "cp1253", "cp1254", "cp1255", "cp1256"]
_LEGACY += ["cp932", "euc_jp", "gb18030", "big5", "cp949"]

#: Where HTML says its encoding, within its first 1,024 bytes (WHATWG's HTML, "prescan").
_DECLARED = re.compile(rb"""<meta\s[^>]*charset\s*=\s*["']?\s*([\w:.-]+)""", re.IGNORECASE)

# Without a handler of their own, what these parsers have to say about a file is printed.
for _name in ("pypdf", "trafilatura"):
    logging.getLogger(_name).addHandler(logging.NullHandler())
_LOGGING = threading.Lock()

#: Deeper JSON is refused: what is kept of it as meta is walked through by functions that call themselves.
_MAX_DEPTH = 100


@dataclass(frozen=True)
class SourceFile:
    """A file as it was when it was read. path: absolute. digest: SHA-256 of the bytes, hexadecimal. size: bytes."""

    path: str
    digest: str
    size: int

    @classmethod
    def of(cls, path: str, data: bytes) -> SourceFile:
        return cls(path, hashlib.sha256(data).hexdigest(), len(data))


@dataclass(frozen=True)
class SkippedFile:
    """A file that no text was had from, and why."""

    path: str
    reason: str


def find_files(paths: Iterable[str | Path]) -> list[Path]:
    """All files at and below `paths`, absolute and sorted.

    In folders, names that start with a dot are passed over, and so are pipes, sockets and links to folders. A folder that
    can't be listed stands for its files.

    :raises UnreadableFile: if one of `paths` does not exist.
    """
    found: set[Path] = set()
    for given in paths:
        path = os.path.realpath(os.path.expanduser(given))
        if given == "" or not os.path.exists(path):
            raise UnreadableFile(f"There is no file or folder '{given}'.")
        if not os.path.isdir(path):
            found.add(Path(path))
        for folder, folders, names in os.walk(path, onerror=lambda error: found.add(Path(error.filename))):
            folders[:] = [name for name in folders if not name.startswith(".")]
            files = (Path(folder, name) for name in names if not name.startswith("."))
            found.update(file for file in files if file.is_file() or file.is_symlink())
    return sorted(found)


@component
class FileConverter:
    """Reads text, markdown, HTML, PDF, DOCX, CSV, JSON and JSON lines files with Haystack's converters.

    A file's type is told by its suffix; files with other suffixes are read as plain text if they hold text. Text is UTF-8,
    UTF-16 or UTF-32 with its mark, or else what charset-normalizer finds. A JSON object's text stands under "content" or
    "text", its other keys become meta; so does a CSV row's, and a CSV file without such a column becomes one document in
    which every row is a line `column: value; column: value.`
    """

    @component.output_types(documents=list[Document], files=list[SourceFile], skipped=list[SkippedFile])
    def run(self, sources: list[str | Path | ByteStream]) -> dict[str, Any]:
        """Convert files; one that can't be read is skipped and named with the reason, the rest goes on.

        :param sources: paths, or byte streams whose meta holds `file_path` (a name that tells the type and source).
        :returns: `documents`, each with meta `file_path` and `title`; `files` that were read, in order; `skipped` ones.
        """
        documents: list[Document] = []
        files: list[SourceFile] = []
        skipped: list[SkippedFile] = []
        for source in sources:
            path = str(source.meta.get("file_path", "stdin")) if isinstance(source, ByteStream) else os.path.realpath(source)
            try:
                data = source.data if isinstance(source, ByteStream) else Path(source).read_bytes()
                documents += convert(path, data)
                files.append(SourceFile.of(path, data))
            except UnreadableFile as error:
                skipped.append(SkippedFile(path, str(error)))
            except OSError as error:
                skipped.append(SkippedFile(path, error.strerror or str(error)))
            except Exception as error:  # parsers of foreign files fail in their own ways; one file must not end the job
                skipped.append(SkippedFile(path, f"it could not be read ({type(error).__name__}: {error})"))
        return {"documents": documents, "files": files, "skipped": skipped}


def convert(path: str, data: bytes) -> list[Document]:
    """One file's bytes -> its Documents, none of them blank.

    :raises UnreadableFile: with the reason, if no text can be had.
    """
    if not data.strip():
        raise UnreadableFile("the file is empty")
    if any("\ud800" <= character <= "\udfff" for character in path):  # how Python spells bytes that are not UTF-8
        raise UnreadableFile("its name is not valid Unicode; rename it")
    reader = _READERS.get(Path(path).suffix.lower(), _text)
    documents = [
        Document(content=d.content, meta={"title": Path(path).stem, **d.meta, "file_path": path})
        for d in reader(data)
        if d.content and d.content.strip()
    ]
    if not documents:
        raise UnreadableFile("no text was found in it")
    return documents


def decode(data: bytes, declared: str | None = None) -> str:
    """Bytes -> text: UTF-8, UTF-16 or UTF-32 with its mark, or the older encoding that charset-normalizer finds likeliest.

    :param declared: an encoding that is tried before it is guessed.
    :raises UnreadableFile: if the bytes are not text.
    """
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8-sig")
    if encoding == "utf-8-sig" and b"\0" in data:
        raise UnreadableFile("it is a binary file of a type that needle does not read")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        if (
            declared is not None and encoding == "utf-8-sig" and not declared.startswith("utf")
        ):  # no Unicode: of that it is none
            with suppress(UnicodeError, LookupError):
                return data.decode(declared)
        matches = charset_normalizer.from_bytes(data, cp_isolation=_LEGACY)
        if (best := matches.best()) is None or encoding != "utf-8-sig":
            raise UnreadableFile("its text encoding can't be told") from None
        # Where nothing speaks for one encoding above another, the commonest is meant.
        western = next((m for m in matches if _WESTERN in m.could_be_from_charset), best)
        return str(western if (western.chaos, -western.coherence) <= (best.chaos, -best.coherence) else best)


def _run(converter: Any, data: bytes, **options: Any) -> list[Document]:
    with _reasons("haystack") as reasons:
        documents: list[Document] = converter.run(sources=[ByteStream(data)], **options)["documents"]
    if not documents and any(reasons):
        raise UnreadableFile(f"it could not be read ({reasons[0]})")
    return documents


@contextmanager
def _reasons(logger_name: str) -> Iterator[list[str]]:
    """Haystack's converters log why they skip a file; this collects the reasons instead of printing them."""
    logger, messages = logging.getLogger(logger_name), list[str]()
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage().partition("Error: ")[2])  # type: ignore[method-assign]
    with _LOGGING:  # loggers are the whole process's
        logger.addHandler(handler)
        propagate, logger.propagate = logger.propagate, False
        try:
            yield messages
        finally:
            logger.removeHandler(handler)
            logger.propagate = propagate


# Converters are imported when a file needs them: together they take a second.


def _text(data: bytes) -> list[Document]:
    from haystack.components.converters import TextFileToDocument

    return _run(TextFileToDocument(), decode(data).encode())


def _markdown(data: bytes) -> list[Document]:
    from haystack.components.converters import MarkdownToDocument

    return _run(MarkdownToDocument(progress_bar=False), decode(data).encode())


def _html(data: bytes) -> list[Document]:
    from haystack.components.converters import HTMLToDocument

    found = _DECLARED.search(data[:1024])
    declared = found[1].decode().lower() if found else None
    # As browsers take it: pages that say Latin-1 are often of Windows' larger set.
    text = decode(data, _WESTERN if declared in ("iso-8859-1", "latin1", "us-ascii", "ascii") else declared)
    if "<html" not in text.lower():
        text = f"<!doctype html>{text}"  # else trafilatura takes a page that leaves the optional tags out for none
    return _run(HTMLToDocument(extraction_kwargs={"favor_recall": True, "with_metadata": False}), text.encode())


def _pdf(data: bytes) -> list[Document]:
    from haystack.components.converters import PyPDFToDocument
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableFile("it is protected by a password")
    except PyPdfError as error:
        raise UnreadableFile(f"it is not a valid PDF ({error})") from error
    return _run(PyPDFToDocument(), data)


def _docx(data: bytes) -> list[Document]:
    from haystack.components.converters import DOCXToDocument

    if data.startswith(b"\xd0\xcf\x11\xe0"):  # OLE container: Word's format for encrypted documents
        raise UnreadableFile("it is protected by a password, or not a .docx file")
    return [Document(content=d.content) for d in _run(DOCXToDocument(), data)]


def _csv(data: bytes) -> list[Document]:
    from haystack.components.converters import CSVToDocument

    csv.field_size_limit(2**31 - 1)  # a cell may hold a whole article
    text = decode(data)

    def columns(delimiter: str) -> tuple[int, int]:
        """That all of the first rows have, and the header; a short row says nothing."""
        first = [len(row) for row in islice(csv.reader(io.StringIO(text), delimiter=delimiter), 9) if row]
        return min(first, default=0), first[0] if first else 0

    delimiter = max(",;\t", key=columns)
    rows = list(csv.reader(io.StringIO(text), delimiter=delimiter))
    header = rows[0] if rows else []
    for key in TEXT_KEYS:
        if key in header:
            return _run(CSVToDocument(conversion_mode="row", delimiter=delimiter), text.encode(), content_column=key)
    cells = ([(k, v) for k, v in zip_longest(header, row, fillvalue="") if v.strip()] for row in rows[1:])
    # A row ends like a sentence, so that passages are cut between rows, and a row is an answer's context.
    lines = ("; ".join(f"{k}: {v}" if k.strip() else v for k, v in row) + "." for row in cells if row)
    return [Document(content="\n".join(lines))]


def _json(data: bytes) -> list[Document]:
    try:
        content = json.loads(decode(data))
    except (ValueError, RecursionError) as error:
        raise UnreadableFile(f"it is not valid JSON ({error})") from error
    return _objects(content if isinstance(content, list) else [content])


def _json_lines(data: bytes) -> list[Document]:
    objects = []
    for number, line in enumerate(decode(data).split("\n"), start=1):
        if line.strip():
            try:
                objects.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise UnreadableFile(f"its line {number} is not valid JSON ({error})") from error
    return _objects(objects)


def _objects(objects: list[Any]) -> list[Document]:
    from haystack.components.converters import JSONConverter

    documents = []
    for n, item in enumerate(objects, start=1):
        key = next((k for k in TEXT_KEYS if isinstance(item, dict) and isinstance(item.get(k), str)), None)
        if key is None:
            raise UnreadableFile(f"its object {n} has no text under {' or '.join(map(repr, TEXT_KEYS))}")
        if _depth(item) > _MAX_DEPTH:
            raise UnreadableFile(f"its object {n} is nested more than {_MAX_DEPTH} levels deep")
        text = json.dumps(item, ensure_ascii=False, allow_nan=False)  # a store holds no NaN, and no half of a character
        documents += _run(JSONConverter(content_key=key, extra_meta_fields="*"), text.encode(errors="replace"))
    return documents


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        inner = (v.values() if isinstance(v, dict) else v if isinstance(v, list) else () for v in level)
        level = list(chain.from_iterable(inner))
    return depth


_READERS: dict[str, Callable[[bytes], list[Document]]] = {
    ".md": _markdown,
    ".markdown": _markdown,
    ".html": _html,
    ".htm": _html,
    ".pdf": _pdf,
    ".docx": _docx,
    ".csv": _csv,
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
}
