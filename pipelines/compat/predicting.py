"""What Haystack 1's readers shared: answering one question or many, on Documents, in a pipeline or by a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from haystack import Document, ExtractedAnswer, component

from needle.pipelines.compat.answers import Answer

T = TypeVar("T")


class Predicting:
    """The methods of a reader that are made of one, `_predicted`."""

    @component.output_types(answers=list[ExtractedAnswer])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, Any]:
        """In a pipeline: the answers of `predict`."""
        [(answers, _)] = self._predicted([query], [documents], top_k)
        return {"answers": answers}

    def predict_batch(
        self,
        queries: Sequence[str],
        documents: Sequence[Document] | Sequence[Sequence[Document]],
        top_k: int | None = None,
        batch_size: int | None = None,
    ) -> dict[str, Any]:
        """`predict` for many questions, in the same batches.

        :param documents: a list for each question (or several for the only one), or one list, each of whose Documents is
            asked each question by itself.
        :param batch_size: most windows in a batch.
        :returns: `queries`; `answers`, a list for each list of documents, or, by question, for each document; `no_ans_gaps`,
            as many, not nested.
        :raises ValueError: if there are not as many lists as questions.
        """
        asked, lists, one_by_one = paired(queries, documents)
        found = self._predicted(asked, lists, top_k, batch_size)
        nested = by_query([answers for answers, _ in found], queries, one_by_one)
        return {"queries": list(queries), "answers": nested, "no_ans_gaps": [gap for _, gap in found]}

    def _predicted(
        self,
        queries: Sequence[str],
        documents: Sequence[Sequence[Document]],
        top_k: int | None,
        batch_size: int | None = None,
    ) -> list[tuple[list[Answer], float]]:
        """Each question's answers, best first, and its gap to "no answer"."""
        raise NotImplementedError


def paired(
    queries: Sequence[str], documents: Sequence[Document] | Sequence[Sequence[Document]]
) -> tuple[list[str], list[list[Document]], bool]:
    """`predict_batch`'s arguments -> questions and the documents of each; and whether each document is asked by itself.

    A list of Documents is asked one by one, with each question; of a list of lists the first belongs to the first question,
    and so on, or all to the only one.

    :raises ValueError: if there are not as many lists as questions.
    """
    if not all(isinstance(one, list) for one in documents):
        if not all(isinstance(one, Document) for one in documents):
            raise ValueError("documents must be a list of Documents or a list of such lists, not a mixture.")
        return [q for q in queries for _ in documents], [[d] for _ in queries for d in documents], True  # type: ignore[list-item]
    lists: list[list[Document]] = [list(one) for one in documents]  # type: ignore[arg-type]
    asked = list(queries) * len(lists) if len(queries) == 1 else list(queries)
    if len(asked) != len(lists):
        raise ValueError(f"{len(asked)} queries need as many lists of documents, not {len(lists)}.")
    return asked, lists, False


def by_query(answers: list[T], queries: Sequence[str], one_by_one: bool) -> list[Any]:
    """The answers' lists as `predict_batch` nests them: of several questions on single documents, by question."""
    if not one_by_one or len(queries) < 2:
        return list(answers)
    each = len(answers) // len(queries)
    return [answers[i * each : (i + 1) * each] for i in range(len(queries))]
