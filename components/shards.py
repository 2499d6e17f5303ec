"""Indexes in shards, each of some rows and knowing of no other: searched in parallel, with the results of a single index.

What is of row r is in shard r % n. Scores are the same to the last digit: BM25's counts of all shards are added up before a
passage is scored, and a dot product needs nothing but the vector.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from operator import is_
from pathlib import Path
from typing import Any, Generic, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from needle.components.analysis import Analyzer
from needle.components.bm25 import BM25Index, BM25Scorer
from needle.components.bm25_weights import Parameters, Statistics, Weights
from needle.components.cores import in_threads
from needle.components.segments import SegmentedIndex, read_manifest, shard_folders
from needle.components.vectors import VectorIndex, VectorSegment

logger = logging.getLogger(__name__)

I = TypeVar("I", bound=SegmentedIndex[Any])  # noqa: E741
Rows = NDArray[np.int64]
Found = tuple[Rows, NDArray[Any]]

#: Passages of a shard, times queries, from which on a thread for each shard is worth its start.
_SEARCHED_BY_A_THREAD = 1_000_000


class Shards(Generic[I]):
    """An index in shards; a single one is no other than the index itself."""

    def __init__(self, parts: Iterable[I]):
        self.parts = tuple(parts)

    @property
    def rows(self) -> Rows:
        """Row numbers of what can be found, ascending in each shard."""
        return np.concatenate([part.rows for part in self.parts])

    def remove(self, rows: Rows) -> None:
        """Forget rows."""
        for part in self.parts:
            part.remove(rows)

    def copy(self) -> Self:
        """An index that can be changed while this one is searched; they share what never changes."""
        return type(self)(part.copy() for part in self.parts)

    def _found(self, searches: Sequence[Callable[[], list[Found]]], n_queries: int, k: int) -> list[Found]:
        """The k best for each query of what a search of each shard finds, equal scores in row order."""
        largest = max(sum(len(segment.rows) for segment in part.segments) for part in self.parts)
        if n_queries * largest < _SEARCHED_BY_A_THREAD:
            of_shards = [search() for search in searches]
        else:
            of_shards = in_threads(lambda search: search(), [(search,) for search in searches])
        return of_shards[0] if len(of_shards) == 1 else [_best(k, of_query) for of_query in zip(*of_shards, strict=True)]


class JointTerms(NamedTuple):
    """The terms of all shards under common ids: ids, and for each shard's vocabulary, the (V,) ids of its terms."""

    ids: dict[str, int]
    vocabularies: Sequence[dict[str, int]]
    of_vocabularies: Sequence[NDArray[np.int64]]


class BM25Shards(Shards[BM25Index]):
    def __init__(self, parts: Iterable[BM25Index]):
        super().__init__(parts)
        self._terms = JointTerms({}, [{}] * len(self.parts), [np.empty(0, np.int64)] * len(self.parts))
        self._scorers: dict[Parameters, list[BM25Scorer]] = {}

    def copy(self) -> BM25Shards:
        copy = super().copy()
        copy._terms = self._terms  # of what does not change, terms need not be numbered again
        return copy

    def add_texts(self, rows: Sequence[int], texts: Sequence[str], analyzer: Analyzer) -> None:
        """Add passages under row numbers above all that the index has seen."""
        shares: list[tuple[list[int], list[str]]] = [([], []) for _ in self.parts]
        for row, text in zip(rows, texts, strict=True):
            share = shares[row % len(shares)]
            share[0].append(row)
            share[1].append(text)
        jobs = [(part, *share) for part, share in zip(self.parts, shares, strict=True)]
        in_threads(lambda part, some, their: part.add_texts(some, their, analyzer), jobs)
        self._scorers = {}

    def remove(self, rows: Rows) -> None:
        super().remove(rows)
        self._scorers = {}

    def top_k_many(
        self,
        queries: Sequence[Sequence[str]],
        k: int,
        among: Rows | None,
        parameters: Parameters,
    ) -> list[Found]:
        """What `BM25Scorer.top_k_many` of a single index finds, and its scores."""
        searches = [partial(scorer.top_k_many, queries, k, among) for scorer in self._scorers_by(parameters)]
        return self._found(searches, len(queries), k)

    def _scorers_by(self, parameters: Parameters) -> list[BM25Scorer]:
        """One for each shard, all by the weights of all passages."""
        if len(self.parts) == 1:
            return [self.parts[0].scorer(*parameters)]
        if parameters not in self._scorers:
            terms = self._terms = self._joint_terms()
            counted = in_threads(BM25Index.statistics, [(part,) for part in self.parts])
            df = np.zeros(len(terms.ids), np.int64)
            for ids, of_shard in zip(terms.of_vocabularies, counted, strict=True):
                df[ids] += of_shard.df
            together = Statistics(df, sum(one.n for one in counted), sum(one.total for one in counted))
            weights = Weights.of(terms.ids, together, parameters)
            self._scorers[parameters] = [
                part.scorer_by(weights, _inverse(ids, len(df)))
                for part, ids in zip(self.parts, terms.of_vocabularies, strict=True)
            ]
        return self._scorers[parameters]

    def _joint_terms(self) -> JointTerms:
        """The terms as they are now; those that there were keep their ids, and only new ones are looked at."""
        vocabularies = [part.vocabulary for part in self.parts]
        if all(map(is_, vocabularies, self._terms.vocabularies)):
            return self._terms
        ids, of_vocabularies = self._terms.ids.copy(), []
        for vocabulary, before, numbers in zip(vocabularies, *self._terms[1:], strict=True):
            grew = vocabulary is before or (len(before) <= len(vocabulary) and all(map(is_, before, vocabulary)))
            known = numbers if grew else numbers[:0]
            rest = list(islice(vocabulary, len(known), None))
            new = [term for term in rest if term not in ids]
            ids.update(zip(new, range(len(ids), len(ids) + len(new)), strict=True))
            of_vocabularies.append(np.append(known, np.array([ids[term] for term in rest], np.int64)))
        return JointTerms(ids, vocabularies, of_vocabularies)


