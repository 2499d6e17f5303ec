"""Test collections, what a pipeline retrieves for them, and the measures of it, worked out by hand."""

import json
from math import log2

import numpy as np
import pytest
import yaml
from haystack import Document
from hypothesis import given
from hypothesis import strategies as st

from needle.data import SHIPPED_CORPUS
from needle.data.errors import PipelineError, UnreadableFile
from needle.pipelines.evaluate import (
    Collection,
    compare,
    means,
    measure,
    measures,
    retrieve,
    squad_collection,
    trec_collection,
)
from needle.pipelines.loading import DEFINITIONS

TARN = "Tarn's lighthouse was lit in 1842."
ORM = "Orm has a harbour; the harbour of Orm was dug in 1842, or in 18421."
PELL = "Ada Pell was keeper in 18420."


def squad(tmp_path, *paragraphs):
    file = tmp_path / "squad.json"
    data = [{"title": "The sea", "paragraphs": [{"context": text, "qas": qas} for text, qas in paragraphs]}]
    file.write_text(json.dumps({"data": data}))
    return file


def question(id, *answers, text="When?"):
    return {"id": id, "question": text, "answers": [{"text": a, "answer_start": 0} for a in answers]}


def trec(tmp_path, docnos, nums, qrels):
    (tmp_path / "docs").write_text("".join(f"<doc><docno>{i}</docno><text>text {i}</text></doc>" for i in docnos))
    (tmp_path / "topics").write_text("".join(f"<top><num>{i}</num><title>query {i}</title></top>" for i in nums))
    (tmp_path / "qrels").write_text("".join(f"{topic} 0 {docno} 1\n" for topic, docno in qrels))
    return trec_collection(tmp_path / "docs", tmp_path / "topics", tmp_path / "qrels")


class TestSquadCollection:
    def test_every_different_paragraph_is_a_document_and_every_answerable_question_a_query(self, tmp_path):
        file = squad(tmp_path, (TARN, [question("q 1", "1842")]), (ORM, [question("q2")]), (TARN, [question("q3", "1842")]))
        collection = squad_collection(file)
        assert [(d.id, d.content) for d in collection.documents] == [("The_sea-1", TARN), ("The_sea-2", ORM)]
        assert collection.queries == {"q_1": "When?", "q3": "When?"}
        assert collection.qrels == {"q_1": {"The_sea-1": 1}, "q3": {"The_sea-1": 1}}
        assert squad_collection(file, limit=1).queries == {"q_1": "When?"}
        assert squad_collection(file, limit=1).documents == collection.documents

    def test_a_paragraph_that_holds_an_answer_as_whole_words_is_relevant_too(self, tmp_path):
        asked = [
            question("q1", "1842"),
            question("q2", "in the 1842"),
            question("q3", "842"),
            question("q4", "The", "PELL!"),
        ]
        collection = squad_collection(
            squad(tmp_path, (TARN, asked), (ORM, [question("q5")]), (PELL, [question("q6")])), "answer"
        )
        assert collection.qrels == {
            "q1": {"The_sea-1": 1, "The_sea-2": 1},  # not "18421", not "18420"
            "q2": {"The_sea-1": 1, "The_sea-2": 1},  # "in 1842" without the article
            "q3": {"The_sea-1": 1},  # its own, whatever it holds
            "q4": {"The_sea-1": 1, "The_sea-3": 1},  # "The" is nothing, any of several answers will do
        }

    def test_what_can_not_be_asked_is_told(self, tmp_path):
        with pytest.raises(UnreadableFile, match="has no answerable question"):
            squad_collection(squad(tmp_path, (TARN, [question("q1")])))
        with pytest.raises(UnreadableFile, match="two questions with the id 'q1'"):
            squad_collection(squad(tmp_path, (TARN, [question("q1", "1842")] * 2)))

    def test_the_shipped_questions(self):
        own = squad_collection(SHIPPED_CORPUS / "questions.json")
        answer = squad_collection(SHIPPED_CORPUS / "questions.json", "answer")
        assert len(own.queries) == 254
        assert all(len(relevant) == 1 for relevant in own.qrels.values())
        assert all(own.qrels[q].items() <= relevant.items() for q, relevant in answer.qrels.items())
        assert sum(len(relevant) for relevant in answer.qrels.values()) > 254


