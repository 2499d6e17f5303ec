"""Vectors: the search finds exactly what comparing with every vector finds, however the index came about."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.registry import cpu_target

from needle.components import vectors
from needle.components.vectors import VectorIndex, VectorSegment


def some_vectors(n: int, d: int = 96, seed: int = 0, spread: float = 1.0) -> np.ndarray:
    """(n, d) unit vectors; a small spread puts them all close together."""
    rng = np.random.default_rng(seed)
    found = rng.standard_normal(d) + spread * rng.standard_normal((n, d))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def index_of(*parts: np.ndarray) -> VectorIndex:
    """Row numbers from 0 on, a segment a part before they are merged."""
    index, row = VectorIndex(), 0
    for part in parts:
        index.add(range(row, row + len(part)), part)
        row += len(part)
    return index


def compared(rows: np.ndarray, stored: np.ndarray, query: np.ndarray, k: int) -> list[int]:
    """The rows that comparing with each float16 vector finds; equal scores in row order."""
    scores = stored.astype(np.float16).astype(np.float32) @ query
    return rows[np.argsort(-scores, kind="stable")[:k]].tolist()


class TestSegment:
    @pytest.mark.parametrize("d", [1, 64, 100, 384])
    def test_the_codes_say_the_vectors_but_for_the_bound(self, d):
        given_vectors = np.random.default_rng(1).standard_normal((50, d)).astype(np.float32) * 3
        segment = VectorSegment.build(range(50), given_vectors)
        segment.check()
        said = (segment.codes[:, :d].astype(np.float32) - 128) * segment.scale[:, None]
        error = np.linalg.norm(segment.vectors.astype(np.float32) - said, axis=1)
        assert error.max() == pytest.approx(segment.bounds[0])
        assert np.linalg.norm(said, axis=1).max() == pytest.approx(segment.bounds[1])
        assert (segment.codes[:, d:] == 128).all(), "what pads a vector adds nothing"
        assert error.max() < 0.01 * np.linalg.norm(given_vectors, axis=1).max()

    def test_a_vector_of_zeros(self):
        segment = VectorSegment.build([1], np.zeros((1, 8), np.float32))
        assert (segment.codes == 128).all()
        assert segment.bounds.tolist() == [0, 0]


class TestSearch:
    def test_a_worked_example(self):
        index = index_of(np.array([[1, 0], [0.6, 0.8], [0, 1], [-1, 0]], np.float32))
        [(rows, scores)] = index.search(np.array([[0, 2]], np.float32), 3)
        assert rows.tolist() == [2, 1, 0]
        np.testing.assert_allclose(scores, [2, 1.6, 0], atol=1e-3)

    @pytest.mark.parametrize("spread", [1.0, 0.05, 0.001])
    @pytest.mark.parametrize("k", [1, 10, 400])
    def test_it_is_exact_however_close_the_vectors_are(self, spread, k):
        """Where the int8 codes can't tell vectors apart, more candidates are compared."""
        stored, queries = some_vectors(5000, spread=spread), some_vectors(7, seed=1, spread=spread)
        for query, (rows, scores) in zip(queries, index_of(stored).search(queries, k), strict=True):
            best = np.sort(stored.astype(np.float16).astype(np.float32) @ query)[::-1][:k]
            np.testing.assert_allclose(scores, best, rtol=1e-5, atol=1e-6)
            assert len(set(rows.tolist())) == k

    def test_equal_vectors_come_in_row_order(self):
        index = index_of(np.repeat(some_vectors(3), 200, axis=0))
        [(rows, _)] = index.search(some_vectors(3)[1:2], 150)
        assert rows.tolist() == list(range(200, 350))

    @settings(max_examples=60)
    @given(data=st.data())
    def test_after_any_adds_and_removals_with_any_filter(self, data):
        index, rows, stored = VectorIndex(), np.empty(0, np.int64), np.empty((0, 16), np.float32)
        next_row = 0
        for step in range(data.draw(st.integers(1, 5))):
            n = data.draw(st.integers(0, 40))
            part, new = some_vectors(n, 16, seed=step), np.arange(next_row, next_row + n)
            index.add(new, part)
            rows, stored, next_row = np.append(rows, new), np.concatenate([stored, part]), next_row + n + 2
            gone = np.array(data.draw(st.lists(st.sampled_from([*rows.tolist(), 999]), unique=True)), np.int64)
            data.draw(st.sampled_from([index.remove, index.mark_removed]))(gone)
            stored, rows = stored[~np.isin(rows, gone)], rows[~np.isin(rows, gone)]
            assert index.rows.tolist() == rows.tolist()
        among = data.draw(st.none() | st.sets(st.integers(0, 60)))
        allowed = np.ones(len(rows), bool) if among is None else np.isin(rows, list(among))
        k, query = data.draw(st.integers(0, 50)), some_vectors(1, 16, seed=99)
        found = index.search(query, k, None if among is None else np.array(sorted(among), np.int64))
        assert [r.tolist() for r, _ in found] == [compared(rows[allowed], stored[allowed], query[0], k)]

    def test_several_threads_and_segments_find_the_same(self, monkeypatch):
        stored, queries = some_vectors(3000), some_vectors(5, seed=1)
        expected = [rows.tolist() for rows, _ in index_of(stored).search(queries, 20)]
        monkeypatch.setattr(vectors, "_SCANS_A_THREAD", 100)
        index = index_of(stored[:2500], stored[2500:2900], stored[2900:])
        assert len(index.segments) == 3
        assert [rows.tolist() for rows, _ in index.search(queries, 20)] == expected

    @pytest.mark.parametrize("spread", [1.0, 0.01])
    def test_torch_finds_the_same_as_compiled_code(self, spread):
        """On a GPU torch scans the vectors; here it does so on the CPU."""
        stored, queries = some_vectors(2000, spread=spread), some_vectors(5, seed=1, spread=spread)
        among = np.arange(0, 2000, 3)
        expected, index = index_of(stored), VectorIndex(device="cpu")
        index.add(range(1500), stored[:1500])
        index.add(range(1500, 2000), stored[1500:])
        for changed in (expected, index):
            changed.mark_removed(np.array([4, 5, 1600]))
        for subset in (None, among):
            pairs = zip(index.search(queries, 10, subset), expected.search(queries, 10, subset), strict=True)
            assert all((a.tolist(), s.tolist()) == (b.tolist(), t.tolist()) for (a, s), (b, t) in pairs)

    def test_large_segments_are_searched_by_graphs(self, tmp_path):
        """Nearly all of the best are found, even of vectors in random directions, which are the hardest to tell apart, and
        none that is removed or filtered out."""
        stored, queries = some_vectors(6000, seed=3), some_vectors(20, seed=4)
        exact, index = index_of(stored), VectorIndex(approximate_from=2000)
        index.add(range(5000), stored[:5000])
        index.add(range(5000, 6000), stored[5000:])
        index.save_segments(tmp_path)
        index.build_graphs()
        assert [segment.graph() is not None for segment in index.segments] == [True, False]
        found = Path(index.segments[0].folder) / "graph.faiss"
        made = found.stat().st_mtime_ns
        index.build_graphs()
        assert found.stat().st_mtime_ns == made, "a graph is made once"
        loaded = VectorIndex([VectorSegment.load(s.folder) for s in index.segments], approximate_from=2000)
        for changed in (exact, loaded):
            changed.mark_removed(np.arange(0, 6000, 5))
        for among in (None, np.arange(0, 6000, 3), np.arange(100)):
            pairs = zip(loaded.search(queries, 10, among), exact.search(queries, 10, among), strict=True)
            shared = [len(set(a.tolist()) & set(b.tolist())) for (a, _), (b, _) in pairs]
            assert sum(shared) >= 0.95 * 10 * len(queries)
            allowed = np.arange(6000) if among is None else among
            for rows, scores in loaded.search(queries, 10, among):
                assert (rows % 5 > 0).all()
                assert np.isin(rows, allowed).all()
                assert (np.diff(scores) <= 0).all()
        assert len(loaded.search(queries, 5000)[0][0]) >= 4500, "where more are asked for than the graph looks at"

    def test_nothing_to_find(self):
        empty = np.empty(0)
        for index in (VectorIndex(), index_of(some_vectors(0))):
            [(rows, scores)] = index.search(some_vectors(1), 5)
            assert (rows.tolist(), scores.tolist()) == ([], empty.tolist())
        assert index_of(some_vectors(3)).search(some_vectors(0), 5) == []
        assert index_of(some_vectors(3)).search(some_vectors(1), 0)[0][0].tolist() == []

    def test_vectors_that_are_none_are_refused(self):
        for number in (np.nan, np.inf, 1e6):
            bad = some_vectors(3)
            bad[1, 5] = number
            with pytest.raises(ValueError, match="vector of row 1 has a number that is none or too large for float16"):
                index_of(bad)
        with pytest.raises(ValueError, match="at least one number"):
            index_of(np.empty((2, 0), np.float32))

    def test_a_damaged_graph_is_done_without(self, tmp_path, caplog):
        index = VectorIndex(approximate_from=100)
        index.add(range(500), some_vectors(500))
        index.save_segments(tmp_path)
        index.build_graphs()
        file = Path(index.segments[0].folder) / "graph.faiss"
        file.write_bytes(file.read_bytes()[:1000])
        loaded = VectorIndex([VectorSegment.load(s.folder) for s in index.segments], approximate_from=100)
        assert (
            loaded.search(some_vectors(1), 3)[0][0].tolist()
            == index_of(some_vectors(500)).search(some_vectors(1), 3)[0][0].tolist()
        )
        assert "is damaged" in caplog.text
        loaded.build_graphs()
        assert file.stat().st_size > 1000

    def test_vectors_of_another_length_can_not_be_compared(self):
        with pytest.raises(ValueError, match=r"shape \(1, 8\) can't be compared with vectors of 96"):
            index_of(some_vectors(3)).search(some_vectors(1, 8), 1)

    def test_a_processor_without_int8_dot_products_finds_the_same(self, tmp_path):
        code = """
import sys
import numpy as np
from needle.components import llvm
from needle.components.vectors import VectorIndex
assert not llvm.HAS_INT8_DOT
index = VectorIndex()
index.add(range(500), np.load(sys.argv[1]))
print([rows.tolist() for rows, _ in index.search(np.load(sys.argv[1])[:3], 5)])
"""
        stored = some_vectors(500)
        np.save(tmp_path / "vectors.npy", stored)
        features = cpu_target.target_context.codegen().magic_tuple()[2].replace("+avx512vnni", "-avx512vnni")
        environment = os.environ | {"NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        command = [sys.executable, "-c", code, tmp_path / "vectors.npy"]
        told = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        assert told == f"{[rows.tolist() for rows, _ in index_of(stored).search(stored[:3], 5)]}\n"
