"""Haystack 1's TransformersReader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from haystack import Document, component

from needle.components.engines import EngineName
from needle.components.window_logits import WindowReader
from needle.pipelines.compat.answers import Answer, answer_at, margins_around
from needle.pipelines.compat.options import farm_devices, hub_token
from needle.pipelines.compat.predicting import Predicting
from needle.pipelines.compat.question_answering import QuestionAnsweringPipeline


@component
class TransformersReader(Predicting):
    """What `haystack.nodes.TransformersReader` was, on needle's engines; also a component of Haystack 3 pipelines.

    Answers are those of `pipeline("question-answering")` on each document, with its mends (`QuestionAnsweringPipeline`), as
    Haystack 3's `ExtractedAnswer`s, which have Haystack 1's attributes as well; "no answer" has data None. It differs:

    - the score of "no answer" rose as the model was surer of an answer, and always was within 0.47 ... 0.56. It is best
      answer - max over documents of (its best answer - its "no answer"): a probability like the others, at least 0;
    - a document's answers of equal text are one, as in Transformers 4.57; Haystack 1 ran on versions that repeated them;
    - documents without text are passed over; without any, "no answer" has the score 1.

    Answers have at most 15 tokens, as they had.
    """

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        model_version: str | None = None,
        tokenizer: str | None = None,
        context_window_size: int = 70,
        use_gpu: bool = True,
        top_k: int = 10,
        top_k_per_candidate: int = 3,
        return_no_answers: bool = False,
        max_seq_len: int = 256,
        doc_stride: int = 128,
        batch_size: int = 16,
        use_auth_token: str | bool | None = None,
        devices: list[Any] | None = None,
        engine: EngineName | None = None,
        model: str | Path | None = None,
    ):
        """
        :param model_name_or_path, or model: a folder or a hub id; None for the reader that needle ships. tokenizer: None for
            the model's own.
        :param context_window_size: characters of the context on each side of an answer.
        :param use_gpu: False for the CPU. devices: torch devices; None for all GPUs that there are.
        :param top_k: most answers to a question, and of a document (top_k_per_candidate).
        :param max_seq_len: tokens of a window. doc_stride: tokens that neighbouring windows share.
        :param batch_size: most windows in a batch. engine: as for `MiniLMReader`.
        :raises ValueError: for what makes no sense.
        """
        if model is not None and model_name_or_path is not None:
            raise ValueError(f"Give model ({model!r}) or model_name_or_path ({model_name_or_path!r}), not both.")
        name = model_name_or_path if model is None else model
        self.model_name_or_path = None if name is None else str(name)
        self.model_version, self.tokenizer = model_version, tokenizer
        self.context_window_size = context_window_size
        self.use_gpu, self.devices = use_gpu, None if devices is None else [str(device) for device in devices]
        self.top_k, self.top_k_per_candidate = top_k, top_k_per_candidate
        self.return_no_answers = return_no_answers
        self.max_seq_len, self.doc_stride = max_seq_len, doc_stride
        self.batch_size = batch_size
        self.use_auth_token = use_auth_token
        self.engine = engine
        self.model = None
        where, token = farm_devices(use_gpu, self.devices), hub_token(use_auth_token)
        self._reader = WindowReader(self.model_name_or_path, tokenizer, where, engine, None, model_version, token)
        self._pipeline = QuestionAnsweringPipeline(self._reader)

    def warm_up(self) -> None:
        """Load the model.

        :raises ModelError: if it can't be had.
        """
        self._reader.load()

    def predict(self, query: str, documents: Sequence[Document], top_k: int | None = None) -> dict[str, Any]:
        """:returns: `query` and `answers`, best first."""
        [(answers, _)] = self._predicted([query], [documents], top_k)
        return {"query": query, "answers": answers}

    def _predicted(
        self,
        queries: Sequence[str],
        documents: Sequence[Sequence[Document]],
        top_k: int | None,
        batch_size: int | None = None,
    ) -> list[tuple[list[Answer], float]]:
        """Each question's answers, and its gap: of all documents the most that the best answer is above "no answer"."""
        if len(queries) != len(documents):
            raise ValueError(f"{len(queries)} queries need as many lists of documents, not {len(documents)}.")
        top_k = self.top_k if top_k is None else top_k
        texts = [[d for d in docs if d.content and d.content.strip()] for docs in documents]
        examples = [{"question": q, "context": d.content} for q, docs in zip(queries, texts, strict=True) for d in docs]
        found = self._pipeline(
            examples,
            top_k=self.top_k_per_candidate,
            handle_impossible_answer=self.return_no_answers,
            max_seq_len=self.max_seq_len,
            doc_stride=self.doc_stride,
            batch_size=self.batch_size if batch_size is None else batch_size,
        )
        per_document = iter([found] if len(examples) == 1 else found)
        results = []
        for query, docs in zip(queries, texts, strict=True):
            answers, gaps = list[Answer](), list[float]()
            for document in docs:
                one = next(per_document)
                rows = one if isinstance(one, list) else [one]
                own = [self._answer(query, document, row) for row in rows if row["answer"]]
                null = max((row["score"] for row in rows if not row["answer"]), default=0.0)
                gaps.append(max((answer.score for answer in own), default=0.0) - null)
                answers += own
            gap = max(gaps, default=-1.0)
            null = max(0.0, max((answer.score for answer in answers), default=0.0) - gap)
            if self.return_no_answers:
                answers.append(Answer(query=query, score=null))
            results.append((sorted(answers, key=lambda answer: -answer.score)[:top_k], gap))
        return results

    def _answer(self, query: str, document: Document, row: dict[str, Any]) -> Answer:
        context = margins_around(row["start"], row["end"], self.context_window_size, len(document.content or ""))
        return answer_at(query, row["score"], document, (row["start"], row["end"]), context, dict(document.meta))
