"""The BM25 index: its segments, what it finds, and its folder. Its scores: tests/parity/test_bm25_scores.py."""

import dataclasses
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from needle.components import bm25_files, segments
from needle.components.bm25 import BM25Index, Segment
from needle.components.segments import MANIFEST
from needle.components.shards import BM25Shards
from needle.components.store_index import State

SEGMENT_ARRAYS = ("rows", "lengths", "terms", "starts", "positions", "counts")
PASSAGES = st.lists(st.lists(st.integers(0, 9), max_size=8), max_size=10)


def contents(segment: Segment) -> dict[int, list[int]]:
    """Row -> its sorted terms, read back from the postings."""
    found: dict[int, list[int]] = {int(row): [] for row in segment.rows}
    for i, term in enumerate(segment.terms):
        where = slice(segment.starts[i], segment.starts[i + 1])
        for position, count in zip(segment.positions[where], segment.counts[where], strict=True):
            found[int(segment.rows[position])] += [int(term)] * int(count)
    return found


def assert_well_formed(segment: Segment) -> None:
    dtypes = {name: array.dtype for name, array in segment.arrays().items()}
    assert dtypes == dict.fromkeys(dtypes, np.int32) | {"rows": np.int64, "starts": np.int64}
    assert (np.diff(segment.rows) > 0).all()
    assert (np.diff(segment.terms) > 0).all()
    assert (segment.starts[0], segment.starts[-1]) == (0, len(segment.positions))
    assert (np.diff(segment.starts) > 0).all(), "every term has a posting"
    for i in range(len(segment.terms)):
        assert (np.diff(segment.positions[segment.starts[i] : segment.starts[i + 1]]) > 0).all()
    assert (segment.counts > 0).all()
    lengths = np.zeros(len(segment.rows), np.int64)
    np.add.at(lengths, segment.positions, segment.counts)
    assert (lengths == segment.lengths).all()


def assert_same(one: BM25Index, other: BM25Index) -> None:
    assert one.vocabulary == other.vocabulary
    assert one.rows.tolist() == other.rows.tolist()
    assert one.removed_rows.tolist() == other.removed_rows.tolist()
    for a, b in zip(one.segments, other.segments, strict=True):
        for name, array in a.arrays().items():
            assert array.dtype == getattr(b, name).dtype
            assert (array == getattr(b, name)).all()


def index_of(*passages: str, first_row: int = 1) -> BM25Index:
    index = BM25Index()
    index.add(range(first_row, first_row + len(passages)), [p.split() for p in passages])
    return index


def top(index: BM25Index, query: str, k: int = 10, among: list[int] | None = None) -> list[int]:
    rows, scores = index.scorer().top_k(query.split(), k, None if among is None else np.array(among, np.int64))
    assert len(rows) == len(scores) <= k
    assert (np.diff(scores) <= 0).all()
    return rows.tolist()


def segment_of(first_row: int, passages: list[list[int]]) -> Segment:
    ids = np.array([term for passage in passages for term in passage], np.int32)
    lengths = np.array([len(passage) for passage in passages], np.int32)
    return Segment.build(range(first_row, first_row + len(passages)), ids, lengths, n_terms=10)


class TestSegment:
    @given(passages=PASSAGES)
    def test_it_holds_what_it_is_built_from(self, passages):
        segment = segment_of(5, passages)
        assert_well_formed(segment)
        assert contents(segment) == {5 + i: sorted(p) for i, p in enumerate(passages)}

    @given(data=st.data(), batches=st.lists(PASSAGES, min_size=1, max_size=4))
    def test_merging_keeps_what_is_alive(self, data, batches):
        segments, alive, expected, row = [], [], {}, 0
        for passages in batches:
            segments.append(segment_of(row, passages))
            keep = data.draw(st.lists(st.booleans(), min_size=len(passages), max_size=len(passages)))
            alive.append(np.array(keep, bool))
            expected |= {row + i: sorted(p) for i, p in enumerate(passages) if keep[i]}
            row += len(passages)
        merged = Segment.merge(segments, alive, n_terms=10)
        assert_well_formed(merged)
        assert contents(merged) == expected

    def test_postings_of_a_term(self):
        segment = segment_of(10, [[1, 3], [3, 3]])
        ranges = segment.postings(np.array([3, 0, 2, 4, 1, 3], np.int32))
        assert [segment.positions[a:b].tolist() for a, b in ranges] == [[0, 1], [], [], [], [0], [0, 1]]
        assert [segment.counts[a:b].tolist() for a, b in ranges] == [[1, 2], [], [], [], [1], [1, 2]]


