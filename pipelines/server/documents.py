"""Source documents, put together from the passages that the store keeps."""

from __future__ import annotations

from typing import Any

from haystack import Document, ExtractedAnswer

from needle.components.store import SQLiteDocumentStore
from needle.pipelines.server.errors import Refusal
from needle.pipelines.server.requests import Feedback
from needle.pipelines.server.schemas import (
    DocumentList,
    ListedDocument,
    WholeDocument,
    own_meta,
    passage_start,
    source_id,
)


def list_documents(store: SQLiteDocumentStore, offset: int, limit: int, search: str | None) -> DocumentList:
    """A page of the documents that were split into passages, by file and title.

    :param search: only those with this in their file's path or title, whatever the case of a ... z.
    """
    found, total = store.sources(search, offset, limit)
    return DocumentList(
        total=total,
        documents=[
            ListedDocument(document_id=s.id, file_path=s.file_path, title=s.title, passages=s.passages) for s in found
        ],
    )


def get_document(store: SQLiteDocumentStore, id_: str, start: int, end: int | None) -> WholeDocument:
    """
    :param start, end: characters of the text that are wanted; None for all to the end.
    :raises Refusal: 404
    """
    passages = _passages(store, id_)
    text = _joined(passages)
    return WholeDocument(
        **_listed(id_, passages).model_dump(),
        text=text[start:end],
        start_char=min(start, len(text)),
        chars=len(text),
        meta=own_meta(passages[0]),
    )


def delete_document(store: SQLiteDocumentStore, id_: str) -> None:
    """
    :raises Refusal: 404
    """
    if not store.remove_source(id_) and not store.delete_by_filter(_filter("id", "==", id_)):
        raise Refusal(404, "There is no document of that id.")


def judged_answer(store: SQLiteDocumentStore, given: Feedback) -> ExtractedAnswer:
    """The answer that feedback is on.

    :raises Refusal: 404 if its passage is not there, 409 if there is no such span in it.
    """
    passage, span, words = None, None, None
    if given.passage_id is not None:
        found = store.filter_documents(_filter("id", "==", given.passage_id))
        if not found:
            raise Refusal(404, "There is no passage of that id any more.")
        passage = found[0]
    if given.start_char is not None or given.end_char is not None:
        content = "" if passage is None else passage.content or ""
        start, end = given.start_char, given.end_char
        if start is None or end is None or not start < end <= len(content):
            raise Refusal(409, f"The passage has {len(content)} characters and no span from {start} to {end}.")
        span, words = ExtractedAnswer.Span(start, end), content[start:end]
    return ExtractedAnswer(query=given.query, score=given.score, data=words, document=passage, document_offset=span)


def _passages(store: SQLiteDocumentStore, id_: str) -> list[Document]:
    """In the order of the text."""
    found = store.passages_of(id_)
    if not found:  # one that was not split
        found = store.filter_documents(_filter("id", "==", id_))
        found = [passage for passage in found if source_id(passage) == id_]
    if not found:
        raise Refusal(404, "There is no document of that id.")
    return sorted(found, key=lambda passage: passage_start(passage) or 0)


def _joined(passages: list[Document]) -> str:
    """The text, every character of a passage in its place; only the white space between passages is not known."""
    text: list[str] = []
    length = 0
    for passage in passages:
        start, content = passage_start(passage) or 0, passage.content or ""
        if start > length:
            text.append(" " if start - length == 1 else "\n" * (start - length))
            length = start
        text.append(content[length - start :])
        length = max(length, start + len(content))
    return "".join(text)


def _listed(id_: str, passages: list[Document]) -> ListedDocument:
    meta = passages[0].meta
    path, title = (None if meta.get(name) is None else str(meta[name]) for name in ("file_path", "title"))
    return ListedDocument(document_id=id_, file_path=path, title=title, passages=len(passages))


def _filter(field: str, operator: str, value: Any) -> dict[str, Any]:
    return {"field": field, "operator": operator, "value": value}