class TestTrecCollection:
    def test_the_queries_are_the_topics_that_were_judged(self, tmp_path):
        collection = trec(tmp_path, "ab", [3, 7], [("7", "a"), ("7", "elsewhere")])
        assert [d.id for d in collection.documents] == ["a", "b"]
        assert (collection.queries, collection.note) == ({"7": "query 7"}, "")
        assert collection.qrels == {"7": {"a": 1, "elsewhere": 1}}

    def test_judgements_numbered_in_the_order_of_the_topics(self, tmp_path):
        collection = trec(tmp_path, "ab", [1, 2, 4], [("1", "a"), ("3", "b"), ("2", "a")])
        assert collection.queries == {"1": "query 1", "2": "query 2", "3": "query 4"}
        assert collection.qrels == {"1": {"a": 1}, "3": {"b": 1}, "2": {"a": 1}}
        assert "taken in the order of the topics" in collection.note

    def test_files_that_do_not_belong_together(self, tmp_path):
        with pytest.raises(UnreadableFile, match="topics' does not have: 3, 5"):
            trec(tmp_path, "ab", [1, 2, 4], [("1", "a"), ("3", "b"), ("5", "a")])
        with pytest.raises(UnreadableFile, match="judges none of the documents"):
            trec(tmp_path, "ab", [1], [("1", "c")])


class TestRetrieve:
    SEA = Collection(
        [Document(id=i, content=text, meta={"title": i}) for i, text in {"z": TARN, "m": ORM, "a": PELL, "e": ""}.items()],
        {"harbour": "Where is the harbour lit?", "none": "xyzzy", "keeper": "Who was the keeper?"},
        {"harbour": {"m": 1}, "none": {"m": 1}, "keeper": {"a": 1}},
    )

    def test_the_documents_that_a_pipelines_reader_would_get(self):
        done = []
        found = retrieve("bm25_qa", self.SEA, 2, progress=lambda *counts: done.append(counts))
        assert {query: list(ranking) for query, ranking in found.run.items()} == {
            "harbour": ["m", "z"],
            "none": [],
            "keeper": ["a"],
        }
        assert found.run["harbour"]["m"] > found.run["harbour"]["z"] > 0
        assert found.index_s > 0 < found.query_ms
        assert done == [(3, 3)]
        assert list(retrieve("bm25_qa", self.SEA, 1).run["harbour"]) == ["m"]

    def test_a_component_that_takes_one_query_only_is_asked_one_at_a_time(self, tmp_path):
        definition = yaml.safe_load((DEFINITIONS / "bm25_qa.yaml").read_text())
        definition["components"]["ranker"] = {
            "type": "haystack.components.rankers.meta_field.MetaFieldRanker",
            "init_parameters": {"meta_field": "title", "sort_order": "descending", "weight": 1.0},
        }
        definition["connections"] = [
            {"sender": "retriever.documents", "receiver": "ranker.documents"},
            {"sender": "ranker.documents", "receiver": "reader.documents"},
        ]
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(definition))
        assert list(retrieve(tmp_path / "own.yaml", self.SEA, 3).run["harbour"]) == ["z", "m"]

    def test_a_pipeline_that_finds_no_documents_is_told(self):
        with pytest.raises(PipelineError, match="needs an input 'query'"):
            retrieve("indexing", self.SEA, 10)


QRELS = {"graded": {"a": 1, "b": 2, "c": 0}, "single": {"x": 1}, "nothing": {"y": 1}, "absent": {"y": 1}}
RUN = {"graded": {"c": 9.0, "b": 8.0, "a": 7.0}, "single": {"x": 0.5, "y": 0.5, "z": 0.5}, "nothing": {}}


class TestMeasures:
    def test_worked_by_hand(self):
        names = ["recall@1", "recall@2", "recall@3", "mrr@10", "ndcg@10", "map"]
        scores = measure(RUN, QRELS, names)
        ndcg = (2 / log2(3) + 1 / log2(4)) / (2 / log2(2) + 1 / log2(3))  # found c b a, best b a c
        assert scores == {
            "graded": pytest.approx(dict(zip(names, [0, 1 / 2, 1, 1 / 2, ndcg, (1 / 2 + 2 / 3) / 2], strict=True))),
            "single": dict.fromkeys(names, 1.0),  # the order counts, not the ids of what has equal scores
            "nothing": dict.fromkeys(names, 0.0),
            "absent": dict.fromkeys(names, 0.0),
        }
        assert means(scores)["recall@2"] == (1 / 2 + 1 + 0 + 0) / 4

    def test_a_cut_is_a_cut(self):
        run = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
        names = ["mrr@1", "mrr@2", "ndcg@1", "ndcg@2"]
        assert measure(run, {"q": {"b": 1}}, names)["q"] == pytest.approx(
            {"mrr@1": 0, "mrr@2": 1 / 2, "ndcg@1": 0, "ndcg@2": 1 / log2(3)}
        )

    def test_what_is_measured_does_not_go_below_what_is_retrieved(self):
        assert measures(100) == [
            *["recall@1", "recall@5", "recall@10", "recall@20", "recall@100"],
            *["mrr@10", "ndcg@10", "map"],
        ]
        assert measures(5) == ["recall@1", "recall@5", "mrr@5", "ndcg@5", "map"]

    @given(st.permutations("abcdefghijkl"), st.sets(st.sampled_from("abcdefghijkl"), min_size=1))
    def test_recall_grows_with_k_and_all_measures_lie_between_0_and_1(self, ranking, relevant):
        names = measures(12)
        run = {"q": dict.fromkeys(ranking, 0.0)}
        scores = measure(run, {"q": dict.fromkeys(relevant, 1)}, names)["q"]
        recalls = [scores[name] for name in names if name.startswith("recall")]
        assert recalls == sorted(recalls)
        assert all(0 <= value <= 1 for value in scores.values())


