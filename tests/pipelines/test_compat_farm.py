"""Haystack 1's readers over Haystack 3's dataclasses: as notebooks use them; scores are in tests/parity."""

import json

import pytest
import torch
import transformers
from haystack import Document, ExtractedAnswer, Pipeline

from needle.components.store import SQLiteDocumentStore
from needle.data import SHIPPED_CORPUS, SHIPPED_READER
from needle.data.errors import ModelError, NeedleError, UnreadableFile
from needle.pipelines import QA
from needle.pipelines.compat import FARMReader, TransformersReader, pipeline
from needle.pipelines.compat.answers import margins_around, window_around

PARIS = Document(content="Paris is the capital of France.\fIt lies on the Seine.", meta={"page_number": 7, "name": "a"})
TEA = Document(content="Tea was first drunk in China. The leaves are dried.")
EMPTY = [Document(content=None), Document(content=""), Document(content=" \n")]
QUERY = "What is the capital of France?"


@pytest.fixture(scope="module")
def reader() -> FARMReader:
    return FARMReader(return_no_answer=True, use_gpu=False)


@pytest.fixture(scope="module")
def other() -> TransformersReader:
    return TransformersReader(return_no_answers=True, use_gpu=False)


BOTH = pytest.mark.parametrize("name", ["reader", "other"])


@BOTH
class TestPredict:
    def test_answers_are_haystack_3s_with_haystack_1s_names(self, name, request):
        found = request.getfixturevalue(name).predict(query=QUERY, documents=[TEA, PARIS], top_k=2)
        assert found["query"] == QUERY
        best = found["answers"][0]
        assert isinstance(best, ExtractedAnswer)
        assert (best.data, best.answer, best.query, best.type) == ("Paris", "Paris", QUERY, "extractive")
        assert best.document is PARIS
        assert best.document_ids == [PARIS.id]
        assert best.offsets_in_document == [best.document_offset] == [ExtractedAnswer.Span(0, 5)]
        assert best.context[best.offsets_in_context[0].start : best.offsets_in_context[0].end] == "Paris"
        assert 0.8 < best.score <= 1
        assert len(found["answers"]) == 2

    def test_the_page_is_counted_from_the_documents(self, name, request):
        found = request.getfixturevalue(name).predict("On what does Paris lie?", [PARIS])
        assert found["answers"][0].meta["answer_page_number"] == 8

    def test_no_answer_has_no_data(self, name, request):
        found = request.getfixturevalue(name).predict("Who invented the telephone?", [TEA, PARIS])
        [null] = [answer for answer in found["answers"] if answer.data is None]
        assert (null.answer, null.document, null.document_ids) == ("", None, None)
        assert null.offsets_in_document == [ExtractedAnswer.Span(0, 0)]
        assert null is found["answers"][0]

    def test_no_answer_falls_as_an_answer_gets_surer(self, name, request):
        reader = request.getfixturevalue(name)
        sure, unsure = (
            next(a.score for a in reader.predict(query, [PARIS])["answers"] if a.data is None)
            for query in (QUERY, "Who invented the telephone?")
        )
        assert sure < unsure

    def test_without_text_the_answer_is_no_answer(self, name, request):
        reader = request.getfixturevalue(name)
        for documents in ([], EMPTY):
            [null] = reader.predict(QUERY, documents)["answers"]
            assert (null.data, null.score) == (None, 1.0)
        assert reader.predict(QUERY, [*EMPTY, PARIS])["answers"][0].data == "Paris"

    def test_it_is_a_component(self, name, request):
        piped = Pipeline()
        piped.add_component("reader", request.getfixturevalue(name))
        again = Pipeline.loads(piped.dumps(), allowed_modules=["needle.*"])
        assert again.dumps() == piped.dumps()
        found = again.run({"reader": {"query": QUERY, "documents": [PARIS], "top_k": 1}})
        assert [answer.data for answer in found["reader"]["answers"]] == ["Paris"]


