"""The bodies of responses, as OpenAPI publishes them. Offsets are in characters (code points), half-open."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from haystack import Document
from pydantic import BaseModel, ConfigDict, Field

from needle.pipelines.results import Result
from needle.pipelines.server.requests import OWN_META


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Place(_Out):
    passage_id: str
    document_id: str
    file_path: str | None
    page_number: int | None
    start_char: Annotated[int, Field(description="In the document's text.")]
    end_char: int

    @classmethod
    def of(cls, place: dict[str, Any]) -> Place:
        """:param place: as `answers.place_of` makes it."""
        named = {"passage_id": place["document_id"], "document_id": place["source_id"]}
        return cls.model_validate({**place, **named, "file_path": _text(place["file_path"])})


class Answer(_Out):
    answer: str
    score: Annotated[float, Field(description="The probability that it is right.")]
    retrieval_score: float | None
    context: Annotated[str | None, Field(description="The sentences around the answer.")]
    context_start_char: Annotated[int | None, Field(description="Of the answer in the context.")]
    context_end_char: int | None
    passage_id: str | None
    passage: str | None
    start_char: Annotated[int | None, Field(description="Of the answer in the passage.")]
    end_char: int | None
    document_id: str | None
    file_path: str | None
    title: str | None
    page_number: int | None
    places: Annotated[list[Place], Field(description="Where the same is said; the first is the answer's own place.")]


class Answers(_Out):
    query: str
    is_answered: Annotated[bool, Field(description="False: 'no answer' is likelier than the best answer.")]
    no_answer_score: float | None
    answers: list[Answer]

    @classmethod
    def of(cls, result: Result) -> Answers:
        answers = []
        for found in result.answers:
            passage, in_passage, in_context = found.document, found.document_offset, found.context_offset
            meta = {} if passage is None else passage.meta
            answers.append(
                Answer(
                    answer=found.data or "",
                    score=found.score,
                    retrieval_score=found.meta.get("retrieval_score"),
                    context=found.context,
                    context_start_char=None if in_context is None else in_context.start,
                    context_end_char=None if in_context is None else in_context.end,
                    passage_id=None if passage is None else passage.id,
                    passage=None if passage is None else passage.content,
                    start_char=None if in_passage is None else in_passage.start,
                    end_char=None if in_passage is None else in_passage.end,
                    document_id=None if passage is None else source_id(passage),
                    file_path=_text(meta.get("file_path")),
                    title=_text(meta.get("title")),
                    page_number=found.meta.get("page_number"),
                    places=[Place.of(place) for place in found.meta.get("places", [])],
                )
            )
        return cls(
            query=result.query,
            is_answered=result.is_answered,
            no_answer_score=result.no_answer_score,
            answers=answers,
        )


class ManyAnswers(_Out):
    results: list[Answers]


class Passage(_Out):
    passage_id: str
    content: str
    score: float | None
    document_id: str
    file_path: str | None
    title: str | None
    page_number: int | None
    start_char: Annotated[int | None, Field(description="Of the passage in the document's text.")]
    end_char: int | None
    meta: dict[str, Any]

    @classmethod
    def of(cls, passage: Document) -> Passage:
        start, page = passage_start(passage), passage.meta.get("page_number")
        content = passage.content or ""
        return cls(
            passage_id=passage.id,
            content=content,
            score=passage.score,
            document_id=source_id(passage),
            file_path=_text(passage.meta.get("file_path")),
            title=_text(passage.meta.get("title")),
            page_number=page if isinstance(page, int) else None,
            start_char=start,
            end_char=None if start is None else start + len(content),
            meta=own_meta(passage),
        )


class Passages(_Out):
    query: str
    passages: list[Passage]


class AddedDocument(_Out):
    document_id: str
    title: str | None


class AddedDocuments(_Out):
    documents: list[AddedDocument]
    passages: int


class ListedDocument(_Out):
    document_id: str
    file_path: str | None
    title: str | None
    passages: int


class DocumentList(_Out):
    total: int
    documents: list[ListedDocument]


class WholeDocument(ListedDocument):
    text: Annotated[str, Field(description="Put together from passages: white space between these may be another.")]
    start_char: Annotated[int, Field(description="Where the text begins, if a part was asked for.")]
    chars: Annotated[int, Field(description="Length of the whole text.")]
    meta: dict[str, Any]


class Skipped(_Out):
    file_path: Annotated[str, Field(validation_alias="path")]
    reason: str


class JobStatus(_Out):
    job_id: str
    state: Literal["queued", "running", "done", "failed"]
    files: int
    done: Annotated[int, Field(description="Files that are dealt with.")]
    indexed: Annotated[list[str], Field(description="These are kept, whatever happens.")]
    unchanged: list[str]
    skipped: list[Skipped]
    passages: int
    error: str | None


class Kept(_Out):
    verdict: str
    answer: str | None
    correction: str | None


class Limited(_Out):
    """What is taken at most."""

    question_chars: int
    batch_questions: int
    top_k: int
    documents: int
    document_chars: int
    documents_bytes: int
    upload_files: int
    upload_bytes: int


class Info(_Out):
    version: str
    auth: Annotated[bool, Field(description="Whether tokens are asked for.")]
    scopes: Annotated[list[str], Field(description="What this request's token may do.")]
    limits: Limited
    reader: str
    pipeline: str
    file_types: list[str]


class Health(_Out):
    status: Literal["ok"] = "ok"


class ErrorDetail(_Out):
    code: str
    message: str
    request_id: str


class Error(_Out):
    error: ErrorDetail


class StreamedLine(_Out):
    """A line of /ask/stream: a result or an error."""

    index: int
    result: Answers | None = None
    error: ErrorDetail | None = None


def source_id(passage: Document) -> str:
    """The document that a passage is a part of, or the passage itself, as answers' places name it."""
    return passage.id if passage_start(passage) is None else str(passage.meta["source_id"])


def passage_start(passage: Document) -> int | None:
    """Where a passage begins in its document; split_idx_start is Haystack's splitters' name."""
    starts = [passage.meta[name] for name in ("start_char", "split_idx_start") if isinstance(passage.meta.get(name), int)]
    return starts[0] if starts and "source_id" in passage.meta else None


def own_meta(passage: Document) -> dict[str, Any]:
    """What the user or the file gave it."""
    return {name: value for name, value in passage.meta.items() if name not in OWN_META}


def _text(value: object) -> str | None:
    return None if value is None else str(value)
