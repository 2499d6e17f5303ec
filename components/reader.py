"""The MiniLM reader component: questions and passages -> windows -> engine -> spans -> answers."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from haystack import Document, ExtractedAnswer, component, default_from_dict, default_to_dict
from numpy.typing import NDArray

from needle.components.answers import Candidate, priors, rank_answers
from needle.components.confidence import Confidence, confidence_of
from needle.components.engines import DType, Engine, EngineName, open_engine
from needle.components.micro_batcher import MicroBatcher
from needle.components.passages import trimmed
from needle.components.reading import read_pairs
from needle.components.store import SQLiteDocumentStore
from needle.components.tokenizer import PassageTokenizer, Tokens
from needle.components.weights import open_checkpoint
from needle.components.windows import MIN_PASSAGE_TOKENS, passage_capacity
from needle.data.errors import QueryError

#: Passages, of several questions, that are read before their answers are made and their tokens forgotten.
PASSAGES_AT_ONCE = 4096

#: Spans of a question, the best of all windows, from which its answers are made.
MAX_SPANS = 1000

#: Engines of the process that this one was forked off from; they are neither used nor ended.
_LEFT_BEHIND: list[object] = []


class _Asked(NamedTuple):
    query: str
    documents: Sequence[Document]
    top_k: int
    no_answer: bool
    null_threshold: float | None


class _Loaded(NamedTuple):
    tokenizer: PassageTokenizer
    engine: Engine


def check_query(query: object) -> None:
    """:raises QueryError: if this is no question that a reader can take."""
    if not isinstance(query, str) or not query.strip():
        raise QueryError(f"A question must be a text that is not blank, not {query!r}.")
    if any("\ud800" <= character <= "\udfff" for character in query):
        raise QueryError(f"A question must be valid Unicode, which {query!a} is not.")


@component
class MiniLMReader:
    """Finds the answers to questions in passages, word for word, with a probability, or says that there is none.

    Any extractive reader will do: the MiniLM that needle ships (`model=None`), a folder in Hugging Face format, or a hub id
    such as "deepset/minilm-uncased-squad2" or "deepset/roberta-base-squad2". Safe to call from several threads.
    """

    def __init__(
        self,
        model: str | None = None,
        document_store: SQLiteDocumentStore | None = None,
        top_k: int = 5,
        no_answer: bool = True,
        null_threshold: float | None = None,
        retrieval_weight: float = 6.0,
        max_answer_tokens: int = 30,
        max_seq_len: int = 384,
        stride: int = 128,
        spans_per_window: int = 20,
        batch_tokens: int | None = None,
        device: str | None = None,
        devices: list[str] | None = None,
        engine: EngineName | None = None,
        dtype: DType | None = None,
    ):
        """
        :param document_store: where the passages' token ids are kept; those that it lacks are tokenised when read.
        :param top_k: most answers to a question. no_answer: whether "no answer" is added to them (data None).
        :param null_threshold: "no answer" comes first when null_score - span_score is above this for every span; None for
            the calibration's, or 0 where there is none.
        :param retrieval_weight: how much the retrieval score counts beside the reader's (see `answers.priors`); 0 for not at
            all. It matters only where a question has passages with different scores.
        :param max_answer_tokens: longest span. spans_per_window: how many spans of a window may become answers.
        :param max_seq_len: tokens in a window, question included. stride: tokens that neighbouring windows share.
        :param batch_tokens: tokens in a batch of windows; None for what suits the engine.
        :param device: "cpu", "cuda", "cuda:1" ...; None takes all GPUs that there are, or the CPU. devices: several, which
            share the batches.
        :param engine: "numba", "onnx" or "torch"; None takes what is fastest for the model and device.
        :param dtype: "float32", "float16" or "bfloat16" for the torch engine; None takes what is fast and near float32.
        :raises ValueError: if a number makes no sense, or both device and devices are given.
        """
        at_least = [
            ("top_k", top_k, 0),
            ("retrieval_weight", retrieval_weight, 0),
            ("max_answer_tokens", max_answer_tokens, 1),
            ("max_seq_len", max_seq_len, 2 * MIN_PASSAGE_TOKENS),
            ("stride", stride, 0),
            ("spans_per_window", spans_per_window, 1),
            ("batch_tokens", 1 if batch_tokens is None else batch_tokens, 1),
        ]
        for name, value, least in at_least:
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}.")
        if device is not None and devices is not None:
            raise ValueError(f"Give device ({device!r}) or devices ({devices!r}), not both.")
        self.model = model
        self.document_store = document_store
        self.top_k = top_k
        self.no_answer = no_answer
        self.null_threshold = null_threshold
        self.retrieval_weight = retrieval_weight
        self.max_answer_tokens = max_answer_tokens
        self.max_seq_len = max_seq_len
        self.stride = stride
        self.spans_per_window = spans_per_window
        self.batch_tokens = batch_tokens
        self.device = device
        self.devices = devices
        self.engine = engine
        self.dtype = dtype
        #: What the scores are calibrated by; None before `warm_up`, and where there is no calibration.
        self.confidence: Confidence | None = None
        self._begin()
        if hasattr(os, "register_at_fork"):
            reference = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: None if (reader := reference()) is None else reader._begin_again())

    def _begin_again(self) -> None:
        """In a process forked off: an engine's threads were not copied, and ONNX Runtime would wait for their end."""
        _LEFT_BEHIND.append(self._loaded)
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._batcher = MicroBatcher(self._answers)
        self._loaded: _Loaded | None = None

    def to_dict(self) -> dict[str, Any]:
        return default_to_dict(
            self,
            model=self.model,
            document_store=None if self.document_store is None else self.document_store.to_dict(),
            top_k=self.top_k,
            no_answer=self.no_answer,
            null_threshold=self.null_threshold,
            retrieval_weight=self.retrieval_weight,
            max_answer_tokens=self.max_answer_tokens,
            max_seq_len=self.max_seq_len,
            stride=self.stride,
            spans_per_window=self.spans_per_window,
            batch_tokens=self.batch_tokens,
            device=self.device,
            devices=self.devices,
            engine=self.engine,
            dtype=self.dtype,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> MiniLMReader:
        parameters = data["init_parameters"]
        if parameters.get("document_store") is not None:
            parameters["document_store"] = SQLiteDocumentStore.from_dict(parameters["document_store"])
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        """Load the model.

        :raises ModelError: if it can't be had. ValueError: if it takes fewer tokens than max_seq_len.
        """
        self._load()

    async def warm_up_async(self) -> None:
        """`warm_up` in a thread: pipelines that run asynchronously would wait for it on the event loop."""
        await asyncio.to_thread(self.warm_up)

    @property
    def default_null_threshold(self) -> float:
        """`null_threshold`, or where it is None the calibration's, which `warm_up` loads, or 0."""
        if self.null_threshold is not None:
            return self.null_threshold
        return 0.0 if self.confidence is None else self.confidence.null_threshold

    def _load(self) -> _Loaded:
        with self._lock:
            if self._loaded is None:
                checkpoint = open_checkpoint(self.model)
                tokenizer = PassageTokenizer.from_folder(checkpoint.folder)
                checkpoint.check_max_seq_len(self.max_seq_len)
                devices = self.devices if self.device is None else [self.device]
                engine = open_engine(checkpoint, devices, self.engine, self.dtype)
                if self.confidence is None:
                    folder = None if self.document_store is None else self.document_store.folder
                    self.confidence = confidence_of(checkpoint, folder)
                self._loaded = _Loaded(tokenizer, engine)
            return self._loaded

    @component.output_types(answers=list[ExtractedAnswer], answers_per_query=list[list[ExtractedAnswer]])
    def run(
        self,
        query: str | None = None,
        documents: list[Document] | None = None,
        queries: list[str] | None = None,
        documents_per_query: list[list[Document]] | None = None,
        top_k: int | None = None,
        no_answer: bool | None = None,
        null_threshold: float | None = None,
    ) -> dict[str, Any]:
        """Read one question's passages, or many questions', all in the same batches.

        :param query: with `documents` gives `answers`, best first.
        :param queries: with `documents_per_query`, one list a question, gives `answers_per_query`.
        :returns: answers with the exact text in `data`, a probability in `score`, the passage in `document`, offsets in it
            in `document_offset`, the sentences around the answer in `context`, the answer's offsets in them in
            `context_offset`; meta holds `page_number`, `retrieval_score` and `places`, every place where an answer of equal
            text was found, among the `MAX_SPANS` best spans.
        :raises QueryError: if a question is blank, or too long for a window.
        :raises ValueError: if there is no question, or not one list of passages a question.
        """
        if query is None and queries is None:
            raise ValueError("MiniLMReader needs a query or a list of queries; both are None.")
        asked = [*([] if query is None else [query]), *(queries or [])]
        given = [*([] if query is None else [documents or []]), *(documents_per_query or [])]
        if len(asked) != len(given):
            raise ValueError(
                f"{len(queries or [])} queries need as many lists of documents, not {len(documents_per_query or [])}."
            )
        options = top_k, no_answer, null_threshold
        answers = self._answers([self._asked(q, docs, *options) for q, docs in zip(asked, given, strict=True)])
        outputs: dict[str, Any] = {} if query is None else {"answers": answers[0]}
        return outputs if queries is None else outputs | {"answers_per_query": answers[len(answers) - len(queries) :]}

    @component.output_types(answers=list[ExtractedAnswer], answers_per_query=list[list[ExtractedAnswer]])
    async def run_async(
        self,
        query: str | None = None,
        documents: list[Document] | None = None,
        queries: list[str] | None = None,
        documents_per_query: list[list[Document]] | None = None,
        top_k: int | None = None,
        no_answer: bool | None = None,
        null_threshold: float | None = None,
    ) -> dict[str, Any]:
        """`run` in a thread, so that the event loop goes on; single questions asked at the same time share their batches."""
        if query is None or queries is not None or documents_per_query is not None:
            arguments = (query, documents, queries, documents_per_query, top_k, no_answer, null_threshold)
            return await asyncio.to_thread(self.run, *arguments)
        asked = self._asked(query, documents or [], top_k, no_answer, null_threshold)
        if self._loaded is None:
            await asyncio.to_thread(self._load)  # if it fails, it fails once for each who asks
        return {"answers": await asyncio.wrap_future(self._batcher.submit(asked))}

    def _asked(
        self,
        query: str,
        documents: Sequence[Document],
        top_k: int | None,
        no_answer: bool | None,
        null_threshold: float | None,
    ) -> _Asked:
        top_k = self.top_k if top_k is None else top_k
        if top_k < 0:
            raise ValueError(f"top_k must be at least 0, not {top_k}.")
        check_query(query)
        no_answer = self.no_answer if no_answer is None else no_answer
        return _Asked(query, documents, top_k, no_answer, null_threshold)

    def _answers(self, asked: Sequence[_Asked]) -> list[list[ExtractedAnswer]]:
        """Each question's answers; questions share batches, up to so many passages that memory stays bounded."""
        tokenizer, engine = self._load()
        default = self.default_null_threshold
        questions = [tokens.ids for tokens in tokenizer.encode([one.query.strip() for one in asked])]
        for one, question in zip(asked, questions, strict=True):  # whether there are passages or not
            try:
                passage_capacity(len(question), tokenizer.template.n_special, self.max_seq_len)
            except QueryError as error:
                raise QueryError(f"{one.query[:60]!r} ...: {error}") from None
        answers = []
        for group in _groups([len(one.documents) for one in asked]):
            candidates = self._read(questions[group], [one.documents for one in asked[group]], tokenizer, engine)
            for one, found in zip(asked[group], candidates, strict=True):
                threshold = default if one.null_threshold is None else one.null_threshold
                answers.append(rank_answers(one.query, found, one.top_k, one.no_answer, threshold, self.confidence))
        return answers

    def _read(
        self,
        questions: Sequence[NDArray[np.int32]],
        documents: Sequence[Sequence[Document]],
        tokenizer: PassageTokenizer,
        engine: Engine,
    ) -> list[list[Candidate]]:
        """Every question's spans in its passages, in the passages' order."""
        pairs = [
            (q, document, prior)
            for q, docs in enumerate(documents)
            for document, prior in zip(docs, priors(docs, self.retrieval_weight), strict=True)
            if document.content and document.content.strip()
        ]
        passages = self._passage_tokens([document for _, document, _ in pairs], tokenizer)
        of_pairs = [questions[q] for q, _, _ in pairs]
        pair, margin, start, end = read_pairs(
            of_pairs,
            passages,
            tokenizer,
            engine,
            max_seq_len=self.max_seq_len,
            stride=self.stride,
            batch_tokens=self.batch_tokens,
            max_answer_tokens=self.max_answer_tokens,
            spans_per_window=self.spans_per_window,
        )
        question = np.array([q for q, _, _ in pairs], np.int32)[pair]
        candidates: list[list[Candidate]] = [[] for _ in questions]
        for i in _best_of_each(question, margin, MAX_SPANS):
            query_index, document, prior = pairs[pair[i]]
            offsets = passages[pair[i]].offsets
            bounds = trimmed(document.content or "", int(offsets[start[i], 0]), int(offsets[end[i] - 1, 1]))
            candidate = Candidate(document, *bounds, float(margin[i]), prior)
            # A heading and the words below it are no answer, though the model, which sees no line breaks, may think so.
            if candidate.text and "\n\n" not in candidate.text:
                candidates[query_index].append(candidate)
        return candidates

    def _passage_tokens(self, documents: Sequence[Document], tokenizer: PassageTokenizer) -> list[Tokens]:
        """Stored tokens where the store has them, fresh ones for the rest; a passage of several questions counts once."""
        unique = list({document.content: document for document in documents}.values())
        stored = (
            [None] * len(unique)
            if self.document_store is None
            else self.document_store.tokens(unique, tokenizer.fingerprint)
        )
        missing = [d.content or "" for d, tokens in zip(unique, stored, strict=True) if tokens is None]
        fresh = iter(tokenizer.encode(missing))
        by_content = {d.content: tokens or next(fresh) for d, tokens in zip(unique, stored, strict=True)}
        return [by_content[document.content] for document in documents]


def _groups(sizes: Sequence[int]) -> Iterator[slice]:
    """Neighbouring questions with at most `PASSAGES_AT_ONCE` passages together, or a single question."""
    first = together = 0
    for i, size in enumerate(sizes):
        if i > first and together + size > PASSAGES_AT_ONCE:
            yield slice(first, i)
            first, together = i, 0
        together += size
    yield slice(first, len(sizes))


def _best_of_each(question: NDArray[np.int32], margin: NDArray[np.float32], n: int) -> NDArray[np.intp]:
    """Where the n largest margins of each question are, in their old order. question: (S,) ascending. margin: (S,)."""
    best_first = np.lexsort((-margin, question))
    rank = np.arange(len(question)) - np.searchsorted(question, question)
    return np.sort(best_first[rank < n])
