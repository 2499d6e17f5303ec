"""Haystack 1.26's readers and needle's, on the same weights: equal answers, offsets, contexts and scores, but for needle's
mends, which are counted. `farm.sh` made the fixture."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from haystack import Document
from legacy_cases import farm_readings

from needle.components.answers import probability
from needle.components.window_logits import WindowReader
from needle.pipelines.compat import FARMReader, QuestionAnsweringPipeline, TransformersReader, question_answering

READINGS = {reading.name: reading for reading in farm_readings()}
FIXTURE = json.loads(gzip.decompress((Path(__file__).parent / "farm.json.gz").read_bytes()))
OLD = {reading["name"]: reading for reading in FIXTURE["farm"]}

#: Questions of which no document's best span has a score above 0: "no answer" is measured otherwise now.
NEGATIVE = {"each question, one document": 4, "spans far apart": 1}


#: In float32, loaded once.
EXACT = WindowReader(devices=["cpu"], engine="torch", dtype="float32")


@cache
def read(name: str) -> tuple[list[list[Any]], list[float]]:
    """A reading by needle's FARMReader."""
    asking = FARMReader(**READINGS[name].options)
    asking._reader = EXACT
    return answered(asking, name)


def answered(asking: Any, name: str) -> tuple[list[list[Any]], list[float]]:
    """Each question's answers as rows of the fixture, and the gaps."""
    asked = READINGS[name].asked
    lists = [[Document(content=text, id=str(i)) for i, text in enumerate(texts)] for _, texts in asked]
    found = asking.predict_batch([question for question, _ in asked], lists)
    return [[row(answer) for answer in answers] for answers in found["answers"]], found["no_ans_gaps"]


def row(answer: Any) -> list[Any]:
    if answer.data is None:
        return [answer.score, "", 0, 0, None, 0, None]
    place, inside = answer.document_offset, answer.context_offset
    return [answer.score, answer.data, place.start, place.end, answer.context, inside.start, int(answer.document.id)]


def assert_equal(found: list[list[Any]], wanted: list[list[Any]], atol: float = 1e-3) -> None:
    assert [one[1:] for one in found] == [one[1:] for one in wanted]
    np.testing.assert_allclose([one[0] for one in found], [one[0] for one in wanted], atol=atol)


def spans(rows: list[list[Any]]) -> list[list[Any]]:
    return [one for one in rows if one[1]]


def nulls(rows: list[list[Any]]) -> list[float]:
    return [one[0] for one in rows if not one[1]]


def test_the_fixture_is_of_haystack_1_on_enough_pairs():
    assert FIXTURE["haystack"].startswith("1.26.")
    assert {name: len(old["answers"]) for name, old in OLD.items()} == {n: len(r.asked) for n, r in READINGS.items()}
    assert sum(len(documents) for reading in READINGS.values() for _, documents in reading.asked) == 375


@pytest.mark.parametrize("name", READINGS)
def test_answers_gaps_and_no_answer_are_farms(name):
    old, (found, gaps) = OLD[name], read(name)
    np.testing.assert_allclose(gaps, old["gaps"], atol=1e-3)
    negative = 0
    for rows, wanted, gap, best in zip(found, old["answers"], gaps, old["best"], strict=True):
        if best > 0:
            assert_equal(rows, wanted)
            continue
        negative += 1
        assert_equal(spans(rows), spans(wanted))
        for null, was in zip(nulls(rows), nulls(wanted), strict=True):
            assert was == pytest.approx(probability(-gap / 8), abs=1e-3)  # measured from 0
            assert null < was
    assert negative == NEGATIVE.get(name, 0)


def test_padding_counted_in_its_confidences():
    """In the old reader as it was: what padding took from the confidences, and so from their order, is there now."""
    name, padded = "each question, one document", FIXTURE["padded"]
    found, gaps = read(name)
    np.testing.assert_allclose(gaps, padded["gaps"], atol=1e-3)
    equal = 0
    for rows, wanted in zip(found, padded["answers"], strict=True):
        by_place, others = ({tuple(one[2:4]): one for one in spans(some)} for some in (rows, wanted))
        assert by_place.keys() == others.keys()
        assert all(one[0] > others[place][0] - 1e-6 for place, one in by_place.items())
        equal += all(abs(one[0] - others[place][0]) < 1e-3 for place, one in by_place.items())
    assert equal == 3


def unmerged(spans: Any, bounds: Any, text: str) -> list[dict[str, Any]]:
    places = zip(bounds[spans["start"], 0].tolist(), bounds[spans["last"], 1].tolist(), spans["score"].tolist(), strict=True)
    return [{"score": score, "start": start, "end": end, "answer": text[start:end]} for start, end, score in places]


def test_the_other_readers_answers_are_equal_and_its_no_answer_is_mended(monkeypatch):
    """On documents of one window, and without the merging of equal texts: the Transformers that Haystack 1 runs on (4.46)
    had none, unlike 4.57, which needle follows."""
    monkeypatch.setattr(question_answering, "spans_per_window", lambda options: options.top_k)
    monkeypatch.setattr(question_answering, "merged", unmerged)
    name, old = "several documents", FIXTURE["transformers_reader"]
    asking = TransformersReader(use_gpu=False, return_no_answers=True)
    asking._pipeline = QuestionAnsweringPipeline(EXACT)
    found, _ = answered(asking, name)
    compared = 0
    for rows, wanted, (_, texts) in zip(found, old["answers"], READINGS[name].asked, strict=True):
        assert all(0.46 < score < 0.57 for score in nulls(wanted))
        if max(len(passage.tokens.ids) for passage in EXACT.passages(texts)) < 220:
            assert_equal(spans(rows), spans(wanted))
            compared += 1
    assert compared == 18
    null = [score for rows in found for score in nulls(rows)]
    assert 0 <= min(null) < 0.01 < 0.6 < max(null) <= 1