class TestIndex:
    def test_the_number_of_segments_grows_as_the_logarithm(self):
        index = BM25Index()
        for row in range(1000):
            index.add([row], [["a", str(row)]])
            assert len(index.segments) <= (row + 1).bit_length()
        assert index.rows.tolist() == list(range(1000))

    def test_adding_nothing_adds_no_segment(self):
        index = BM25Index()
        index.add([], [])
        assert index.segments == ()

    def test_removed_passages_are_not_found(self):
        index = index_of("a b", "a", "a c")
        index.mark_removed(np.array([2, 99]))
        assert top(index, "a") == [1, 3]
        assert (index.rows.tolist(), index.removed_rows.tolist()) == ([1, 3], [2])

    def test_postings_go_when_more_than_a_tenth_is_removed(self):
        index = index_of(*["a b"] * 20)
        index.remove(np.array([1, 2]))
        assert index.removed_rows.tolist() == [1, 2]
        index.remove(np.array([3]))
        assert index.removed_rows.tolist() == []
        assert [len(s.rows) for s in index.segments] == [17]

    def test_all_removed_and_new_ones_added(self):
        index = index_of("a", "b")
        index.remove(np.array([1, 2]))
        assert top(index, "a") == []
        index.add([3], [["a"]])
        assert top(index, "a b") == [3]

    def test_a_copy_changes_alone(self):
        index = index_of("a", "b")
        scorer = index.scorer()
        copy = index.copy()
        copy.add([3, 4], [["a", "new"], ["new"]])
        copy.remove(np.array([1]))
        assert (top(copy, "a new"), top(index, "a new")) == ([3, 4], [1])
        assert scorer.top_k(["a", "new"], 5)[0].tolist() == [1]

    def test_a_scorer_is_made_anew_after_a_change_only(self):
        index = index_of("a", "b")
        assert index.scorer() is index.scorer()
        assert index.scorer() is not index.scorer(k1=1.0)
        before = index.scorer()
        index.add([3], [["a"]])
        assert index.scorer() is not before
        assert top(index, "a") == [1, 3]


class TestTopK:
    def test_best_first(self):
        assert top(index_of("a x x x", "a a a x", "a a x x", "x", "y", "z", "w"), "a") == [2, 3, 1]

    def test_equal_scores_in_row_order(self):
        index = index_of(*["a b", "a c"] * 20, "d", first_row=100)
        assert top(index, "a", 7) == list(range(100, 107))
        assert top(index, "c", 3) == [101, 103, 105]

    @pytest.mark.parametrize(("k", "expected"), [(0, []), (1, [2]), (2, [2, 1]), (3, [2, 1]), (10**9, [2, 1])])
    def test_k(self, k, expected):
        assert top(index_of("a x", "a a", "x", "y", "z"), "a", k) == expected

    def test_only_passages_with_a_term_of_the_query(self):
        assert top(index_of("a", "b", "c"), "a unknown") == [1]
        assert top(index_of("a", "b", "c"), "unknown") == []
        assert top(index_of("a", "b", "c"), "") == []
        assert top(BM25Index(), "a") == []
        # Plus scores every passage above 0, but that is no match.
        assert index_of("a", "b").scorer("plus").top_k(["a"], 10)[0].tolist() == [1]

    @pytest.mark.parametrize("k", [3, 1500])  # kept in order while scoring, and sorted afterwards
    def test_many_queries_find_what_each_finds_alone(self, k):
        index = index_of(*(f"w{i % 7} x{i % 11} y{i}" for i in range(2000)))
        index.add([5000], [["w1", "x1"]])
        index.mark_removed(np.arange(1, 2000, 13))
        queries = [[f"w{i % 9}", f"x{i % 5}", "unknown"] for i in range(40)] + [[]]
        among = np.arange(0, 6000, 2)
        for subset in (None, among):
            together = index.scorer().top_k_many(queries, k, subset)
            for query, (rows, scores) in zip(queries, together, strict=True):
                alone_rows, alone_scores = index.scorer().top_k(query, k, subset)
                assert (rows.tolist(), scores.tolist()) == (alone_rows.tolist(), alone_scores.tolist())
        assert index.scorer().top_k_many([], k) == []

    def test_a_match_counts_whatever_its_score(self):
        index = index_of("a", "a")  # the idf of a term in most passages is negative or 0
        rows, scores = index.scorer().top_k(["a"], 10)
        assert rows.tolist() == [1, 2]
        assert (scores < 0).all()

    def test_among_is_applied_before_the_cut(self):
        index = index_of(*["a a"] * 10, "a x", "a x x", "y")
        assert top(index, "a", 2, among=[5, 11, 12, 13, 99]) == [5, 11]
        assert top(index, "a", 2, among=[12, 13]) == [12]
        assert top(index, "a", 2, among=[]) == []

    @settings(deadline=None)
    @given(
        passages=st.lists(st.lists(st.sampled_from("abcd"), max_size=5), max_size=20),
        query=st.lists(st.sampled_from("abcde"), max_size=3),
        k=st.integers(0, 25),
        among=st.none() | st.sets(st.integers(0, 25)),
    )
    def test_it_is_the_head_of_the_sorted_scores(self, passages, query, k, among):
        index = BM25Index()
        index.add(range(len(passages)), passages)
        scorer = index.scorer()
        scores, matched = scorer.scores(query)
        candidates = [row for row in range(len(passages)) if matched[row] and (among is None or row in among)]
        rows, _ = scorer.top_k(query, k, None if among is None else np.array(sorted(among), np.int64))
        assert rows.tolist() == sorted(candidates, key=lambda row: (-scores[row], row))[:k]