@BOTH
class TestPredictBatch:
    def batch(self, name, request, queries, documents):
        found = request.getfixturevalue(name).predict_batch(queries=queries, documents=documents, top_k=1, batch_size=2)
        assert found["queries"] == queries
        return found

    def test_a_list_for_each_question(self, name, request):
        found = self.batch(name, request, [QUERY, "Where was tea first drunk?"], [[PARIS, TEA], [TEA]])
        assert [answers[0].data for answers in found["answers"]] == ["Paris", "China"]
        assert len(found["no_ans_gaps"]) == 2

    def test_several_lists_for_one_question(self, name, request):
        found = self.batch(name, request, [QUERY], [[PARIS], [TEA]])
        assert [answers[0].data for answers in found["answers"]] == ["Paris", None]

    def test_one_list_is_asked_one_by_one(self, name, request):
        found = self.batch(name, request, [QUERY], [PARIS, TEA])
        assert [answers[0].data for answers in found["answers"]] == ["Paris", None]
        found = self.batch(name, request, [QUERY, "Where was tea first drunk?"], [PARIS, TEA])
        assert [[answers[0].data for answers in per_query] for per_query in found["answers"]] == [
            ["Paris", None],
            [None, "China"],
        ]

    def test_pages_are_told_and_it_gives_what_predict_gives(self, name, request):
        reader = request.getfixturevalue(name)
        [answers] = reader.predict_batch(["On what does Paris lie?"], [[PARIS, TEA]])["answers"]
        alone = reader.predict("On what does Paris lie?", [PARIS, TEA])["answers"]
        assert [(a.data, a.meta) for a in answers] == [(a.data, a.meta) for a in alone]
        assert answers[0].meta["answer_page_number"] == 8

    def test_other_numbers_of_lists_are_told(self, name, request):
        with pytest.raises(ValueError, match="3 queries need as many lists of documents, not 2"):
            self.batch(name, request, ["a", "b", "c"], [[PARIS], [TEA]])


class TestFarm:
    def test_texts_can_be_asked(self, reader):
        assert reader.predict_on_texts(QUERY, [TEA.content, PARIS.content], top_k=1)["answers"][0].data == "Paris"

    def test_the_gap_is_the_boost_at_which_no_answer_wins(self, reader):
        gap = reader.predict(QUERY, [PARIS])["no_ans_gap"]
        by_score = FARMReader(return_no_answer=True, use_confidence_scores=False, use_gpu=False)
        for boost, expected in ((gap - 0.5, "Paris"), (gap + 0.5, None)):
            by_score.update_parameters(no_ans_boost=boost)
            assert by_score.predict(QUERY, [PARIS])["answers"][0].data == expected

    def test_raw_scores_a_threshold_and_the_context(self):
        reader = FARMReader(use_confidence_scores=False, confidence_threshold=3.0, context_window_size=12, use_gpu=False)
        answers = reader.predict(QUERY, [PARIS, TEA])["answers"]
        assert [answer.data for answer in answers] == ["Paris"]
        assert answers[0].score > 3
        assert answers[0].context == "Paris is the"

    def test_of_an_answer_that_overlapping_documents_share_one_stays(self, reader):
        """Haystack's splitters tell the overlap; the old reader crashed, or gave the answer twice."""
        left, right = "The lighthouse of Tarn stood on a rock. Its keeper was Ezra Whitcombe.", "He died in 1901."
        shared = left[left.index("Its") :]
        overlap = {"doc_id": "b", "range": (left.index("Its"), len(left))}
        back = {"doc_id": "a", "range": (0, len(shared))}
        documents = [
            Document(id="a", content=left, meta={"_split_overlap": [overlap]}),
            Document(id="b", content=f"{shared} {right}", meta={"_split_overlap": [back]}),
        ]
        query = "Who was the keeper of the lighthouse?"
        for answers in (
            reader.predict(query, documents)["answers"],
            reader.predict_batch([query], [documents])["answers"][0],
        ):
            assert [answer.data for answer in answers].count("Ezra Whitcombe") == 1
        apart = [Document(content=document.content) for document in documents]
        assert [a.data for a in reader.predict(query, apart)["answers"]].count("Ezra Whitcombe") == 2

    @pytest.mark.parametrize(
        ("parameters", "told"),
        [
            ({"top_k": 0}, "top_k must be at least 1"),
            ({"doc_stride": 0}, "doc_stride must be at least 1"),
            ({"model_kwargs": {"load_in_8bit": True}}, "not load_in_8bit"),
        ],
    )
    def test_what_makes_no_sense_is_told(self, parameters, told):
        with pytest.raises(ValueError, match=told):
            FARMReader(**parameters)
        with pytest.raises(ValueError, match="not top_k"):
            FARMReader().update_parameters(top_k=3)

    def test_it_is_saved_and_opened_again_also_by_transformers(self, reader, tmp_path):
        reader.save(tmp_path / "mine")
        saved = FARMReader(str(tmp_path / "mine"), return_no_answer=True, use_gpu=False)
        found, before = (one.predict(QUERY, [PARIS])["answers"] for one in (saved, reader))
        assert [(a.data, a.score) for a in found] == [(a.data, a.score) for a in before]
        model = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "mine")
        assert model.config.num_hidden_layers == 12
        with pytest.raises(ModelError, match=r"is in .* already"):
            FARMReader(str(tmp_path / "mine")).save(tmp_path / "mine")


