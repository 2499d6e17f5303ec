"""How good a FARMReader is, by needle's metrics, and the temperature of its confidences."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from needle.components.feedback import export_labels
from needle.components.legacy_scores import fit_temperature
from needle.components.metrics import AnswerScore, averages, top_n_score
from needle.components.store import SQLiteDocumentStore
from needle.components.windows import Batch
from needle.data.errors import NeedleError
from needle.data.squad import Question, read_squad

if TYPE_CHECKING:
    from haystack import Document

    from needle.components.window_logits import Passage, WindowReader
    from needle.pipelines.compat.farm_reading import DocumentAnswers


class FarmEvaluation:
    """FARMReader's `eval`, `eval_on_file` and `calibrate_confidence_scores`.

    Figures have the names that they had, in per cent. They differ in how answers are compared: as SQuAD's official script
    does, by their words, not by the ids of their tokens. `device` is without effect: the reader's own is used.
    """

    max_seq_len: int
    doc_stride: int
    max_query_length: int
    batch_size: int
    top_k_per_candidate: int
    use_confidence_scores: bool
    _reader: WindowReader
    _temperature: float | None

    if TYPE_CHECKING:

        def _read(self, pairs: Sequence[tuple[str, Document]]) -> list[DocumentAnswers | None]: ...

    def eval_on_file(
        self, data_dir: str | Path, test_filename: str, device: Any = None, calibrate_conf_scores: bool = False
    ) -> dict[str, float]:
        """Figures on a file in SQuAD's format; see `eval`.

        :raises UnreadableFile: if there is no such file, or it is of another format.
        """
        return self._evaluated(read_squad(Path(data_dir) / test_filename), calibrate_conf_scores)

    def eval(
        self,
        document_store: SQLiteDocumentStore,
        device: Any = None,
        label_index: str = "label",
        doc_index: str = "eval_document",
        label_origin: str = "gold-label",
        calibrate_conf_scores: bool = False,
    ) -> dict[str, float]:
        """Figures on the labels of a store (`needle label`, `QA.feedback`), each question asked of its own passage.

        :param label_index, doc_index, label_origin: without effect: a store has one set of labels.
        :param calibrate_conf_scores: set the temperature first, see `calibrate_confidence_scores`.
        :returns: `EM`, `f1` and `top_n_accuracy` (whether one of `top_n` answers shares a word with a right one), and the
            same for questions with an answer (`*_text_answer`) and without (`*_no_answer`); `reader_time` and
            `seconds_per_query`.
        :raises NeedleError: if the store has no label that tells what is right.
        """
        begun = time.perf_counter()
        questions = labelled(document_store)
        figures = self._evaluated(questions, calibrate_conf_scores)
        seconds = time.perf_counter() - begun
        return figures | {"reader_time": seconds, "seconds_per_query": seconds / len(questions)}

    def calibrate_confidence_scores(
        self,
        document_store: SQLiteDocumentStore,
        device: Any = None,
        label_index: str = "label",
        doc_index: str = "eval_document",
        label_origin: str = "gold_label",
    ) -> None:
        """Divide logits by the temperature under which the labels of a store are likeliest, from now on and after `save`.

        It is the best temperature; the old reader stopped after 50 steps on the way to it.

        :raises NeedleError: if no temperature can be told from them.
        """
        self._calibrate(labelled(document_store))

    def _evaluated(self, questions: Sequence[Question], calibrate: bool) -> dict[str, float]:
        from haystack import Document

        if calibrate:
            self._calibrate(questions)
        read = self._read([(question.question, Document(content=question.context)) for question in questions])
        top_n = self.top_k_per_candidate + 1
        ranked = [[""] if one is None else self._ranked(one) for one in read]
        answers = [question.answers for question in questions]
        answerable = [not question.is_impossible for question in questions]
        best = [top_n_score(texts, right, top_n) for texts, right in zip(ranked, answers, strict=True)]
        first = averages([top_n_score(t, right, 1) for t, right in zip(ranked, answers, strict=True)], answerable, 100)
        top = averages(best, answerable, 100)
        overlap = averages([AnswerScore(float(s.f1 > 0), float(s.f1 > 0)) for s in best], answerable, 100)
        figures: dict[str, float] = {"top_n": top_n}
        for part, suffix in (("", ""), ("has_answer_", "_text_answer"), ("no_answer_", "_no_answer")):
            for name, figure in (("EM", first.get(f"{part}exact_match")), ("f1", first.get(f"{part}f1"))):
                figures[name + suffix] = figure or 0.0
            figures[f"top_n_accuracy{suffix}"] = overlap.get(f"{part}f1", 0.0)
            if part:
                figures[f"Total{suffix}"] = first.get(f"{part}total", 0)
        figures["top_n_EM_text_answer"] = top.get("has_answer_exact_match", 0.0)
        figures["top_n_f1_text_answer"] = top.get("has_answer_f1", 0.0)
        return figures

    def _ranked(self, one: DocumentAnswers) -> list[str]:
        """A document's answers, "" for "no answer" among them, best first."""
        null = one.null[1] if self.use_confidence_scores else one.null[0]
        texts = [(-null, ""), *((-answer.score, answer.data or "") for answer in one.answers)]
        return [text for _, text in sorted(texts, key=lambda row: row[0])]

    def _calibrate(self, questions: Sequence[Question]) -> None:
        passages = self._reader.passages([question.context for question in questions])
        logits, labels = [], list[int]()
        for batch, *both in self._reader.read(
            [question.question for question in questions],
            passages,
            self.max_seq_len,
            step=self.doc_stride,
            max_question_len=self.max_query_length,
            batch_windows=self.batch_size,
        ):
            places = window_labels(batch, questions, passages)
            for side, of_windows in enumerate(both):
                logits += [row[:length] for row, length in zip(of_windows, batch.lengths, strict=True)]
                labels += places[:, side].tolist()
        try:
            self._temperature = fit_temperature(logits, labels)
        except ValueError as error:
            raise NeedleError(f"The confidence scores can't be calibrated: {error}") from error


def labelled(document_store: SQLiteDocumentStore) -> list[Question]:
    """The questions that a store's labels answer.

    :raises NeedleError: if there are none.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "labels.json"
        export_labels(document_store.labels(), file)
        questions = read_squad(file)
    if not questions:
        raise NeedleError("The store has no label that tells what is right. Make some with needle label, or QA.feedback.")
    return questions


def window_labels(batch: Batch, questions: Sequence[Question], passages: Sequence[Passage]) -> NDArray[np.int64]:
    """(B, 2) the first and last token of each window's question's first answer, or 0 ([CLS]) if it is not inside."""
    labels = np.zeros((len(batch.windows), 2), np.int64)
    for row, (pair, start, end, _) in enumerate(batch.windows.tolist()):
        question, offsets = questions[pair], passages[pair].tokens.offsets
        if question.answers:
            begins = question.answer_starts[0]
            first = int(np.searchsorted(offsets[:, 1], begins, side="right"))
            last = int(np.searchsorted(offsets[:, 0], begins + len(question.answers[0]), side="left")) - 1
            if start <= first <= last < end:
                labels[row] = np.array([first, last]) - start + batch.passage_start[row]
    return labels
