"""Haystack 2's reader: the same parameters, answers and scores; compared with transformers-haystack's where that is here."""

import math

import numpy as np
import pytest
from haystack import Document, Pipeline
from haystack.utils import ComponentDevice, Secret

from needle.components.extractive_reader import (
    ExtractiveReader,
    TransformersExtractiveReader,
    _Place,
    without_overlaps,
)
from needle.components.hugging_face import save_hugging_face
from needle.components.weights import open_checkpoint
from needle.data import SHIPPED_CORPUS
from needle.data.errors import QueryError
from needle.data.squad import read_squad

PARIS = Document(content="Paris is the capital of France.\fIt lies on the Seine.", meta={"page_number": 7})
TEA = Document(content="Tea was first drunk in China. The leaves are dried.")
QUERY = "What is the capital of France?"
CPU = ComponentDevice.from_str("cpu")


@pytest.fixture(scope="module")
def reader() -> TransformersExtractiveReader:
    reader = TransformersExtractiveReader(device=CPU)
    reader.warm_up()
    return reader


def test_answers_with_scores_offsets_pages_and_no_answer(reader):
    answers = reader.run(query=QUERY, documents=[TEA, PARIS], top_k=3)["answers"]
    best = answers[0]
    assert (best.data, best.query, best.document) == ("Paris", QUERY, PARIS)
    assert (best.document_offset.start, best.document_offset.end) == (0, 5)
    assert best.meta["answer_page_number"] == 7
    [place] = best.meta["places"]
    assert (place["document_id"], place["page_number"], place["start_char"], place["end_char"]) == (PARIS.id, 7, 0, 5)
    assert [answer.score for answer in answers] == sorted((answer.score for answer in answers), reverse=True)
    [null] = [answer for answer in answers if answer.data is None]
    assert null.score == pytest.approx(math.prod(1 - a.score for a in answers if a.data is not None))
    assert len(answers) == 4


def test_the_page_is_counted_by_form_feeds(reader):
    assert reader.run("On what does Paris lie?", [PARIS])["answers"][0].meta["answer_page_number"] == 8


def test_parameters_of_a_call_win_and_0_is_a_value(reader):
    only_null = reader.run(QUERY, [PARIS], top_k=0)["answers"]
    assert [(a.data, a.score) for a in only_null] == [(None, 1)]
    assert reader.run(QUERY, [PARIS], top_k=0, no_answer=False)["answers"] == []
    assert all(a.score >= 0.5 for a in reader.run(QUERY, [PARIS], score_threshold=0.5)["answers"])
    strict = TransformersExtractiveReader(device=CPU, score_threshold=0.99)
    assert strict.run(QUERY, [PARIS])["answers"] == []
    assert len(strict.run(QUERY, [PARIS], score_threshold=0.0)["answers"]) > 1


def test_of_overlapping_answers_the_best_stays_unless_told_otherwise(reader):
    def spans(**options):
        answers = reader.run(QUERY, [PARIS], no_answer=False, **options)["answers"]
        return [(a.document_offset.start, a.document_offset.end) for a in answers]

    apart = spans()
    assert all(e <= start or end <= s for i, (s, e) in enumerate(apart) for start, end in apart[:i])
    everything = TransformersExtractiveReader(device=CPU, overlap_threshold=None, no_answer=False)
    assert len(everything.run(QUERY, [PARIS], top_k=50)["answers"]) == 20


def test_overlaps_are_measured_on_the_shorter_span():
    places = [_Place(0.9, 0, 0, 10), _Place(0.8, 0, 8, 12), _Place(0.7, 1, 0, 10), _Place(0.6, 0, 20, 30)]
    assert without_overlaps(places, 0.4, 9) == [places[0], *places[2:]]  # 2 of 4 characters are shared
    assert without_overlaps(places, 0.5, 9) == places
    assert without_overlaps(places, 0.4, 2) == [places[0], places[2]]
    assert without_overlaps(places, None, 2) == places[:2]


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_documents_without_text_are_passed_over(reader, content):
    empty = Document(content=content)
    assert reader.run(QUERY, [empty, PARIS, empty])["answers"][0].data == "Paris"
    assert [(a.data, a.score) for a in reader.run(QUERY, [empty])["answers"]] == [(None, 1)]
    assert reader.run(QUERY, [])["answers"] == []


