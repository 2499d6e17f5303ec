"""An evaluation -> the plots of its report, and their numbers. Texts in plots are never those of documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure

from needle.components.calibration import reliability
from needle.components.metrics import AbstentionCurve, abstention_curve
from needle.pipelines.evaluate_answers import Evaluation, Judged
from needle.pipelines.report_numbers import (
    FEW,
    Mean,
    best_score,
    by_answer_words,
    by_passage_words,
    by_question_word,
    is_of_texts,
    outcomes,
)
from needle.pipelines.report_svg import BAD, GOOD, INK, OTHER, svg_element

#: Parts of 0 ... 1 that scores are counted in.
_SCORE_PARTS = 20


@dataclass(frozen=True)
class Plot:
    """id: in the page. about: what is to be seen. header, rows: the plotted numbers as a table."""

    id: str
    title: str
    about: str
    svg: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def plots(evaluation: Evaluation, compared: Evaluation | None) -> list[Plot]:
    """All but those that there is nothing to plot for."""
    judged = evaluation.judged
    made = [_funnel(evaluation), _reliability(judged)]
    if any(not j.question.is_impossible for j in judged):
        made.append(_abstention(judged, () if compared is None or is_of_texts(compared) else compared.judged))
    made.append(_scores(judged))
    few = f"Bars are 95 % intervals; hollow points, marked *, are means of fewer than {FEW} questions."
    made.append(_groups("by-word", "F1 by question word", f"The first question word. {few}", by_question_word(judged)))
    if groups := by_answer_words(judged):
        about = f"Words in the first annotator's answer, of questions that have one. {few}"
        made.append(_groups("by-answer", "F1 by length of the right answer", about, groups))
    if groups := by_passage_words(judged):
        about = f"Words in the passage that the question was asked about. {few}"
        made.append(_groups("by-passage", "F1 by length of the passage", about, groups))
    return made


def _funnel(evaluation: Evaluation) -> Plot:
    ends = outcomes(evaluation.judged)
    stages = {name: n for name, n in evaluation.funnel.items() if name not in ends}
    counts = {**stages, **ends}
    total = len(evaluation.judged)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        colours = [OTHER] * len(stages) + [GOOD if name == "right" else BAD for name in ends]
        bars = axes.barh(list(counts), list(counts.values()), color=colours, height=0.7)
        axes.bar_label(bars, [f"{n:,} ({_percent(n, total)})" for n in counts.values()], padding=3)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.35 * max(counts.values()))
        axes.xaxis.set_visible(False)
        axes.spines[["bottom", "left"]].set_visible(False)
        axes.grid(False)
        axes.tick_params(length=0)

    about = "How many questions each stage kept, and below what became of them."
    rows = [(name, f"{n:,}", _percent(n, total)) for name, n in counts.items()]
    svg = svg_element("funnel", "Stage funnel", draw, 0.7 + 0.25 * len(counts))
    return Plot("funnel", "Stage funnel", about, svg, ("stage or outcome", "questions", "of all"), rows)


def _reliability(judged: Sequence[Judged]) -> Plot:
    bins = reliability([j.score for j in judged], [best_score(j).exact_match for j in judged])

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, sharex=True, height_ratios=[3, 1])
        upper.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle="--")
        upper.plot([b.mean_score for b in bins], [b.accuracy for b in bins], color=OTHER, linewidth=1.2)
        for b in bins:
            upper.plot(b.mean_score, b.accuracy, "o", color=OTHER, fillstyle="none" if b.count < FEW else "full")
        upper.set(ylim=(-0.02, 1.02), ylabel="share right")
        lower.bar([b.mean_score for b in bins], [b.count for b in bins], width=0.04, color=OTHER)
        lower.set(xlim=(-0.02, 1.02), xlabel="score", ylabel="questions")

    about = (
        "Does a score of 0.7 come true seven times in ten? Points on the dashed line say yes. Of the best text found for "
        f"each question, given or not (0 where none was); 15 parts of equal width, hollow below {FEW} questions."
    )
    rows = [(f"{b.mean_score:.3f}", f"{b.accuracy:.3f}", f"{b.count:,}{_few(b.count)}") for b in bins]
    title = "Reliability diagram"
    svg = svg_element("reliability", title, draw, 3.6)
    return Plot("reliability", title, about, svg, ("mean score", "share right", "questions"), rows)


def _abstention(judged: Sequence[Judged], compared: Sequence[Judged]) -> Plot:
    ours = _curve(judged)
    given = [j for j in judged if j.prediction]
    gained = sum(best_score(j).f1 for j in given)
    precision, recall = gained / max(len(given), 1), gained / sum(not j.question.is_impossible for j in judged)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot(ours.recall, ours.precision, color=OTHER, label="this")
        if any(not j.question.is_impossible for j in compared):
            theirs = _curve(compared)
            axes.plot(theirs.recall, theirs.precision, color=BAD, linestyle="--", label="compared")
        if given:
            axes.plot(recall, precision, "o", color=INK, label="as answered")
        axes.legend(loc="lower left")
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall", ylabel="precision")

    about = (
        "Answering only from some score on: precision is the mean F1 of the answers given, recall the sum of their F1 over "
        "the number of questions that have an answer. The point is what was done."
    )
    rows = []
    for least in np.arange(10, -1, -1) / 10:
        if (index := int((ours.threshold >= least).sum()) - 1) >= 0:
            row = (ours.coverage[index], ours.precision[index], ours.recall[index])
            rows.append((f"{least:.1f}", *(f"{value:.3f}" for value in row)))
    title, header = "Answer or abstain", ("score at least", "share answered", "precision", "recall")
    return Plot("abstention", title, about, svg_element("abstention", title, draw), header, rows)


def _curve(judged: Sequence[Judged]) -> AbstentionCurve:
    answerable = [not j.question.is_impossible for j in judged]
    return abstention_curve([j.score for j in judged], [best_score(j).f1 for j in judged], answerable)


def _scores(judged: Sequence[Judged]) -> Plot:
    kinds = {
        "right": [j.score for j in judged if best_score(j).exact_match],
        "wrong": [j.score for j in judged if not j.question.is_impossible and not best_score(j).exact_match],
        "no answer exists": [j.score for j in judged if j.question.is_impossible],
    }
    edges = np.arange(_SCORE_PARTS + 1) / _SCORE_PARTS  # not linspace, whose 0.3 is a little more than 0.3
    counts = {name: np.histogram(scores, edges)[0] for name, scores in kinds.items()}

    def draw(figure: Figure) -> None:
        panels = figure.subplots(3, sharex=True, sharey=True)
        for axes, (name, n), colour in zip(panels, counts.items(), (GOOD, BAD, OTHER), strict=True):
            axes.stairs(n, edges, fill=True, color=colour)
            axes.set_title(f"{name} (n {n.sum():,})", loc="left", fontsize=9)
        panels[1].set_ylabel("questions")
        panels[2].set(xlim=(0, 1), xlabel="score")

    about = "Scores of the best text found for each question: the further apart the three, the better abstaining can work."
    rows = [
        (f"{low:.2f}–{high:.2f}", *(f"{n[i]:,}" for n in counts.values())) for i, (low, high) in enumerate(pairwise(edges))
    ]
    title = "Scores"
    return Plot("scores", title, about, svg_element("scores", title, draw, 3.6), ("score", *counts), rows)


def _groups(id_: str, title: str, about: str, groups: Sequence[Mean]) -> Plot:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for y, (_, estimate, n) in enumerate(groups):
            axes.plot([estimate.low, estimate.high], [y, y], color=OTHER, linewidth=1.2)
            axes.plot(estimate.mean, y, "o", color=OTHER, fillstyle="none" if n < FEW else "full")
        axes.set_yticks(range(len(groups)), [f"{name} (n {n:,}){_few(n)}" for name, _, n in groups])
        axes.set(xlim=(-2, 102), ylim=(len(groups) - 0.5, -0.5), xlabel="F1, %")
        axes.tick_params(axis="y", length=0)

    rows = [(name, f"{e.mean:.2f}", f"{e.low:.2f} – {e.high:.2f}", f"{n:,}{_few(n)}") for name, e, n in groups]
    svg = svg_element(id_, title, draw, 0.8 + 0.27 * len(groups))
    return Plot(id_, title, about, svg, ("group", "F1, %", "95 % interval", "questions"), rows)


def _few(n: int) -> str:
    return " *" if n < FEW else ""


def _percent(n: int, total: int) -> str:
    return f"{100 * n / total:.1f} %"
