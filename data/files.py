"""Files and folders -> Haystack Documents: which of Haystack's converters reads which type of file."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import charset_normalizer
from haystack import Document, component
from haystack.dataclasses import ByteStream

from needle.data.errors import UnreadableFile

#: Keys of a JSON object, and names of a CSV column, that hold a document's text.
TEXT_KEYS = ("content", "text")


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
    """All files at and below `paths`, absolute and sorted; names that start with a dot are passed over in folders.

    :raises UnreadableFile: if one of `paths` does not exist.
    """
    found: set[Path] = set()
    for path in map(Path, paths):
        path = path.expanduser().resolve()
        if path.is_dir():
            for folder, folders, names in os.walk(path):
                folders[:] = [name for name in folders if not name.startswith(".")]
                found.update(Path(folder, name) for name in names if not name.startswith("."))
        elif path.exists():
            found.add(path)
        else:
            raise UnreadableFile(f"There is no file or folder '{path}'.")
    return sorted(found)


@component
class FileConverter:
    """Reads text, markdown, HTML, PDF, DOCX, CSV, JSON and JSON lines files with Haystack's converters.

    A file's type is told by its suffix; files with other suffixes are read as plain text if they hold text. Text is UTF-8,
    UTF-16 with its mark, or else what charset-normalizer finds. A JSON object's text stands under "content" or "text", its
    other keys become meta; so does a CSV row's, and a CSV file without such a column becomes one document in which every
    row is a line `column: value; column: value`.
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
            path = str(source.meta.get("file_path", "stdin") if isinstance(source, ByteStream) else Path(source).resolve())
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
    reader = _READERS.get(Path(path).suffix.lower(), _text)
    documents = [
        Document(content=d.content, meta={"title": Path(path).stem, **d.meta, "file_path": path})
        for d in reader(data)
        if d.content and d.content.strip()
    ]
    if not documents:
        raise UnreadableFile("no text was found in it")
    return documents


def decode(data: bytes) -> str:
    """Bytes -> text: UTF-8, UTF-16 with its mark, or the encoding that charset-normalizer finds.

    :raises UnreadableFile: if the bytes are not text.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    if b"\0" in data:
        raise UnreadableFile("it is a binary file of a type that needle does not read")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        match = charset_normalizer.from_bytes(data).best()
        if match is None:
            raise UnreadableFile("its text encoding can't be told") from None
        return str(match)


def _run(converter: Any, data: bytes, **options: Any) -> list[Document]:
    with _reasons("haystack") as reasons:
        documents: list[Document] = converter.run(sources=[ByteStream(data)], **options)["documents"]
    if not documents and reasons:
        raise UnreadableFile(reasons[0])
    return documents


@contextmanager
def _reasons(logger_name: str) -> Iterator[list[str]]:
    """Haystack's converters log why they skip a file; this collects the reasons instead of printing them."""
    logger, messages = logging.getLogger(logger_name), list[str]()
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage().rpartition("Error: ")[2])  # type: ignore[method-assign]
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

    return _run(HTMLToDocument(extraction_kwargs={"favor_recall": True, "with_metadata": False}), decode(data).encode())


def _pdf(data: bytes) -> list[Document]:
    from haystack.components.converters import PyPDFToDocument
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        if PdfReader(io.BytesIO(data)).is_encrypted and not PdfReader(io.BytesIO(data), password="").decrypt(""):
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

    text = decode(data)
    rows = list(csv.reader(io.StringIO(text)))
    header = rows[0] if rows else []
    for key in TEXT_KEYS:
        if key in header:
            return _run(CSVToDocument(conversion_mode="row"), text.encode(), content_column=key)
    lines = ("; ".join(f"{k}: {v}" for k, v in zip(header, row, strict=False) if v.strip()) for row in rows[1:])
    return [Document(content="\n".join(line for line in lines if line))]


def _json(data: bytes) -> list[Document]:
    try:
        content = json.loads(decode(data))
    except ValueError as error:
        raise UnreadableFile(f"it is not valid JSON ({error})") from error
    return _objects(content if isinstance(content, list) else [content])


def _json_lines(data: bytes) -> list[Document]:
    objects = []
    for number, line in enumerate(decode(data).splitlines(), start=1):
        if line.strip():
            try:
                objects.append(json.loads(line))
            except ValueError as error:
                raise UnreadableFile(f"its line {number} is not valid JSON ({error})") from error
    return _objects(objects)


def _objects(objects: list[Any]) -> list[Document]:
    from haystack.components.converters import JSONConverter

    documents = []
    for n, item in enumerate(objects, start=1):
        key = next((k for k in TEXT_KEYS if isinstance(item, dict) and isinstance(item.get(k), str)), None)
        if key is None:
            raise UnreadableFile(f"its object {n} has no text under {' or '.join(map(repr, TEXT_KEYS))}")
        documents += _run(JSONConverter(content_key=key, extra_meta_fields="*"), json.dumps(item).encode())
    return documents


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
