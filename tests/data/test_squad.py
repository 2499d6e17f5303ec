"""SQuAD files, plain and compressed; a bad one is named."""

import gzip
import json

import pytest

from needle.data import SHIPPED_CORPUS
from needle.data.errors import UnreadableFile
from needle.data.squad import Question, read_predictions, read_squad

CONTEXT = "Tarn's lighthouse was lit in 1842."
ANSWERED = {"id": 7, "question": "When?", "answers": [{"text": "1842", "answer_start": 29}] * 2}
UNANSWERED = {"id": "b", "question": "By whom?", "answers": [], "is_impossible": True, "plausible_answers": []}
SQUAD = {"data": [{"title": "Tarn", "paragraphs": [{"context": CONTEXT, "qas": [ANSWERED, UNANSWERED]}]}]}


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress], ids=["plain", "gz"])
def test_questions_come_with_their_answers_in_order(tmp_path, pack):
    (tmp_path / "squad").write_bytes(pack(json.dumps(SQUAD).encode()))
    answered, unanswered = read_squad(tmp_path / "squad")
    assert answered == Question("7", "When?", CONTEXT, "Tarn", ("1842", "1842"), (29, 29))
    assert unanswered == Question("b", "By whom?", CONTEXT, "Tarn")
    assert (answered.is_impossible, unanswered.is_impossible) == (False, True)


def test_answers_of_an_impossible_question_are_none(tmp_path):
    qas = [{**ANSWERED, "is_impossible": True}]
    (tmp_path / "squad.json").write_text(json.dumps({"data": [{"paragraphs": [{"context": CONTEXT, "qas": qas}]}]}))
    assert read_squad(tmp_path / "squad.json") == [Question("7", "When?", CONTEXT, "")]


def test_the_shipped_questions_answers_stand_where_they_say():
    questions = read_squad(SHIPPED_CORPUS / "questions.json")
    assert any(q.is_impossible for q in questions)
    for q in questions:
        for text, start in zip(q.answers, q.answer_starts, strict=True):
            assert q.context[start : start + len(text)] == text


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (None, "No such file"),
        (b"", "can't be read as SQuAD JSON"),
        (b"{", "can't be read as SQuAD JSON"),
        (b"\xff\xfe\xfd", "can't be read as SQuAD JSON"),
        (b"[" * 100_000, "can't be read as SQuAD JSON"),
        (gzip.compress(b"{}" * 1000, mtime=0)[:-9], "can't be read as SQuAD JSON"),
        (b"\x1f\x8bnot gzip", "can't be read as SQuAD JSON"),
        (gzip.compress(b"{}", mtime=0)[:10] + b"\xff" * 20, "can't be read as SQuAD JSON"),
        (b"{}", "KeyError 'data'"),
        (b"[]", "not in SQuAD's format"),
        (b'{"data": 1}', "not in SQuAD's format"),
        (b'{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": 1, "question": "x"}]}]}]}', "KeyError 'answers'"),
        (b'{"data": [{"paragraphs": [{"qas": [{"id": 1, "question": "x", "answers": []}]}]}]}', "KeyError 'context'"),
        (
            b'{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": 1, "question": 3, "answers": []}]}]}]}',
            "'1' has 3 where",
        ),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, data, complaint):
    file = tmp_path / "bad.json"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(UnreadableFile, match=complaint) as error:
        read_squad(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress], ids=["plain", "gz"])
def test_predictions_are_texts_by_question_id(tmp_path, pack):
    (tmp_path / "predictions").write_bytes(pack('{"7": "1842", "b": "", "c": "café"}'.encode()))
    assert read_predictions(tmp_path / "predictions") == {"7": "1842", "b": "", "c": "café"}


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (None, "can't be read as predictions: .*No such file"),
        (b"{", "can't be read as predictions"),
        (gzip.compress(b"{}" * 1000, mtime=0)[:-9], "can't be read as predictions"),
        (b'["1842"]', "must hold an object of question id -> answer text, not a list"),
        (b'{"7": "1842", "b": null}', "the answer to question 'b' is null, not a text"),
        (b'{"7": {"text": "1842"}}', """the answer to question '7' is {"text": "1842"}, not a text"""),
    ],
)
def test_a_bad_file_of_predictions_is_named_with_its_entry(tmp_path, data, complaint):
    file = tmp_path / "predictions.json"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(UnreadableFile, match=complaint) as error:
        read_predictions(file)
    assert str(file) in str(error.value)
