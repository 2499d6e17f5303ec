"""Haystack 1's FARMReader."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from haystack import Document, component

from needle.components.engines import EngineName
from needle.components.hugging_face import save_hugging_face
from needle.components.legacy_scores import farm_no_answer
from needle.components.window_logits import WindowReader
from needle.pipelines.compat.answers import Answer
from needle.pipelines.compat.farm_evaluation import FarmEvaluation
from needle.pipelines.compat.farm_reading import DocumentAnswers, FarmOptions, drop_shared, read_documents
from needle.pipelines.compat.farm_training import FarmTraining
from needle.pipelines.compat.options import dtype_name, farm_devices, hub_token
from needle.pipelines.compat.predicting import Predicting

#: In config.json, where `save` keeps what `calibrate_confidence_scores` found.
_TEMPERATURE = "temperature_for_confidence"


@component
class FARMReader(Predicting, FarmTraining, FarmEvaluation):
    """What `haystack.nodes.FARMReader` was, on needle's engines; also a component of Haystack 3 pipelines.

    Answers are Haystack 3's `ExtractedAnswer`s, with Haystack 1's attributes as well (`compat.Answer`); "no answer" has data
    None. Scores are FARM's (`legacy_scores`). It differs where the old one was wrong:

    - "no answer" was measured against at least 0: against the best span also where all scores are negative, now;
    - confidences depended on the padding up to max_seq_len, which counted as tokens; it does not count, or exist;
    - an answer that overlapping documents (`_split_overlap`) share crashed the reader; the surer one stays. `predict_batch`
      did not look for them, nor tell the page; it does both;
    - documents without text are passed over, in every method; without any, "no answer" has the score 1;
    - a doc_stride that leaves gaps beside a long question was an error; windows then follow each other.

    As it was, and one may wonder: `no_ans_boost` moves "no answer", not the confidences of spans; by confidence "no answer"
    is above many right answers, so that `use_confidence_scores=False` ranks it better; `doc_stride` is the distance of
    windows, not what they share.
    """

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        model_version: str | None = None,
        context_window_size: int = 150,
        batch_size: int = 50,
        use_gpu: bool = True,
        devices: list[Any] | None = None,
        no_ans_boost: float = 0.0,
        return_no_answer: bool = False,
        top_k: int = 10,
        top_k_per_candidate: int = 3,
        top_k_per_sample: int = 1,
        num_processes: int | None = None,
        max_seq_len: int = 256,
        doc_stride: int = 128,
        progress_bar: bool = True,
        duplicate_filtering: int = 0,
        use_confidence_scores: bool = True,
        confidence_threshold: float | None = None,
        proxies: dict[str, str] | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        use_auth_token: str | bool | None = None,
        max_query_length: int = 64,
        preprocessing_batch_size: int | None = None,
        model_kwargs: dict[str, Any] | None = None,
        engine: EngineName | None = None,
    ):
        """
        :param model_name_or_path: a folder or a hub id; None for the reader that needle ships. model_version: a revision.
        :param context_window_size: characters of an answer's context.
        :param batch_size: most windows in a batch.
        :param use_gpu: False for the CPU. devices: torch devices; None for all GPUs that there are.
        :param no_ans_boost: added to the score of "no answer". return_no_answer: whether it is among the answers.
        :param top_k: most answers to a question, of a document (top_k_per_candidate), of a window (top_k_per_sample).
        :param max_seq_len: tokens of a window. doc_stride: from the start of one to the start of the next.
        :param duplicate_filtering: spans of a window start, and end, more than so many tokens apart; -1: anyhow.
        :param use_confidence_scores: whether answers are scored and ranked by confidence or by the sum of their logits.
        :param confidence_threshold: answers of a lower score are left out.
        :param max_query_length: tokens of a question that are read.
        :param model_kwargs: {"torch_dtype": ...}. engine: as for `MiniLMReader`.
        :param num_processes, progress_bar, proxies, force_download, preprocessing_batch_size: without effect.
        :raises ValueError: for what makes no sense.
        """
        at_least = {"top_k": top_k, "top_k_per_candidate": top_k_per_candidate, "top_k_per_sample": top_k_per_sample}
        at_least |= {"batch_size": batch_size, "doc_stride": doc_stride, "max_query_length": max_query_length}
        for name, value in at_least.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}.")
        if unknown := (model_kwargs or {}).keys() - {"torch_dtype", "dtype"}:
            raise ValueError(f"Of model_kwargs needle takes only torch_dtype, not {', '.join(sorted(unknown))}.")
        self.model_name_or_path = None if model_name_or_path is None else str(model_name_or_path)
        self.model_version = model_version
        self.context_window_size = context_window_size
        self.batch_size = batch_size
        self.use_gpu, self.devices = use_gpu, None if devices is None else [str(device) for device in devices]
        self.no_ans_boost = no_ans_boost
        self.return_no_answer = return_no_answer
        self.top_k, self.top_k_per_candidate, self.top_k_per_sample = top_k, top_k_per_candidate, top_k_per_sample
        self.num_processes = num_processes
        self.max_seq_len, self.doc_stride, self.max_query_length = max_seq_len, doc_stride, max_query_length
        self.progress_bar = progress_bar
        self.duplicate_filtering = duplicate_filtering
        self.use_confidence_scores, self.confidence_threshold = use_confidence_scores, confidence_threshold
        self.proxies, self.local_files_only, self.force_download = proxies, local_files_only, force_download
        self.use_auth_token = use_auth_token
        self.preprocessing_batch_size = preprocessing_batch_size
        self.model_kwargs = model_kwargs
        self.engine = engine
        self._open()

    def _open(self) -> None:
        kwargs = self.model_kwargs or {}
        dtype = dtype_name(kwargs.get("dtype", kwargs.get("torch_dtype")))
        where = farm_devices(self.use_gpu, self.devices)
        token, local = hub_token(self.use_auth_token), self.local_files_only
        self._reader = WindowReader(
            self.model_name_or_path, None, where, self.engine, dtype, self.model_version, token, local
        )
        self._temperature: float | None = None

    @property
    def temperature(self) -> float:
        """What logits are divided by: 1, or what `calibrate_confidence_scores` found, also if it was saved."""
        if self._temperature is None:
            checkpoint, _, _ = self._reader.load()
            self._temperature = float(checkpoint.config.get(_TEMPERATURE, 1.0))
        return self._temperature

    def warm_up(self) -> None:
        """Load the model.

        :raises ModelError: if it can't be had.
        """
        self._reader.load()

    def update_parameters(self, **parameters: Any) -> None:
        """Set context_window_size, no_ans_boost, return_no_answer, max_seq_len, doc_stride; None leaves one as it is."""
        known = {"context_window_size", "no_ans_boost", "return_no_answer", "max_seq_len", "doc_stride"}
        if unknown := parameters.keys() - known:
            raise ValueError(f"These can be updated: {', '.join(sorted(known))}; not {', '.join(sorted(unknown))}.")
        for name, value in parameters.items():
            if value is not None:
                setattr(self, name, value)

    def save(self, directory: str | Path) -> None:
        """Write the model, in Hugging Face format, with the temperature.

        :raises ModelError: if it can't be written.
        """
        checkpoint, _, _ = self._reader.load()
        save_hugging_face(checkpoint, directory, {_TEMPERATURE: self.temperature})

    def predict(self, query: str, documents: Sequence[Document], top_k: int | None = None) -> dict[str, Any]:
        """:returns: `query`, `answers`, best first, and `no_ans_gap`, the boost at which "no answer" would win, or lose."""
        [(answers, gap)] = self._predicted([query], [documents], top_k)
        return {"query": query, "no_ans_gap": gap, "answers": answers}

    def predict_on_texts(self, question: str, texts: Iterable[str], top_k: int | None = None) -> dict[str, Any]:
        """`predict`, on Documents made of the texts."""
        return self.predict(question, [Document(content=text) for text in texts], top_k)

    def _predicted(
        self,
        queries: Sequence[str],
        documents: Sequence[Sequence[Document]],
        top_k: int | None,
        batch_size: int | None = None,
    ) -> list[tuple[list[Answer], float]]:
        """Each question's answers, and its gap."""
        if len(queries) != len(documents):
            raise ValueError(f"{len(queries)} queries need as many lists of documents, not {len(documents)}.")
        top_k = self.top_k if top_k is None else top_k
        read = self._read([(q, d) for q, docs in zip(queries, documents, strict=True) for d in docs], batch_size)
        results, first = [], 0
        for query, docs in zip(queries, documents, strict=True):
            found = [one for one in read[first : first + len(docs)] if one is not None]
            first += len(docs)
            drop_shared(found)
            answers = [answer for one in found for answer in one.answers[: self.top_k_per_candidate]]
            best = max((score for one in found for score in one.scores), default=0.0)
            score, confidence, gap = farm_no_answer(best, [one.gap for one in found])
            if self.return_no_answer:
                answers.append(Answer(query=query, score=confidence if self.use_confidence_scores else score))
            answers = sorted(answers, key=lambda answer: -answer.score)[:top_k]
            if self.confidence_threshold is not None:
                answers = [answer for answer in answers if answer.score >= self.confidence_threshold]
            results.append((answers, gap))
        return results

    def _read(self, pairs: Sequence[tuple[str, Document]], batch_size: int | None = None) -> list[DocumentAnswers | None]:
        """Each pair's answers; None where a document has no text."""
        options = {name: getattr(self, name) for name in FarmOptions._fields}
        if batch_size is not None:
            options["batch_size"] = batch_size
        return read_documents(self._reader, pairs, FarmOptions(**options))