class TestTransformersReader:
    def test_its_answers_are_the_pipelines(self, other):
        asked = pipeline("question-answering", device="cpu", max_seq_len=256, doc_stride=128)
        rows = asked(question=QUERY, context=PARIS.content, top_k=3, handle_impossible_answer=True)
        answers = [a for a in other.predict(QUERY, [PARIS])["answers"] if a.data is not None]
        assert [(a.data, a.score) for a in answers] == [(row["answer"], row["score"]) for row in rows if row["answer"]]

    def test_model_is_another_name(self):
        found = TransformersReader(model=str(SHIPPED_READER), tokenizer=str(SHIPPED_READER)).predict(QUERY, [PARIS])
        assert found["answers"][0].data == "Paris"
        with pytest.raises(ValueError, match="not both"):
            TransformersReader(model="a", model_name_or_path="b")


@pytest.mark.parametrize(
    ("start", "end", "size", "length", "expected"),
    [
        (50, 60, 20, 200, (45, 65)),
        (0, 5, 20, 200, (0, 20)),  # what is missing on the left is added on the right
        (195, 200, 20, 200, (180, 200)),
        (50, 90, 20, 200, (50, 90)),  # half of 41 on each side of 70: 50 ... 90
        (0, 5, 20, 10, (0, 10)),
    ],
)
def test_farms_context_is_centred_on_the_answer(start, end, size, length, expected):
    assert window_around(start, end, size, length) == expected


def test_the_other_readers_context_has_margins():
    assert margins_around(5, 9, 10, 15) == (0, 15)
    assert margins_around(50, 60, 10, 500) == (40, 70)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> SQLiteDocumentStore:
    """A store with verdicts, as people give them."""
    qa = QA.open(tmp_path_factory.mktemp("labels") / "store")
    qa.index_documents([PARIS, TEA, Document(content="Rome, the capital of Italy, was founded on seven hills.")])
    for query, verdict, correction in (
        (QUERY, "right", None),
        ("Where was tea first drunk?", "wrong", "China"),
        ("On what was Rome founded?", "wrong", "Rome"),
        ("How tall is the capital of France?", "no answer", None),
    ):
        qa.feedback(qa.ask(query), verdict, correction)
    return qa.store


