"""The old question-answering pipeline and needle's, on the same weights: equal answers, offsets and scores, but for its
mends, which are counted. `transformers4.sh` made the fixture."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from legacy_cases import Group, pipeline_groups
from make_transformers4_fixture import packed

from needle.pipelines.compat import pipeline

GROUPS = {group.name: group for group in pipeline_groups()}
FIXTURE = json.loads(gzip.decompress((Path(__file__).parent / "transformers4.json.gz").read_bytes()))
OLD = {group["name"]: group for group in FIXTURE["groups"]}

#: How many of a group's results differ from the old pipeline's by a mend.
MENDED = {
    "tiny contexts": {"impossible spans": 1},
    "long contexts": {"sums": 7},
    "long contexts, impossible": {"sums": 6},
    "long contexts, first answer": {"sums": 4},
    "short windows": {"sums": 19, "cut words": 0},
}


@pytest.fixture(scope="module")
def exact():
    return pipeline("question-answering", engine="torch", dtype="float32", device="cpu")


@cache
def answered(asked: Any, name: str) -> list[Any]:
    """What a group's pairs are answered with, together in one list."""
    group = GROUPS[name]
    return [packed(one) for one in asked(examples(group), **group.options)]


def examples(group: Group) -> list[dict[str, str]]:
    return [{"question": question, "context": context} for question, context in group.pairs]


def as_list(result: Any) -> list[Any]:
    return result if not result or isinstance(result[0], list) else [result]


def equal(one: Any, other: Any) -> bool:
    """The same shape, texts and offsets, and scores within 1e-3."""
    if isinstance(one[0], list) != isinstance(other[0], list):
        return False
    rows, others = as_list(one), as_list(other)
    return [row[1:] for row in rows] == [row[1:] for row in others] and all(
        abs(a[0] - b[0]) < 1e-3 for a, b in zip(rows, others, strict=True)
    )


def without_impossible_spans(result: Any) -> Any:
    kept = [row for row in as_list(result) if row[0] > 0 or len(as_list(result)) == 1]
    return kept[0] if len(kept) == 1 else kept


def merged(windows: list[Any], top_k: int) -> Any:
    """What the old pipeline made of each window -> the answers of all: of equal texts the one of the highest score, of the
    windows' "no answer" the least likely."""
    best: dict[str, list[Any]] = {}
    for row in (row for window in windows for row in window):
        key = row[3].lower()
        if key not in best or (row[0] > best[key][0]) == bool(key):
            best[key] = row
    rows = sorted(best.values(), key=lambda row: -row[0])[:top_k]
    return rows[0] if len(rows) == 1 else rows


def test_the_fixture_is_of_the_old_pipeline_on_enough_pairs():
    assert FIXTURE["transformers"].startswith("4.57.")
    assert {name: len(group["answers"]) for name, group in OLD.items()} == {n: len(g.pairs) for n, g in GROUPS.items()}
    assert sum(len(group.pairs) for group in GROUPS.values()) == 544
    assert sum(windows is not None for group in OLD.values() for windows in group["windows"]) == 46
    assert sum(group["batched"]["differ"] for group in OLD.values()) == 0  # in its batches it gave the same


@pytest.mark.parametrize("name", [name for name in GROUPS if name not in MENDED])
def test_on_contexts_of_one_window_everything_is_equal(exact, name):
    assert [equal(*pair) for pair in zip(answered(exact, name), OLD[name]["answers"], strict=True)].count(False) == 0


def test_impossible_spans_are_left_out(exact):
    got, old = answered(exact, "tiny contexts"), OLD["tiny contexts"]["answers"]
    assert sum(not equal(*pair) for pair in zip(got, old, strict=True)) == MENDED["tiny contexts"]["impossible spans"]
    assert all(equal(one, without_impossible_spans(other)) for one, other in zip(got, old, strict=True))


@pytest.mark.parametrize("name", [name for name in MENDED if name != "tiny contexts"])
def test_on_long_contexts_the_windows_are_equal_and_their_merge_is_right(exact, name):
    group, old = GROUPS[name], OLD[name]
    got = answered(exact, name)
    right = [merged(windows, group.options.get("top_k", 1)) for windows in old["windows"]]
    assert sum(not equal(*pair) for pair in zip(got, right, strict=True)) == MENDED[name].get("cut words", 0)
    assert sum(not equal(*pair) for pair in zip(got, old["answers"], strict=True)) == MENDED[name]["sums"]
    assert all(0 <= row[0] <= 1 for result in got for row in as_list(result))


def test_the_old_sums_exceeded_1():
    assert max(row[0] for group in OLD.values() for result in group["answers"] for row in as_list(result)) > 1.5


def test_single_calls_give_what_lists_give(exact):
    group = GROUPS["impossible is an answer"]
    for (question, context), together in list(zip(group.pairs, answered(exact, group.name), strict=True))[:20]:
        assert equal(packed(exact(question=question, context=context, **group.options)), together)


def test_int8_on_the_default_engine_gives_nearly_always_the_same_answers():
    got = answered(pipeline("question-answering", device="cpu"), "each question, as by default")
    old = OLD["each question, as by default"]["answers"]
    same = sum(one[1:] == other[1:] for one, other in zip(got, old, strict=True))
    near = sum(abs(one[0] - other[0]) < 0.05 for one, other in zip(got, old, strict=True) if one[1:] == other[1:])
    assert same >= 0.95 * len(old)
    assert near >= 0.95 * same