def test_more_answers_than_a_window_has_spans_are_no_error(reader):
    assert reader.run("Who?", [Document(content="Ada.")], answers_per_seq=1000)["answers"]


def test_small_batches_and_long_documents(reader):
    filler = " ".join(f"In year {n} nothing of note happened." for n in range(300))
    long = Document(content=f"{filler} The keeper was called Ezra Whitcombe. {filler}")
    for options in ({}, {"max_batch_size": 1}, {"max_seq_length": 128, "stride": 32}):
        best = reader.run("What was the keeper called?", [long], **options)["answers"][0]
        assert best.data == "Ezra Whitcombe"
        assert long.content[best.document_offset.start : best.document_offset.end] == "Ezra Whitcombe"


@pytest.mark.parametrize("kind", [ExtractiveReader, TransformersExtractiveReader])
def test_it_stands_in_yaml(kind):
    pipeline = Pipeline()
    component = kind(
        model="some/model", device=CPU, token=Secret.from_env_var("NO_SUCH"), model_kwargs={"torch_dtype": "auto"}
    )
    pipeline.add_component("reader", component)
    text = pipeline.dumps()
    assert f"needle.components.extractive_reader.{kind.__name__}" in text
    again = Pipeline.loads(text, allowed_modules=["needle.*"])
    assert again.dumps() == text
    assert type(again.get_component("reader")) is kind
    assert again.get_component("reader").device == CPU


def test_what_makes_no_sense_is_told(reader):
    with pytest.raises(ValueError, match="not load_in_8bit"):
        TransformersExtractiveReader(model_kwargs={"load_in_8bit": True})
    with pytest.raises(QueryError, match="not blank"):
        reader.run(" ", [PARIS])


class TestAgainstTransformersHaystack:
    """In float32, on the shipped weights."""

    @pytest.fixture
    def old(self, tmp_path_factory):
        module = pytest.importorskip(
            "haystack_integrations.components.readers.transformers",
            reason="transformers-haystack is not installed beside needle",
        )
        folder = tmp_path_factory.mktemp("reader")
        save_hugging_face(open_checkpoint(), folder)
        return module.TransformersExtractiveReader(model=str(folder), device=CPU)

    def test_with_its_defect_put_back_everything_is_equal(self, old):
        """It does not tell the model which tokens are the question's."""
        new = TransformersExtractiveReader(device=CPU, engine="torch", model_kwargs={"torch_dtype": "float32"})
        new.warm_up()
        _, tokenizer, _ = new._reader.load()
        tokenizer.template = tokenizer.template._replace(passage_type=0)
        questions = read_squad(SHIPPED_CORPUS / "questions.json")[::73]
        for n, question in enumerate(questions):
            contexts = [question.context, questions[n - 1].context]
            documents = [Document(content=context, meta={"page_number": n}) for context in contexts]
            options = [{}, {"overlap_threshold": 0.5, "top_k": 5}, {"no_answer": False, "max_seq_length": 64, "stride": 20}][
                n % 3
            ]
            right, found = (one.run(question.question, documents, **options)["answers"] for one in (old, new))
            told, wanted = (
                [
                    (a.data, a.document and a.document.id, a.document_offset, a.meta.get("answer_page_number"))
                    for a in answers
                ]
                for answers in (found, right)
            )
            assert told == wanted
            np.testing.assert_allclose([a.score for a in found], [a.score for a in right], atol=1e-3)
        assert len(questions) == 5
