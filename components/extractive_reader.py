"""The extractive reader of Haystack 2 and of transformers-haystack, for pipelines in YAML that name it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from haystack import Document, ExtractedAnswer, component, default_from_dict, default_to_dict
from haystack.utils import ComponentDevice, Secret

from needle.components.answers import Candidate, place_of
from needle.components.engines import DType, EngineName
from needle.components.legacy_scores import independent_probability, overlap_share
from needle.components.passages import first_page, trimmed
from needle.components.spans import best_spans
from needle.components.window_logits import WindowReader

#: The model hub's token, from the environment.
_TOKEN = Secret.from_env_var(["HF_API_TOKEN", "HF_TOKEN"], strict=False)

#: Spans of a window that may become answers, unless told otherwise.
_ANSWERS_PER_SEQ = 20


class _Place(NamedTuple):
    """A span. document: which one. start, end: half-open character offsets in it."""

    score: float
    document: int
    start: int
    end: int


@component
class TransformersExtractiveReader:
    """What `haystack_integrations.components.readers.transformers.TransformersExtractiveReader` 2.0 is, and Haystack 2's
    `ExtractiveReader` was, on needle's engines: the same parameters, inputs, answers and scores.

    A span's score is 1 / (1 + exp(-calibration_factor (start + end logit))), whatever else its passage holds; that of "no
    answer" the product of 1 - score over the answers kept. It differs where that one is wrong:

    - BERT-like models are told which tokens are the question's (token type ids); there they were not, and answered worse;
    - documents without text (content None, "" or blank) are passed over; they were errors;
    - 0 is a value: top_k=0, score_threshold=0 or overlap_threshold=0 in a call win over the component's;
    - answers_per_seq may exceed the number of spans in a window;
    - batches on a GPU can be several.

    A model left out is the reader that needle ships. `MiniLMReader` has calibrated scores, the model's own "no answer", and
    many questions in a batch.
    """

    def __init__(
        self,
        model: Path | str | None = None,
        device: ComponentDevice | None = None,
        token: Secret | None = _TOKEN,
        top_k: int = 20,
        score_threshold: float | None = None,
        max_seq_length: int = 384,
        stride: int = 128,
        max_batch_size: int | None = None,
        answers_per_seq: int | None = None,
        no_answer: bool = True,
        calibration_factor: float = 0.1,
        overlap_threshold: float | None = 0.01,
        model_kwargs: dict[str, Any] | None = None,
        engine: EngineName | None = None,
    ):
        """
        :param model: a folder or a hub id. token: of the model hub.
        :param top_k: most answers, "no answer" not counted. score_threshold: those of a lower score are left out.
        :param max_seq_length: tokens of a window. stride: tokens that neighbouring windows share.
        :param max_batch_size: most windows in a batch. answers_per_seq: spans of a window that may become answers, None: 20.
        :param overlap_threshold: of two answers that share more than this part of the shorter one, the better stays; None:
            both do.
        :param model_kwargs: torch_dtype (or dtype), device_map (one device, or "auto"). engine: as for `MiniLMReader`.
        :raises ValueError: for other model_kwargs.
        """
        if unknown := (model_kwargs or {}).keys() - {"torch_dtype", "dtype", "device_map"}:
            raise ValueError(f"Of model_kwargs needle takes torch_dtype and device_map, not {', '.join(sorted(unknown))}.")
        self.model = None if model is None else str(model)
        self.device = device
        self.token = token
        self.top_k = top_k
        self.score_threshold = score_threshold
        self.max_seq_length = max_seq_length
        self.stride = stride
        self.max_batch_size = max_batch_size
        self.answers_per_seq = answers_per_seq
        self.no_answer = no_answer
        self.calibration_factor = calibration_factor
        self.overlap_threshold = overlap_threshold
        self.model_kwargs = model_kwargs
        self.engine = engine
        self._reader: WindowReader | None = None

    def to_dict(self) -> dict[str, Any]:
        return default_to_dict(
            self,
            model=self.model,
            device=None if self.device is None else self.device.to_dict(),
            token=None if self.token is None else self.token.to_dict(),
            top_k=self.top_k,
            score_threshold=self.score_threshold,
            max_seq_length=self.max_seq_length,
            stride=self.stride,
            max_batch_size=self.max_batch_size,
            answers_per_seq=self.answers_per_seq,
            no_answer=self.no_answer,
            calibration_factor=self.calibration_factor,
            overlap_threshold=self.overlap_threshold,
            model_kwargs=self.model_kwargs,
            engine=self.engine,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TransformersExtractiveReader:
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        """Load the model.

        :raises ModelError: if it can't be had.
        """
        self._loaded().load()

    def _loaded(self) -> WindowReader:
        if self._reader is None:
            token = None if self.token is None else self.token.resolve_value()
            self._reader = WindowReader(self.model, None, self._devices(), self.engine, self._dtype(), token=token)
        return self._reader

    def _devices(self) -> list[str] | None:
        named = (self.model_kwargs or {}).get("device_map")
        if named is None and self.device is not None:
            named = self.device.to_hf()
        if isinstance(named, dict):
            named = named.get("") or next(iter(named.values()))
        if named is None or named in ("auto", "balanced"):
            return None
        return [f"cuda:{named}" if isinstance(named, int) else str(named)]

    def _dtype(self) -> DType | None:
        kwargs = self.model_kwargs or {}
        name = str(kwargs.get("dtype", kwargs.get("torch_dtype"))).removeprefix("torch.")
        dtype: DType | None = None if name in ("None", "auto") else name  # type: ignore[assignment]
        return dtype

    @component.output_types(answers=list[ExtractedAnswer])
    def run(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        score_threshold: float | None = None,
        max_seq_length: int | None = None,
        stride: int | None = None,
        max_batch_size: int | None = None,
        answers_per_seq: int | None = None,
        no_answer: bool | None = None,
        overlap_threshold: float | None = None,
    ) -> dict[str, Any]:
        """Answer a question from documents; parameters are those of the component, for this call.

        :returns: `answers`, best first, "no answer" (data None) among them; none if there are no documents.
        :raises QueryError: if the question is blank, or too long for a window.
        """
        if not documents:
            return {"answers": []}
        top_k = self.top_k if top_k is None else top_k
        threshold = self.score_threshold if score_threshold is None else score_threshold
        places = self._places(
            query,
            documents,
            self.max_seq_length if max_seq_length is None else max_seq_length,
            self.stride if stride is None else stride,
            self.max_batch_size if max_batch_size is None else max_batch_size,
            next(n for n in (answers_per_seq, self.answers_per_seq, _ANSWERS_PER_SEQ) if n is not None),
        )
        kept = without_overlaps(places, self.overlap_threshold if overlap_threshold is None else overlap_threshold, top_k)
        answers = [_answer(query, documents[place.document], place) for place in kept]
        if self.no_answer if no_answer is None else no_answer:
            answers.append(ExtractedAnswer(query=query, score=math.prod(1 - place.score for place in kept)))
        answers.sort(key=lambda answer: -answer.score)
        return {"answers": [answer for answer in answers if threshold is None or answer.score >= threshold]}

    def _places(
        self, query: str, documents: Sequence[Document], max_seq_length: int, stride: int, batch: int | None, n: int
    ) -> list[_Place]:
        """The n best spans of each window, best first, of equal ones the earlier document's."""
        at = [i for i, document in enumerate(documents) if document.content and document.content.strip()]
        reader = self._loaded()
        passages = reader.passages([documents[i].content or "" for i in at])
        places = []
        for windows, start_logits, end_logits in reader.read(
            [query] * len(at), passages, max_seq_length, overlap=stride, batch_windows=batch
        ):
            spans = best_spans(start_logits, end_logits, windows, start_logits.shape[1], n)
            scores = independent_probability(spans.score, self.calibration_factor)
            shift = windows.windows["start_token"] - windows.passage_start
            for row, nth in zip(*np.nonzero(np.isfinite(spans.score)), strict=True):
                pair = int(windows.windows["pair"][row])
                offsets = passages[pair].tokens.offsets
                first, last = spans.start[row, nth] + shift[row], spans.end[row, nth] + shift[row] - 1
                text = documents[at[pair]].content or ""
                start, end = trimmed(text, int(offsets[first, 0]), int(offsets[last, 1]))
                places.append(_Place(float(scores[row, nth]), at[pair], start, end))
        return sorted(places, key=lambda place: (-place.score, place.document, place.start, place.end))