class VectorShards(Shards[VectorIndex]):
    def add(self, rows: Sequence[int], vectors: NDArray[np.float32]) -> None:
        """Add (n, d) vectors under row numbers above all that the index has seen."""
        numbers = np.array(rows, np.int64)
        for i, part in enumerate(self.parts):
            mine = numbers % len(self.parts) == i
            part.add(numbers[mine].tolist(), vectors[mine])

    def search(self, queries: NDArray[np.float32], k: int, among: Rows | None = None) -> list[Found]:
        """What `VectorIndex.search` of a single index finds, and its scores."""
        return self._found([partial(part.search, queries, k, among) for part in self.parts], len(queries), k)

    def build_graphs(self) -> None:
        """Make the graphs that large segments lack, beside their arrays; the segments must be saved."""
        for part in self.parts:
            part.build_graphs()

    def in_shards(self, n: int) -> VectorShards:
        """The same vectors in n shards, in memory."""
        rows = self.rows
        segments = [segment for part in self.parts for segment in part.segments]
        alive = [np.isin(segment.rows, rows, assume_unique=True) for segment in segments]
        like = self.parts[0]

        def shard(i: int) -> VectorIndex:
            mine = [here & (segment.rows % n == i) for segment, here in zip(segments, alive, strict=True)]
            merged = [VectorSegment.merge(segments, mine)] if any(here.any() for here in mine) else []
            return VectorIndex(merged, None, like.device, like.approximate_from)

        return VectorShards(map(shard, range(n)))


def load_shards(
    folder: Path, manifest: dict[str, Any], load: Callable[[Path, dict[str, Any]], I], new: Callable[[], I]
) -> tuple[list[I], bool]:
    """The shards that a manifest names; of several, those that are damaged come empty, and are to be filled again.

    :param load: from a shard's folder, by what the manifest says of it.
    :returns: the shards, and whether all are whole.
    :raises Exception: if all are damaged, or the manifest has been replaced meanwhile, and what it named been deleted.
    """
    of_shards = manifest.get("shards", [manifest])
    places = shard_folders(folder, len(of_shards))

    def attempt(place: Path, of_shard: dict[str, Any]) -> I | Exception:
        try:
            return load(place, of_shard)
        except Exception as error:  # damage has many faces: ValueError, EOFError, BadZipFile, TokenError, ...
            return error

    found = in_threads(attempt, list(zip(places, of_shards, strict=True)))
    errors = {place: one for place, one in zip(places, found, strict=True) if isinstance(one, Exception)}
    if len(errors) == len(found) or (errors and read_manifest(folder)["generation"] != manifest["generation"]):
        raise next(iter(errors.values()), ValueError("It has no shards."))
    for place, error in errors.items():
        logger.warning("The shard in '%s' is damaged and is made anew: %r", place, error)
    return [new() if isinstance(one, Exception) else one for one in found], not errors


def _inverse(ids: NDArray[np.int64], n: int) -> NDArray[np.int32]:
    """(n,) where each of n numbers is in ids, -1 if it is not there."""
    where = np.full(n, -1, np.int32)
    where[ids] = np.arange(len(ids), dtype=np.int32)
    return where


def _best(k: int, of_shards: Sequence[Found]) -> Found:
    rows, scores = (np.concatenate(arrays) for arrays in zip(*of_shards, strict=True))
    best = np.lexsort((rows, -scores))[:k]
    return rows[best], scores[best]
