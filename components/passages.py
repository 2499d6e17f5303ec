"""Documents -> passages, the unit of retrieval: split at sentences or words, with overlap; written with their tokens."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import sentencex
from haystack import Document, component, default_from_dict, default_to_dict

from needle.components.store import IndexedFile, SQLiteDocumentStore
from needle.components.tokenizer import PassageTokenizer
from needle.components.weights import open_checkpoint
from needle.data.files import SourceFile

_WORD = re.compile(r"\S+")


def sentence_bounds(text: str) -> list[tuple[int, int]]:
    """Half-open character offsets of a text's sentences, without surrounding white space."""
    bounds = []
    for sentence in sentencex.get_sentence_boundaries("en", text):
        start, end = trimmed(text, sentence["start_index"], sentence["end_index"])
        if start < end:
            bounds.append((start, end))
    return bounds


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A span's offsets without the white space at its ends."""
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())


def first_page(document: Document) -> int:
    """The page on which a Document or passage begins; 1 if its meta does not tell, or holds something else there."""
    page = document.meta.get("page_number")
    return page if isinstance(page, int) else 1


@component
class PassageSplitter:
    """Cuts Documents into passages whose place in their Document is known exactly.

    A passage is a Document of its own: `document.content[start_char:end_char]` is its content, and its meta holds those two,
    `source_id` (the Document's id), `page_number` (1 + form feeds before it, on top of the Document's own) and the
    Document's meta.
    """

    def __init__(self, split_by: Literal["sentence", "word"] = "sentence", length: int = 128, overlap: int = 32):
        """
        :param split_by: "sentence" cuts between sentences only, unless one sentence alone is longer than `length`; "word"
            cuts anywhere between words.
        :param length: most words in a passage. overlap: most words that neighbouring passages share.
        :raises ValueError: if a value makes no sense.
        """
        if split_by not in ("sentence", "word"):
            raise ValueError(f"split_by must be 'sentence' or 'word', not {split_by!r}.")
        if not 0 <= overlap < length:
            raise ValueError(f"overlap must be at least 0 and below length ({length}), not {overlap}.")
        self.split_by = split_by
        self.length = length
        self.overlap = overlap

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Split; Documents without text give no passage."""
        return {"documents": [passage for document in documents for passage in self._split(document)]}

    def _split(self, document: Document) -> Iterator[Document]:
        text = document.content or ""
        page, counted = first_page(document), 0
        for start, end in self._bounds(text):
            page += text.count("\f", counted, start)
            counted = start
            place = {"source_id": document.id, "start_char": start, "end_char": end, "page_number": page}
            yield Document(content=text[start:end], meta={**document.meta, **place})

    def _bounds(self, text: str) -> Iterator[tuple[int, int]]:
        """Pack units (sentences, or words) into passages of at most `length` words."""
        units = list(self._units(text))  # (start, end, number of words)
        first = 0
        while first < len(units):
            after, words = first, 0
            while after < len(units) and (words + units[after][2] <= self.length or after == first):
                words += units[after][2]
                after += 1
            yield units[first][0], units[after - 1][1]
            if after == len(units):
                return
            # Sharing more than leaves room for the next unit would make the same passage again.
            shared, first, most = 0, after, min(self.overlap, self.length - units[after][2])
            while shared + units[first - 1][2] <= most:
                first -= 1
                shared += units[first][2]

    def _units(self, text: str) -> Iterator[tuple[int, int, int]]:
        if self.split_by == "word":
            yield from ((m.start(), m.end(), 1) for m in _WORD.finditer(text))
            return
        for start, end in sentence_bounds(text):
            words = [(m.start(), m.end()) for m in _WORD.finditer(text, start, end)]
            for i in range(0, len(words), self.length):
                part = words[i : i + self.length]
                yield part[0][0], part[-1][1], len(part)


@component
class PassageWriter:
    """Tokenises passages once, for the reader that will read them, and stores both in one transaction."""

    def __init__(self, document_store: SQLiteDocumentStore, model: str | None = None):
        """
        :param model: the reader (folder or hub id) whose tokenizer is used; None for the one that needle ships.
        """
        self.document_store = document_store
        self.model = model
        self._tokenizer: PassageTokenizer | None = None

    def to_dict(self) -> dict[str, Any]:
        return default_to_dict(self, document_store=self.document_store.to_dict(), model=self.model)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PassageWriter:
        data["init_parameters"]["document_store"] = SQLiteDocumentStore.from_dict(data["init_parameters"]["document_store"])
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        """Load the tokenizer.

        :raises ModelError: if it can't be had.
        """
        self.tokenizer()

    def tokenizer(self) -> PassageTokenizer:
        """The tokenizer that passages are stored with."""
        if self._tokenizer is None:
            self._tokenizer = PassageTokenizer.from_folder(open_checkpoint(self.model).folder)
        return self._tokenizer

    @component.output_types(documents_written=int)
    def run(self, documents: list[Document], files: list[SourceFile] | None = None) -> dict[str, Any]:
        """Write passages; those that the store holds of the same files or source Documents are replaced.

        :param documents: passages. files: the files that they come from; None for Documents that come from no file.
        """
        tokenizer = self.tokenizer()
        documents = list({document.id: document for document in documents}.values())  # equal parts of a file count once
        tokens = tokenizer.encode([document.content or "" for document in documents])
        passages = Counter(document.meta.get("file_path") for document in documents)
        indexed = [IndexedFile(f.path, f.digest, f.size, passages[f.path], tokenizer.fingerprint) for f in files or []]
        self.document_store.replace_sources(indexed, documents, tokens, tokenizer.fingerprint)
        return {"documents_written": len(documents)}
