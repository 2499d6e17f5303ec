"""The questions and contexts on which needle is compared with readers that are gone; the fixtures hold only answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

CORPUS = Path(__file__).parents[2] / "data/corpus/questions.json"


class Group(NamedTuple):
    """Pairs that are asked with the same options. pairs: (question, context)."""

    name: str
    options: dict[str, Any]
    pairs: list[tuple[str, str]]


def corpus() -> tuple[list[str], list[tuple[str, int]]]:
    """The shipped corpus' paragraphs; its questions with the number of their paragraph."""
    paragraphs: list[str] = []
    questions: list[tuple[str, int]] = []
    for article in json.loads(CORPUS.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            questions += [(qa["question"], len(paragraphs)) for qa in paragraph["qas"]]
            paragraphs.append(paragraph["context"])
    return paragraphs, questions


def pipeline_groups() -> list[Group]:
    """Answerable and impossible questions on their paragraphs, and on long contexts: their paragraph among others."""
    paragraphs, questions = corpus()

    def own(every: int, first: int = 0) -> list[tuple[str, str]]:
        return [(question, paragraphs[at]) for question, at in questions[first::every]]

    def among(every: int, others: int, first: int = 0) -> list[tuple[str, str]]:
        """The paragraph with `others` that follow it in the corpus, in the middle of them."""
        pairs = []
        for question, at in questions[first::every]:
            follow = [paragraphs[(at + 7 * (i + 1)) % len(paragraphs)] for i in range(others)]
            pairs.append((question, "\n\n".join([*follow[: others // 2], paragraphs[at], *follow[others // 2 :]])))
        return pairs

    return [
        Group("each question, as by default", {}, own(1)),
        Group("impossible is an answer", {"top_k": 3, "handle_impossible_answer": True}, own(4)),
        Group("many answers, not aligned to words", {"top_k": 20, "align_to_words": False}, own(12, 1)),
        Group("short answers", {"top_k": 5, "max_answer_len": 3}, own(12, 2)),
        Group("tiny contexts", {"top_k": 5}, [("Who wrote it?", "By Ada."), ("What is it?", "Tea"), ("When?", "In 1842.")]),
        Group("long contexts", {"top_k": 3}, among(32, 5)),
        Group("long contexts, impossible", {"top_k": 2, "handle_impossible_answer": True}, among(48, 6, 3)),
        Group("long contexts, first answer", {}, among(72, 12, 5)),
        Group("short windows", {"top_k": 4, "max_seq_len": 96, "doc_stride": 40}, among(16, 2, 7)),
    ]


class Reading(NamedTuple):
    """Questions, each with some documents, for a reader made with these options."""

    name: str
    options: dict[str, Any]
    asked: list[tuple[str, list[str]]]


def farm_readings() -> list[Reading]:
    """Questions on their own paragraph, among others, on long documents; each of FARMReader's ways to score."""
    paragraphs, questions = corpus()

    def on(every: int, documents: int, length: int = 1, first: int = 0) -> list[tuple[str, list[str]]]:
        """So many documents of `length` paragraphs, the first of which begins with the right one."""
        return [
            (
                question,
                [
                    "\n\n".join(paragraphs[(at + 7 * (length * i + j)) % len(paragraphs)] for j in range(length))
                    for i in range(documents)
                ],
            )
            for question, at in questions[first::every]
        ]

    null = {"return_no_answer": True}
    return [
        Reading("each question, one document", null, on(3, 1)),
        Reading("several documents", null, on(20, 4, first=1)),
        Reading("without no answer, a threshold", {"confidence_threshold": 0.3, "top_k": 3}, on(28, 3, first=2)),
        Reading("raw scores", {**null, "use_confidence_scores": False}, on(28, 3, first=3)),
        Reading("a boost", {**null, "no_ans_boost": 4.0, "top_k_per_sample": 2}, on(28, 2, first=4)),
        Reading("many spans", {"top_k_per_sample": 5, "top_k_per_candidate": 5}, on(40, 2, first=5)),
        Reading("spans far apart", {"top_k_per_sample": 3, "duplicate_filtering": 4}, on(40, 2, first=6)),
        Reading("spans anyhow", {"top_k_per_sample": 3, "duplicate_filtering": -1}, on(40, 2, first=7)),
        Reading("long documents", null, on(40, 2, 5, 8)),
        Reading("long windows", {**null, "max_seq_len": 384, "context_window_size": 40}, on(72, 2, 6, 9)),
    ]
