"""The routes: each takes and gives a schema, and asks the service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, File, Query, Request, Response, UploadFile
from fastapi import Path as PathParameter
from fastapi.responses import StreamingResponse
from haystack import Document
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import WithJsonSchema

from needle.pipelines.results import Result
from needle.pipelines.server import requests, schemas
from needle.pipelines.server.access import Access
from needle.pipelines.server.documents import delete_document, get_document, judged_answer, list_documents
from needle.pipelines.server.errors import Refusal, error_body
from needle.pipelines.server.service import Service
from needle.pipelines.server.uploads import spooled

_MEANING = {
    400: "Not readable",
    401: "No token, or one that is not known",
    403: "A token of another scope, or a page of another site",
    404: "There is no such thing",
    408: "The request came too slowly",
    409: "The verdict does not go with the answer",
    413: "Too large",
    422: "Not valid",
    429: "Too busy; see Retry-After",
    500: "Something went wrong",
    503: "Being stopped, or the store can't be used; see Retry-After",
    504: "No answer before the deadline",
}
_FILE_TYPES = [".csv", ".docx", ".htm", ".html", ".json", ".jsonl", ".markdown", ".md", ".ndjson", ".pdf", ".txt"]
_LINES = {
    "description": "A line of JSON a question, {index, result} or {index, error}, as soon as it is answered",
    "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
}

DocumentId = Annotated[str, PathParameter(pattern=requests.ID)]
JobId = Annotated[str, PathParameter(pattern="^[0-9a-f]{32}$")]
Upload = Annotated[UploadFile, WithJsonSchema({"type": "string", "format": "binary"})]
Files = Annotated[list[Upload], File(min_length=1, max_length=requests.LIMITS.upload_files)]
Offset = Annotated[int, Query(ge=0, le=10**9)]


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of these."""
    return {status: {"model": schemas.Error, "description": _MEANING[status]} for status in statuses}


def add_asking(reading: APIRouter, service: Service) -> None:
    @reading.post("/ask", responses=errors(504), tags=["ask"])
    async def ask(asked: requests.Ask, request: Request) -> schemas.Answers:
        """Answer a question."""
        futures = service.asking.submit([asked.query], asked.top_k, asked.filters_dict)
        async with _given_up(request, futures):
            [result] = await service.asking.all(futures, asked.deadline_s)
        return schemas.Answers.of(result)

    @reading.post("/ask/batch", responses=errors(504), tags=["ask"])
    async def ask_batch(asked: requests.AskMany, request: Request) -> schemas.ManyAnswers:
        """Answer many questions; the answers come together."""
        futures = service.asking.submit(asked.queries, asked.top_k, asked.filters_dict)
        async with _given_up(request, futures):
            results = await service.asking.all(futures, asked.deadline_s)
        return schemas.ManyAnswers(results=[schemas.Answers.of(result) for result in results])

    @reading.post("/ask/stream", responses={200: _LINES}, response_class=StreamingResponse, tags=["ask"])
    async def ask_stream(asked: requests.AskMany, request: Request) -> Response:
        """Answer many questions; each answer comes as soon as it is found."""
        futures = service.asking.submit(asked.queries, asked.top_k, asked.filters_dict)

        async def lines() -> AsyncIterator[str]:
            async for number, result in service.asking.each(futures, asked.deadline_s):
                line = schemas.StreamedLine(index=number)
                if isinstance(result, Refusal):
                    line.error = schemas.Error.model_validate(error_body(result, request.state.request_id)).error
                else:
                    line.result = schemas.Answers.of(result)
                yield line.model_dump_json(exclude_unset=True) + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    @reading.post("/search", tags=["ask"])
    async def search(asked: requests.Search) -> schemas.Passages:
        """Find passages, without reading them for an answer."""
        found = await service.read(partial(service.qa.search, asked.query, asked.top_k, asked.filters_dict))
        return schemas.Passages(query=asked.query, passages=[schemas.Passage.of(passage) for passage in found])