class TestCompare:
    def test_a_run_with_itself(self):
        scores = {str(i): {"map": i / 7} for i in range(7)}
        compared = compare(scores, scores)["map"]
        assert compared.mean == compared.other == pytest.approx(3 / 7)
        assert (compared.difference, compared.better, compared.worse, compared.equal, compared.p) == (0, 0, 0, 7, 1)

    def test_a_clearly_better_run(self):
        better = {str(i): {"map": 0.5, "mrr@10": 0.5} for i in range(30)}
        worse = {str(i): {"map": 0.4, "mrr@10": 0.5 + 0.1 * (-1) ** i} for i in range(30)}
        compared = compare(better, worse)
        assert compared["map"].difference == pytest.approx(0.1)
        assert (compared["map"].better, compared["map"].p) == (30, 0.0001)
        assert (compared["mrr@10"].better, compared["mrr@10"].worse, compared["mrr@10"].p) == (15, 15, 1)
        assert compare(worse, better)["map"].worse == 30

    def test_p_is_the_share_of_assignments_with_as_large_a_difference(self):
        """Differences 1, 2, 4, 8: of the 16 assignments of their signs, 4 give a sum of 13 or more, or -13 or less."""
        ours = {q: {"map": value} for q, value in {"a": 0.0, "b": 2.0, "c": 4.0, "d": 8.0}.items()}
        theirs = {q: {"map": value} for q, value in {"a": 1.0, "b": 0.0, "c": 0.0, "d": 0.0}.items()}
        assert compare(ours, theirs)["map"].p == pytest.approx(4 / 16, abs=0.02)

    def test_p_is_scipys(self):
        stats = pytest.importorskip("scipy.stats")
        differences = np.random.default_rng(1).normal(0.02, 0.1, 60)
        p = compare({str(i): {"map": d} for i, d in enumerate(differences)}, {str(i): {"map": 0.0} for i in range(60)})[
            "map"
        ].p
        expected = stats.permutation_test((differences,), np.sum, permutation_type="samples", rng=np.random.default_rng(2))
        assert 0.01 < p < 0.5
        assert p == pytest.approx(expected.pvalue, abs=0.02)


class TestDataSets:
    def test_cranfield(self, shared):
        folder = shared / "data" / "ir" / "cranfield"
        collection = trec_collection(folder / "cran.all.1400.xml.gz", folder / "cran.qry.xml", folder / "cranqrel.trec.txt")
        assert (len(collection.documents), len(collection.queries)) == (1400, 225)
        assert [d.id for d in collection.documents if not d.content] == ["471", "995"]
        assert collection.queries["3"] == "what problems of heat conduction in composite slabs have been solved so far ."
        scores = means(measure(retrieve("bm25_qa", collection, 100).run, collection.qrels, measures(100)))
        assert 0.28 < scores["map"] < 0.31
        assert 0.36 < scores["ndcg@10"] < 0.40

    def test_squad(self, shared):
        file = shared / "data" / "squad" / "dev-v2.0.json.gz"
        own, answer = squad_collection(file, limit=300), squad_collection(file, "answer", limit=300)
        assert (len(own.documents), len(own.queries)) == (1204, 300)
        run = retrieve("bm25_qa", own, 20).run
        assert means(measure(run, own.qrels, ["recall@10"]))["recall@10"] > 0.9
        # Of more that is relevant, the first is found no later.
        first = [means(measure(run, collection.qrels, ["mrr@10"]))["mrr@10"] for collection in (own, answer)]
        assert first[0] <= first[1]
