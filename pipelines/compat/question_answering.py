"""Transformers 4's `pipeline("question-answering")`, which Transformers 5 has no more."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from needle.components.engines import EngineName
from needle.components.hugging_face import save_hugging_face
from needle.components.legacy_scores import span_probabilities
from needle.components.spans import best_spans
from needle.components.window_logits import Passage, WindowReader, WordTokenizer
from needle.pipelines.compat.options import device_names, dtype_name, hub_token
from needle.pipelines.compat.squad_examples import SquadExample, example, examples_of

TASK = "question-answering"

#: Examples of a generator that are read together.
_TOGETHER = 64

#: A span of a window. window: where it starts in the passage. start, last: tokens of the passage, the last one included.
_SPAN = np.dtype([("pair", "i4"), ("window", "i4"), ("start", "i4"), ("last", "i4"), ("score", "f4")])


class Found(TypedDict):
    """start, end: half-open character offsets in the context. answer: "" at (0, 0) says that there is none."""

    score: float
    start: int
    end: int
    answer: str


@dataclass(frozen=True)
class Options:
    """What a call may set, and `pipeline` for all calls; see `QuestionAnsweringPipeline.__call__`."""

    top_k: int = 1
    max_answer_len: int = 15
    max_seq_len: int | None = None
    doc_stride: int | None = None
    handle_impossible_answer: bool = False
    align_to_words: bool = True
    batch_size: int | None = None
    max_question_len: Any = None
    padding: Any = None
    num_workers: Any = None

    def changed(self, given: Mapping[str, Any]) -> Options:
        """
        :param given: None leaves an option as it is.
        :raises TypeError: for an unknown one. ValueError: for a number that makes no sense.
        """
        names = {"topk": "top_k"}  # as it was called before
        options = {names.get(name, name): value for name, value in given.items() if value is not None}
        if unknown := options.keys() - {field.name for field in fields(self)}:
            raise TypeError(f"The {TASK} pipeline has no parameter {', '.join(sorted(unknown))}.")
        for name, least in (("top_k", 1), ("max_answer_len", 1), ("max_seq_len", 1), ("doc_stride", 0), ("batch_size", 1)):
            if name in options and options[name] < least:
                raise ValueError(f"{name} must be at least {least}, not {options[name]}.")
        return replace(self, **options)


def pipeline(
    task: str | None = None,
    model: Any = None,
    config: None = None,
    tokenizer: Any = None,
    *,
    framework: str | None = None,
    revision: str | None = None,
    use_fast: bool = True,
    token: str | bool | None = None,
    use_auth_token: str | bool | None = None,
    device: Any = None,
    device_map: Any = None,
    torch_dtype: Any = None,
    dtype: Any = None,
    trust_remote_code: bool | None = None,
    engine: EngineName | None = None,
    **options: Any,
) -> QuestionAnsweringPipeline:
    """What `transformers.pipeline("question-answering", ...)` was, on needle's engines.

    :param model: a folder, a hub id, or a model of transformers' with its tokenizer; left out, it is the reader that needle
        ships. tokenizer: likewise, or one of transformers' fast tokenizers; left out, the model's own.
    :param device: -1 or "cpu", 0 or "cuda:0", a torch.device ...; left out, all GPUs that there are, or the CPU.
    :param engine, dtype (or torch_dtype): as for `MiniLMReader`. Left out, the fastest is taken, which computes in int8 on a
        CPU: scores are then near those of float32, not equal to them.
    :param use_fast: needle's tokenizers always are. options: those of a call, for all calls.
    :raises ValueError: for another task, and for what needle can make no use of.
    :raises ModelError: at the first call, if the model can't be had.
    """
    if task != TASK:
        told = "none is named" if task is None else f"{task!r} is not its"
        raise ValueError(f"needle's pipeline has one task, {TASK!r}; {told}. Others are in transformers.pipeline.")
    if config is not None or framework not in (None, "pt") or trust_remote_code:
        raise ValueError(
            "needle's pipeline takes no config, no framework but 'pt' and no code from the hub; leave them out."
        )
    own: tempfile.TemporaryDirectory[str] | None = None
    if not isinstance(model, str | Path | None):
        if not hasattr(model, "save_pretrained"):
            raise ValueError(f"model must be a folder, a hub id or a model of transformers', not a {type(model).__name__}.")
        if tokenizer is None:
            raise ValueError("Give the tokenizer of your model, too.")
        own = tempfile.TemporaryDirectory(prefix="needle-model-")
        model.save_pretrained(own.name)
        model = own.name
    if tokenizer is not None and not isinstance(tokenizer, str | Path):
        if not hasattr(tokenizer, "backend_tokenizer"):
            raise ValueError(f"tokenizer must be a folder, a hub id or a fast tokenizer, not a {type(tokenizer).__name__}.")
        tokenizer = WordTokenizer(tokenizer.backend_tokenizer)
    reader = WindowReader(
        model,
        tokenizer,
        device_names(device, device_map),
        engine,
        dtype_name(torch_dtype if dtype is None else dtype),
        revision,
        hub_token(use_auth_token if token is None else token),
    )
    return QuestionAnsweringPipeline(reader, Options().changed(options), own)


class QuestionAnsweringPipeline:
    """Made by `pipeline`. Called as Transformers 4's was, it gives what that gave: a dict, or a list of dicts.

    Scores follow its formula (`legacy_scores.span_probabilities`), so that thresholds keep their meaning. It differs where
    the old one was wrong:

    - an answer that several windows of a long context showed got the sum of its scores, which could exceed 1; it gets the
      highest that a window gives it;
    - its place was that in the first window that showed it, however unlikely there; it is the likeliest one;
    - a window's edge could cut a word, and with it the answers that are aligned to words; words are whole;
    - in short contexts impossible spans, of score 0, filled the list up to top_k; they are left out;
    - a doc_stride that leaves no room beside a long question was an error of the tokenizer; windows then move by one token.

    As it was, and one may wonder: `max_question_len` has no effect (it had none with fast tokenizers), nor have `padding`
    and `num_workers`; `batch_size` is the most windows in a batch.
    """

    task = TASK

    def __init__(self, reader: WindowReader, options: Options | None = None, folder: Any = None):
        """
        :param folder: where the model lies, if it is to go with the pipeline.
        """
        self._reader = reader
        self._options = options or Options()
        self._folder = folder

    @staticmethod
    def create_sample(question: Any, context: Any) -> Any:
        """A SquadExample; of two lists, a list of them."""
        if isinstance(question, list):
            return [SquadExample(q, c) for q, c in zip(question, context, strict=True)]
        return SquadExample(question, context)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Answer questions: `(question=..., context=...)`, each a text or a list, `({"question": ..., "context": ...})`, a
        list or a generator of such dicts or of SquadExamples, or `(question, context)`.

        :param top_k: most answers to a question. max_answer_len: in tokens.
        :param max_seq_len: tokens of a window, question included; by default 384, or what the model takes. doc_stride:
            tokens that neighbouring windows share; by default 128, or half of a shorter window.
        :param handle_impossible_answer: whether "no answer" is one of the answers: "" at (0, 0).
        :param align_to_words: whether answers are whole words.
        :returns: for one question its answer, a dict of score, start, end and answer, or a list of such dicts if there are
            several; for several questions a list of these, for a generator a generator.
        :raises ValueError: if the arguments can't be understood, a text is empty, or a question leaves its context no room.
        """
        data: dict[str, Any] = {name: kwargs.pop(name) for name in ("question", "context", "data", "X") if name in kwargs}
        options = self._options.changed(kwargs)
        examples = examples_of(args, data)
        if isinstance(examples, Iterator):
            return self._streamed(examples, options)
        answers = self._answers(examples, options)
        return answers[0] if len(answers) == 1 else answers

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write the model, in Hugging Face format.

        :raises ModelError: if it can't be written.
        """
        checkpoint, _, _ = self._reader.load()
        save_hugging_face(checkpoint, save_directory)

    def _streamed(self, examples: Iterator[Any], options: Options) -> Iterator[Any]:
        while together := [example(one) for one in islice(examples, _TOGETHER)]:
            yield from self._answers(together, options)

    def _answers(self, examples: Sequence[SquadExample], options: Options) -> list[Any]:
        if not examples:
            return []
        passages = self._reader.passages([one.context_text for one in examples])
        spans, null = self._spans([one.question_text for one in examples], passages, options)
        ends = np.searchsorted(spans["pair"], np.arange(len(examples)), side="right")
        results: list[Any] = []
        for one, passage, own, null_score in zip(examples, passages, np.split(spans, ends[:-1]), null.tolist(), strict=True):
            answers = merged(own, passage.words if options.align_to_words else passage.tokens.offsets, one.context_text)
            if options.handle_impossible_answer or not answers:
                score = null_score if options.handle_impossible_answer else 0.0
                answers.append({"score": score, "start": 0, "end": 0, "answer": ""})
            best = sorted(answers, key=lambda answer: -answer["score"])[: options.top_k]
            results.append(best[0] if len(best) == 1 else best)
        return results

    def _spans(
        self, questions: Sequence[str], passages: Sequence[Passage], options: Options
    ) -> tuple[NDArray[np.void], NDArray[np.float32]]:
        """The best spans of each window, by pair, window and score, and each pair's "no answer", which is 1 without text."""
        max_seq_len = options.max_seq_len or self._reader.usual_seq_len
        overlap = min(max_seq_len // 2, 128) if options.doc_stride is None else options.doc_stride
        if overlap > max_seq_len:
            raise ValueError(f"doc_stride ({overlap}) must not be larger than max_seq_len ({max_seq_len}).")
        null = np.ones(len(questions), np.float32)
        parts = [np.empty(0, _SPAN)]
        batches = self._reader.read(questions, passages, max_seq_len, overlap=overlap, batch_windows=options.batch_size)
        for batch, start_logits, end_logits in batches:
            found = best_spans(start_logits, end_logits, batch, options.max_answer_len, spans_per_window(options))
            probability, null_probability = span_probabilities(start_logits, end_logits, batch, found)
            np.minimum.at(null, batch.windows["pair"], null_probability)
            row, nth = np.nonzero(np.isfinite(found.score))
            part, shift = np.empty(len(row), _SPAN), (batch.windows["start_token"] - batch.passage_start)[row]
            part["pair"], part["window"] = batch.windows["pair"][row], batch.windows["start_token"][row]
            part["start"], part["last"] = found.start[row, nth] + shift, found.end[row, nth] + shift - 1
            part["score"] = probability[row, nth]
            parts.append(part)
        spans = np.concatenate(parts)
        return spans[np.lexsort((-spans["score"], spans["window"], spans["pair"]))], null


def spans_per_window(options: Options) -> int:
    """How many of a window's spans were merged; more where alignment gives several the same words."""
    return 2 * options.top_k + 10 if options.align_to_words else options.top_k


def merged(spans: NDArray[np.void], bounds: NDArray[np.int32], text: str) -> list[Found]:
    """A pair's spans -> its answers, one for each text, whatever its case.

    Spans of one window that give the same text exclude each other, so that their probabilities add up; of several windows
    the one that is surest of a text counts.

    :param spans: (m,) of `_SPAN`, by window and score. bounds: (n, 2), where each token stands in the text, or its word.
    """
    starts, ends = bounds[spans["start"], 0].tolist(), bounds[spans["last"], 1].tolist()
    rows = zip(spans["window"].tolist(), spans["score"].tolist(), starts, ends, strict=True)
    best: dict[str, Found] = {}
    for _, window in groupby(rows, key=lambda row: row[0]):
        answers: dict[str, Found] = {}
        for _, score, start, end in window:  # best first: an answer's place is that of its likeliest span
            answer: Found = {"score": 0.0, "start": start, "end": end, "answer": text[start:end]}
            answers.setdefault(answer["answer"].lower(), answer)["score"] += score
        for key, answer in answers.items():
            if key not in best or answer["score"] > best[key]["score"]:
                best[key] = answer
    return list(best.values())