def some_index() -> BM25Index:
    """Two segments, one removed row."""
    index = BM25Index()
    index.add(range(1, 21), [["a", f"é{i}", "東"] for i in range(20)])
    index.add([30, 31], [["b", "b"], []])
    index.mark_removed(np.array([3]))
    return index


def segment_folders(folder: Path) -> list[str]:
    return json.loads((folder / MANIFEST).read_text())["segments"]


def age(path: Path) -> None:
    old = time.time() - 2 * segments.LITTER_AGE
    os.utime(path, (old, old))


def save_index(index: BM25Index, folder: Path, analyzer: str, revision: str) -> BM25Index:
    return bm25_files.save_index(State(BM25Shards([index]), revision, complete=True), folder, analyzer).parts[0]


def load_index(folder: Path, analyzer: str) -> tuple[BM25Index, str] | None:
    state = bm25_files.load_index(folder, analyzer)
    return None if state is None else (state.index.parts[0], state.revision)


class TestFolder:
    def test_a_round_trip_is_equal_and_memory_mapped(self, tmp_path):
        index = some_index()
        saved = save_index(index, tmp_path / "new" / "folder", "v1", "r7")
        loaded = load_index(tmp_path / "new" / "folder", "v1")
        assert loaded is not None
        assert loaded[1] == "r7"
        assert bm25_files.load_index(tmp_path / "new" / "folder", "v1").complete
        for other in (saved, loaded[0]):
            assert_same(index, other)
            assert all(isinstance(array.base, np.memmap) for s in other.segments for array in s.arrays().values())
            assert top(other, "a b") == top(index, "a b")

    def test_an_empty_index(self, tmp_path):
        emptied = index_of("a")
        emptied.remove(np.array([1]))
        for index in (BM25Index(), emptied):
            save_index(index, tmp_path, "v1", "r1")
            loaded = load_index(tmp_path, "v1")
            assert loaded is not None
            assert_same(loaded[0], index)
            loaded[0].add([5], [["a"]])
            assert top(loaded[0], "a") == [5]

    @pytest.mark.parametrize("relative", [False, True])
    @pytest.mark.parametrize("loaded", [False, True])
    def test_saving_again_writes_new_segments_only(self, tmp_path, monkeypatch, relative, loaded):
        monkeypatch.chdir(tmp_path)
        folder = Path("index") if relative else tmp_path / "index"
        index = save_index(some_index(), folder, "v1", "r1")
        before = segment_folders(folder)
        if loaded:
            index, _ = load_index(folder, "v1")
        changed = index.copy()
        changed.add([40], [["c"]])
        save_index(changed, folder, "v1", "r2")
        assert segment_folders(folder)[:-1] == before
        assert_same(load_index(folder, "v1")[0], changed)

    def test_an_index_that_was_loaded_goes_on_when_another_is_saved(self, tmp_path):
        save_index(some_index(), tmp_path, "v1", "r1")
        mine, _ = load_index(tmp_path, "v1")
        for path in tmp_path.iterdir():
            age(path)
        save_index(index_of("z"), tmp_path, "v1", "r2")
        assert len(list(tmp_path.iterdir())) == 3, "a manifest, a vocabulary and a segment"
        assert_same(mine, some_index())
        save_index(mine, tmp_path, "v1", "r3")  # its files are gone, so they are written anew
        assert_same(load_index(tmp_path, "v1")[0], mine)

    def test_no_folder_or_nothing_in_it(self, tmp_path):
        assert load_index(tmp_path, "v1") is None
        assert load_index(tmp_path / "none", "v1") is None

    def test_another_analyzer_or_format_is_of_no_use(self, tmp_path, monkeypatch):
        save_index(some_index(), tmp_path, "v1", "r1")
        assert load_index(tmp_path, "v1-stem") is None
        monkeypatch.setattr(bm25_files, "FORMAT", bm25_files.FORMAT + 1)
        assert load_index(tmp_path, "v1") is None

    def test_damage_anywhere_makes_it_of_no_use(self, tmp_path):
        """Each file missing, emptied, cut short, or full of zeros."""
        save_index(some_index(), tmp_path / "whole", "v1", "r1")
        damages = {
            "missing": lambda file: file.unlink(),
            "empty": lambda file: file.write_bytes(b""),
            "cut in half": lambda file: os.truncate(file, file.stat().st_size // 2),
            "cut by a line or a number": lambda file: file.write_bytes(file.read_bytes()[:-4]),
            "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
        }
        files = [p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*") if p.is_file()]
        assert len(files) == 2 + 2 * len(SEGMENT_ARRAYS)
        for file in files:
            for name, damage in damages.items():
                shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
                damage(tmp_path / "damaged" / file)
                assert load_index(tmp_path / "damaged", "v1") is None, f"{file}: {name}"
                shutil.rmtree(tmp_path / "damaged")

    @pytest.mark.parametrize("name", SEGMENT_ARRAYS)
    def test_arrays_that_do_not_fit_the_others(self, tmp_path, name):
        save_index(some_index(), tmp_path, "v1", "r1")
        file = tmp_path / segment_folders(tmp_path)[0] / f"{name}.npy"
        np.save(file, np.load(file)[:-1])
        assert load_index(tmp_path, "v1") is None

    def test_nor_where_passages_are_removed_and_segments_merged(self, tmp_path):
        save_index(index_of(*["a b"] * 30), tmp_path, "v1", "r1")
        file = tmp_path / segment_folders(tmp_path)[0] / "positions.npy"
        positions = np.load(file)
        positions[::7] = 2_000_000_000
        np.save(file, positions)
        index, _ = load_index(tmp_path, "v1")
        index.remove(np.array([1]))
        assert len(top(index, "a b", 99)) == 29
        index.remove(np.arange(2, 9))
        assert len(top(index, "a b", 99)) == 22

    def test_postings_of_passages_that_are_not_there_are_passed_over(self, tmp_path):
        """Arrays are not read through when they are loaded; what is wrong in them must not be written anywhere."""
        save_index(index_of("a b", "a", "c"), tmp_path, "v1", "r1")
        file = tmp_path / segment_folders(tmp_path)[0] / "positions.npy"
        positions = np.load(file)
        positions[0], positions[-1] = -7, 2_000_000_000
        np.save(file, positions)
        index, _ = load_index(tmp_path, "v1")
        assert top(index, "a b c") == [1, 2]

    @pytest.mark.parametrize("manifest", ["[]", "null", "{}", '"x"', '{"format": 1, "analyzer": "v1", "segments": 3}'])
    def test_json_that_is_no_manifest(self, tmp_path, manifest):
        (tmp_path / MANIFEST).write_text(manifest)
        assert load_index(tmp_path, "v1") is None

    @pytest.mark.parametrize("step", ["segment", "manifest", "replace"])
    def test_a_save_that_breaks_off_leaves_the_old_index(self, tmp_path, monkeypatch, step):
        save_index(some_index(), tmp_path, "v1", "r1")
        changed = some_index()
        changed.add([50], [["new"]])

        def fail(*args: object, **kwargs: object) -> None:
            raise OSError("No space left on device")

        with monkeypatch.context() as patch:
            if step == "segment":
                patch.setattr(np, "save", fail)
            elif step == "manifest":
                patch.setattr(json, "dumps", fail)
            else:
                patch.setattr(os, "replace", fail)
            with pytest.raises(OSError, match="No space"):
                save_index(changed, tmp_path, "v1", "r2")
        index, revision = load_index(tmp_path, "v1")
        assert revision == "r1"
        assert_same(index, some_index())
        save_index(changed, tmp_path, "v1", "r2")
        assert_same(load_index(tmp_path, "v1")[0], changed)

    def test_what_the_manifest_does_not_name_is_deleted_when_it_is_old(self, tmp_path):
        save_index(some_index(), tmp_path, "v1", "r1")
        first = {path.name for path in tmp_path.iterdir()} - {MANIFEST}
        save_index(index_of("z"), tmp_path, "v1", "r2")
        assert first < {path.name for path in tmp_path.iterdir()}, "another process may have just read the old manifest"
        for name in first:
            age(tmp_path / name)
        index = save_index(index_of("z"), tmp_path, "v1", "r3")
        assert first.isdisjoint(path.name for path in tmp_path.iterdir())
        for path in tmp_path.iterdir():
            age(path)
        save_index(index, tmp_path, "v1", "r4")  # old, but in use still
        assert_same(load_index(tmp_path, "v1")[0], index)


def test_a_segment_can_not_be_changed():
    segment = index_of("a").segments[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        segment.rows = segment.rows[:0]