@component
class ExtractiveReader(TransformersExtractiveReader):
    """`TransformersExtractiveReader` under the name that it had in Haystack 2."""


def without_overlaps(places: Sequence[_Place], threshold: float | None, top_k: int) -> list[_Place]:
    """The first top_k places, those left out that share more than `threshold` with a better one of the same document."""
    if threshold is None:
        return list(places[:top_k])
    kept: list[_Place] = []
    for place in places:
        if len(kept) >= top_k:
            break
        others = np.array([(k.start, k.end) for k in kept if k.document == place.document]).reshape(-1, 2)
        if not (overlap_share(place.start, place.end, others[:, 0], others[:, 1]) > threshold).any():
            kept.append(place)
    return kept


def _answer(query: str, document: Document, place: _Place) -> ExtractedAnswer:
    text = document.content or ""
    meta: dict[str, Any] = {"places": [place_of(Candidate(document, place.start, place.end, margin=0.0))]}
    if isinstance(document.meta.get("page_number"), int):
        meta["answer_page_number"] = first_page(document) + text[: place.start].count("\f")
    return ExtractedAnswer(
        query=query,
        score=place.score,
        data=text[place.start : place.end],
        document=document,
        document_offset=ExtractedAnswer.Span(place.start, place.end),
        meta=meta,
    )