def add_documents(reading: APIRouter, writing: APIRouter, service: Service) -> None:
    qa = service.qa

    @reading.get("/documents", tags=["documents"])
    async def documents(
        offset: Offset = 0,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        search: Annotated[str | None, Query(max_length=200, description="A part of the file's path or title")] = None,
    ) -> schemas.DocumentList:
        """List documents, by file and title."""
        return await service.read(partial(list_documents, qa.store, offset, limit, search))

    @reading.get("/documents/{document_id}", responses=errors(404), tags=["documents"])
    async def document(
        document_id: DocumentId, start_char: Offset = 0, end_char: Offset | None = None
    ) -> schemas.WholeDocument:
        """A document's text, or a part of it."""
        return await service.read(partial(get_document, qa.store, document_id, start_char, end_char))

    @writing.post("/documents", status_code=201, tags=["documents"])
    async def add(given: requests.NewDocuments) -> schemas.AddedDocuments:
        """Index documents. What is acknowledged is kept."""
        new = {document.id: document for document in (one.document() for one in given.documents)}
        passages = await service.write(partial(qa.index_documents, list(new.values())))
        return schemas.AddedDocuments(documents=[_added(document) for document in new.values()], passages=passages)

    @writing.delete("/documents/{document_id}", status_code=204, responses=errors(404), tags=["documents"])
    async def delete(document_id: DocumentId) -> None:
        """Forget a document."""
        await service.write(partial(delete_document, qa.store, document_id))

    @writing.post("/uploads", status_code=202, tags=["documents"])
    async def upload(files: Files, response: Response) -> schemas.JobStatus:
        """Index files in the background, by a job; the same name again replaces a file."""
        service.jobs.refuse_if_full()
        job = service.jobs.submit(await service.read(partial(spooled, files)))
        response.headers["Location"] = f"/jobs/{job.job_id}"
        return schemas.JobStatus.model_validate(job)

    @reading.get("/jobs/{job_id}", responses=errors(404), tags=["documents"])
    async def job_status(job_id: JobId) -> schemas.JobStatus:
        """How far a job is."""
        if (job := service.jobs.get(job_id)) is None:
            raise Refusal(404, "There is no job of that id; a server that was started again does not know older ones.")
        return schemas.JobStatus.model_validate(job)

    @writing.post("/feedback", status_code=201, responses=errors(404, 409), tags=["feedback"])
    async def feedback(given: requests.Feedback) -> schemas.Kept:
        """Say whether an answer is right."""

        def keep() -> schemas.Kept:
            try:
                label = qa.feedback(judged_answer(qa.store, given), given.verdict, given.correction)
            except ValueError as error:
                raise Refusal(409, str(error)) from error
            return schemas.Kept(verdict=label.verdict.value, answer=label.answer, correction=label.correction)

        return await service.write(keep)


def add_state(open_: APIRouter, reading: APIRouter, service: Service, access: Access) -> None:
    """open_: routes that need no token."""

    @open_.get("/info", responses=errors(401) if access.tokens else {}, tags=["state"])
    async def info(request: Request) -> schemas.Info:
        """What this server is, what it takes, and what the request's token may do."""
        scopes = access.scopes(request.headers, request.scope["state"])
        return schemas.Info(
            version=version("needle-qa"),
            auth=access.tokens is not None,
            scopes=[scope.value for scope in scopes],
            limits=schemas.Limited.model_validate(service.limits),
            reader=service.qa.reader,
            pipeline=service.qa.definition,
            file_types=_FILE_TYPES,
        )

    @open_.get("/health/live", tags=["state"])
    async def live() -> schemas.Health:
        """Whether the process runs."""
        return schemas.Health()

    @open_.get("/health/ready", responses=errors(429, 503), tags=["state"])
    async def ready() -> schemas.Health:
        """Whether it takes requests and its store can be read."""
        service.refuse_if_closing()
        await service.read(lambda: service.qa.store.revision)
        return schemas.Health()

    text: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text format"}
    }

    @reading.get("/metrics", response_class=Response, responses=text, tags=["state"])
    async def metrics() -> Response:
        """What was counted since the start."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@asynccontextmanager
async def _given_up(request: Request, futures: Sequence[Future[Result]]) -> AsyncIterator[None]:
    """While it is entered, the questions are given up if the client goes."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        for future in futures:
            future.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


def _added(document: Document) -> schemas.AddedDocument:
    return schemas.AddedDocument(document_id=document.id, title=document.meta.get("title"))