class TestTraining:
    """Delegated to needle's, on a model of random weights: what counts is which settings arrive, and that it then reads."""

    @pytest.fixture(scope="class")
    @classmethod
    def small(cls, tmp_path_factory):
        """A tiny BERT with the shipped vocabulary."""
        folder = tmp_path_factory.mktemp("small")
        torch.manual_seed(1)
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        transformers.BertForQuestionAnswering(transformers.BertConfig(**sizes)).save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(SHIPPED_READER).save_pretrained(folder)
        some = json.loads((SHIPPED_CORPUS / "questions.json").read_text())["data"]
        (folder / "train.json").write_text(json.dumps({"data": some[:1]}))
        (folder / "dev.json").write_text(json.dumps({"data": some[1:2]}))
        return folder

    def test_it_is_trained_and_saved_and_is_what_was_trained(self, small, tmp_path):
        reader = FARMReader(str(small), use_gpu=False, max_seq_len=128, doc_stride=32)
        reader.train(
            str(small),
            "train.json",
            dev_filename="dev.json",
            test_filename="dev.json",
            n_epochs=2,
            batch_size=4,
            learning_rate=1e-3,
            grad_acc_steps=2,
            save_dir=tmp_path / "trained",
        )
        assert reader.model_name_or_path == str(tmp_path / "trained")
        run = json.loads((tmp_path / "trained" / "run.json").read_text())["run"]
        settings = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "accumulate": 2, "warmup": 0.2, "stride": 32}
        assert settings.items() <= run["settings"].items()
        assert run["held_out"] == str(small / "dev.json")
        assert reader.predict(QUERY, [PARIS])["answers"]
        with pytest.raises(NeedleError, match="is not empty"):
            reader.train(str(small), "train.json", save_dir=tmp_path / "trained")

    def test_it_learns_from_a_teacher(self, small, tmp_path):
        student = FARMReader(str(small), use_gpu=False)
        student.distil_from(
            FARMReader(str(small)),
            small,
            "train.json",
            distillation_loss_weight=1.0,
            temperature=3.0,
            n_epochs=1,
            save_dir=tmp_path / "student",
        )
        run = json.loads((tmp_path / "student" / "run.json").read_text())["run"]
        assert run["teacher"] == str(small)
        assert (run["settings"]["temperature"], run["settings"]["teacher_weight"]) == (3.0, 0.999)

    def test_what_needle_does_not_have_is_told(self, reader, small):
        with pytest.raises(ValueError, match="early_stopping"):
            reader.train(small, "train.json", early_stopping=object())
        with pytest.raises(ValueError, match="'mse' was asked for"):
            reader.distil_from(reader, small, "train.json", distillation_loss="mse")
        with pytest.raises(NotImplementedError, match="layers=6"):
            reader.distil_intermediate_layers_from(reader)


class TestEvaluation:
    def test_on_a_file(self, tmp_path):
        some = json.loads((SHIPPED_CORPUS / "questions.json").read_text())["data"][:5]
        (tmp_path / "some.json").write_text(json.dumps({"data": some}))
        impossible = [qa["is_impossible"] for article in some for part in article["paragraphs"] for qa in part["qas"]]
        by_score = FARMReader(use_confidence_scores=False, use_gpu=False)
        figures = by_score.eval_on_file(tmp_path, "some.json")
        assert figures["Total_no_answer"] == sum(impossible) > 5
        assert figures["Total_text_answer"] == len(impossible) - sum(impossible)
        assert 60 < figures["EM_text_answer"] <= figures["f1_text_answer"] <= figures["top_n_f1_text_answer"]
        assert figures["f1_text_answer"] <= figures["top_n_accuracy_text_answer"] <= 100
        parts = [figures[f"EM_{part}"] * figures[f"Total_{part}"] for part in ("text_answer", "no_answer")]
        assert figures["EM"] == pytest.approx(sum(parts) / len(impossible))

    def test_on_the_labels_of_a_store(self, reader, labelled):
        figures = reader.eval(labelled)
        assert figures["top_n"] == 4
        assert (figures["Total_text_answer"], figures["Total_no_answer"]) == (3, 1)
        assert figures["EM_no_answer"] == 100
        assert figures["EM_text_answer"] == pytest.approx(200 / 3)
        assert figures["EM"] == pytest.approx(75)
        assert figures["f1"] >= figures["EM"]
        assert figures["top_n_accuracy"] >= figures["f1"]
        assert figures["reader_time"] == pytest.approx(4 * figures["seconds_per_query"])

    def test_confidences_are_calibrated_and_saved(self, labelled, tmp_path):
        reader = FARMReader(use_gpu=False)
        before = reader.predict(QUERY, [PARIS])["answers"][0]
        reader.calibrate_confidence_scores(labelled)
        assert reader.temperature != 1
        after = reader.predict(QUERY, [PARIS])["answers"][0]
        assert after.data == before.data
        assert (after.score < before.score) == (reader.temperature > 1)
        reader.save(tmp_path / "calibrated")
        again = FARMReader(str(tmp_path / "calibrated"), use_gpu=False)
        assert again.temperature == pytest.approx(reader.temperature)
        assert again.predict(QUERY, [PARIS])["answers"][0].score == pytest.approx(after.score, abs=0.02)

    def test_a_store_or_a_file_without_labels_is_told(self, reader, tmp_path):
        with pytest.raises(NeedleError, match="no label that tells what is right"):
            reader.eval(SQLiteDocumentStore(tmp_path))
        with pytest.raises(UnreadableFile, match=r"nothing\.json"):
            reader.eval_on_file(tmp_path, "nothing.json")
