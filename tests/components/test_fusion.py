"""Rank fusion: worked examples, and the component in a pipeline."""

import pytest
from haystack import Document, Pipeline, component, default_from_dict

from needle.components.fusion import RankFusion, fuse, min_max, reciprocal_rank


def ranking(**scores: float | None) -> list[Document]:
    return [Document(id=name, content=name, score=score) for name, score in scores.items()]


BM25, DENSE = ranking(a=9.0, b=5.0, c=1.0), ranking(c=0.8, a=0.7, d=0.3)


def told(documents: list[Document]) -> list[tuple[str, float]]:
    return [(d.id, round(d.score, 6)) for d in documents]


class TestFormulas:
    def test_reciprocal_rank(self):
        assert reciprocal_rank(BM25) == [1 / 61, 1 / 62, 1 / 63]
        expected = [("a", 1 / 61 + 1 / 62), ("c", 1 / 63 + 1 / 61), ("b", 1 / 62), ("d", 1 / 63)]
        assert told(fuse([BM25, DENSE], [1, 1], "reciprocal_rank", 9)) == [(i, round(s, 6)) for i, s in expected]

    def test_weighted(self):
        assert min_max(BM25) == [1.0, 0.5, 0.0]
        assert min_max(DENSE) == pytest.approx([1.0, 0.8, 0.0])
        found = fuse([BM25, DENSE], [0.6, 0.4], "weighted", 9)
        assert told(found) == [("a", 0.92), ("c", 0.4), ("b", 0.3), ("d", 0.0)]

    def test_scores_that_are_all_equal_or_missing(self):
        assert min_max(ranking(a=2.0, b=2.0)) == [1.0, 1.0]
        assert min_max(ranking(a=2.0, b=1.0, c=None)) == [1.0, 0.0, 0.0]
        assert min_max(ranking(a=None, b=None)) == [1.0, 1.0]
        assert min_max([]) == []

    def test_equal_sums_come_in_the_order_met(self):
        assert [d.id for d in fuse([ranking(x=1.0), ranking(y=1.0)], [1, 1], "weighted", 9)] == ["x", "y"]

    def test_the_documents_given_stay_as_they_are(self):
        fuse([BM25, DENSE], [1, 1], "weighted", 9)
        assert [d.score for d in BM25] == [9.0, 5.0, 1.0]


@component
class Fixed:
    """A retriever that always finds the same."""

    def __init__(self, documents: list[Document]):
        self.documents = documents

    @component.output_types(documents=list[Document], documents_per_query=list[list[Document]])
    def run(self, query: str | None = None, queries: list[str] | None = None):
        found = {} if query is None else {"documents": self.documents}
        return found if queries is None else found | {"documents_per_query": [self.documents] * len(queries)}


@pytest.fixture
def pipeline() -> Pipeline:
    pipeline = Pipeline()
    pipeline.add_component("fusion", RankFusion({"bm25": 0.6, "dense": 0.4}, top_k=2))
    for name, documents in (("bm25", BM25), ("dense", DENSE)):
        pipeline.add_component(name, Fixed(documents))
        pipeline.connect(f"{name}.documents", f"fusion.{name}")
        pipeline.connect(f"{name}.documents_per_query", f"fusion.{name}_per_query")
    return pipeline


class TestComponent:
    def test_one_question(self, pipeline):
        found = pipeline.run({"bm25": {"query": "?"}, "dense": {"query": "?"}})["fusion"]
        assert list(found) == ["documents"]
        assert told(found["documents"]) == [("a", 0.92), ("c", 0.4)]

    def test_many_questions(self, pipeline):
        asked = {"queries": ["?", "??"]}
        found = pipeline.run({"bm25": asked, "dense": asked, "fusion": {"top_k": 1}})["fusion"]
        assert list(found) == ["documents_per_query"]
        assert [told(documents) for documents in found["documents_per_query"]] == [[("a", 0.92)]] * 2

    def test_a_retriever_that_finds_nothing(self):
        fusion = RankFusion({"bm25": 0.6, "dense": 0.4})
        assert [d.id for d in fusion.run(bm25=[], dense=DENSE)["documents"]] == ["c", "a", "d"]
        assert fusion.run(bm25=[], dense=[]) == {"documents": []}
        assert fusion.run(bm25_per_query=[[], BM25], dense_per_query=[[], []])["documents_per_query"][0] == []
        assert fusion.run(bm25_per_query=[], dense_per_query=[]) == {"documents_per_query": []}

    def test_bad_values(self):
        with pytest.raises(ValueError, match="not negative"):
            RankFusion({"bm25": -1.0})
        for weights in ({}, {"a": float("nan")}, {"a": "0.5"}, {"top_k": 1.0}, {"a": 1.0, "a_per_query": 1.0}, {"a b": 1.0}):
            with pytest.raises(ValueError, match="names of inputs"):
                RankFusion(weights)
        with pytest.raises(ValueError, match=r"no weights for the inputs \['sparse'\]; there are for \['bm25'\]"):
            RankFusion({"bm25": 1.0}).run(sparse=BM25)
        with pytest.raises(ValueError, match="not 'rrf'"):
            RankFusion({"bm25": 1.0}, method="rrf")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="top_k must be at least 0, not -1"):
            RankFusion({"bm25": 1.0}).run(top_k=-1)
        with pytest.raises(ValueError, match=r"different numbers of questions: \{'bm25': 1, 'dense': 2\}"):
            RankFusion({"bm25": 1.0, "dense": 1.0}).run(bm25_per_query=[[]], dense_per_query=[[], []])

    def test_to_dict_and_back(self):
        data = RankFusion({"bm25": 0.6, "dense": 0.4}, "reciprocal_rank", 7).to_dict()
        assert data["init_parameters"] == {"weights": {"bm25": 0.6, "dense": 0.4}, "method": "reciprocal_rank", "top_k": 7}
        assert default_from_dict(RankFusion, data).to_dict() == data
