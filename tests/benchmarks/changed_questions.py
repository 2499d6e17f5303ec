"""Unanswerable questions made of answerable ones by changing a few words, as SQuAD 2.0's writers often did (Rajpurkar et al.
2018, arXiv 1806.03822, table 1: entity swap, antonym, negation).

No rule knows whether the passage answers the new question too: some of what comes out is wrong or makes no sense.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from needle.data.squad import Question

#: A name or a number, not at a question's beginning.
_ENTITY = re.compile(r"(?<=\s)(?:[A-Z][\w'’-]+(?: (?:of the |of |de )?[A-Z][\w'’-]+)*|\d[\d,.]*\d|\d)\b")
_OPPOSITES = """first/last largest/smallest biggest/smallest before/after most/least increase/decrease increased/decreased
north/south northern/southern east/west eastern/western highest/lowest best/worst oldest/youngest more/fewer early/late
began/ended begin/end start/end started/ended won/lost win/lose wins/loses accepted/rejected allowed/forbidden
included/excluded include/exclude male/female men/women higher/lower larger/smaller greater/lesser upper/lower
inside/outside true/false positive/negative high/low old/new long/short always/never gained/lost rise/fall rose/fell
maximum/minimum majority/minority public/private common/rare cold/hot indoor/outdoor open/closed opened/closed enter/leave
arrive/depart joined/left built/destroyed created/destroyed strong/weak similar/different same/different older/younger
born/buried above/below"""
_NEGATED = {word: f"{word}n't" for word in ("was", "were", "is", "are", "did", "does", "has")} | {"can": "can't"}
_PAIRS = [pair.split("/") for pair in _OPPOSITES.split()]
_OPPOSITE = {a: b for x, y in _PAIRS for a, b in ((x, y), (y, x))} | _NEGATED
#: How often a name or number comes from the passage itself; how often a verb that can be negated is.
_FROM_PASSAGE, _NEGATION = 0.35, 0.12


def changed_questions(questions: Sequence[Question], draw: random.Random) -> Iterator[Question]:
    """A changed form of each question that has a word to change. Names come from questions of the same title, numbers from
    any question, of as many characters."""
    named: dict[str, list[str]] = {}
    for question in questions:
        named.setdefault(question.title, []).extend(m.group() for m in _ENTITY.finditer(question.question))
    anywhere = [name for names in named.values() for name in names]
    for question in questions:
        ways = [*_swaps(question, named[question.title], draw.sample(anywhere, 300), draw), *_opposites(question, draw)]
        if ways:
            start, end, by = draw.choice(ways)
            text = question.question[:start] + by + question.question[end:]
            yield replace(question, id=f"{question.id}_changed", question=text, answers=(), answer_starts=())


def _swaps(question: Question, names: list[str], anywhere: list[str], draw: random.Random) -> Iterator[tuple[int, int, str]]:
    """Ways to change a question: first character, past the last one, what comes there."""
    passage, answers = question.context.lower(), [answer.lower() for answer in question.answers]
    for own in _ENTITY.finditer(question.question):
        if _overlaps(own.group(), answers):
            continue
        number = own.group()[0].isdigit()
        others: Iterable[str] = (n for n in (anywhere if number else names) if n.lower() not in passage)
        if draw.random() < _FROM_PASSAGE:
            others = (m.group() for m in _ENTITY.finditer(question.context))
        fitting = [
            name
            for name in others
            if name[0].isdigit() == number
            and (not number or len(name) == len(own.group()))
            and name.lower() not in question.question.lower()
            and not _overlaps(name, answers)
        ]
        if fitting:
            yield own.start(), own.end(), draw.choice(fitting)


def _overlaps(name: str, answers: list[str]) -> bool:
    return any(name.lower() in answer or answer in name.lower() for answer in answers)


def _opposites(question: Question, draw: random.Random) -> Iterator[tuple[int, int, str]]:
    for word in re.finditer(r"\b[a-z]+\b", question.question):
        by = _OPPOSITE.get(word.group())
        if by and by not in question.context.lower() and (word.group() not in _NEGATED or draw.random() < _NEGATION):
            yield word.start(), word.end(), by
