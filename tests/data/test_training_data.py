"""Training data is checked question by question; what is bad is named with its file and id."""

import copy
import gzip
import hashlib
import json

import pytest

from needle.data import SHIPPED_CORPUS
from needle.data.errors import UnreadableFile
from needle.data.squad import Question
from needle.data.training_data import hold_out, read_training_files

CONTEXT = "Tarn's lighthouse was lit in 1842 by Ezra Whitcombe."
WHEN = {"id": "when", "question": "When?", "answers": [{"text": "1842", "answer_start": 29}]}
WHO = {
    "id": "who",
    "question": "By whom?",
    "answers": [{"text": "Ezra Whitcombe", "answer_start": 37}, {"text": "Whitcombe", "answer_start": 42}],
}
WHY = {"id": "why", "question": "Why?", "answers": [], "is_impossible": True, "plausible_answers": []}


def squad(*questions: dict, context: object = CONTEXT) -> dict:
    qas = copy.deepcopy(list(questions))
    return {"version": "v2.0", "data": [{"title": "Tarn", "source": "us", "paragraphs": [{"context": context, "qas": qas}]}]}


def written(folder, data, name="train.json"):
    (folder / name).write_text(json.dumps(data))
    return folder / name


def changed(**fields: object) -> dict:
    """The question "when" with other fields; None takes one away."""
    return {name: value for name, value in {**WHEN, **fields}.items() if value is not None}


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress], ids=["plain", "gz"])
def test_all_annotators_answers_are_kept_and_the_file_is_named_by_its_digest(tmp_path, pack):
    content = pack(json.dumps(squad(WHEN, WHO, WHY)).encode())
    (tmp_path / "train").write_bytes(content)
    [file] = read_training_files([tmp_path / "train"])
    assert file.questions == (
        Question("when", "When?", CONTEXT, "Tarn", ("1842",), (29,)),
        Question("who", "By whom?", CONTEXT, "Tarn", ("Ezra Whitcombe", "Whitcombe"), (37, 42)),
        Question("why", "Why?", CONTEXT, "Tarn"),
    )
    assert (file.unanswerable, file.bad) == (1, ())
    assert file.sha256 == hashlib.sha256(content).hexdigest()


def test_labels_and_the_shipped_questions_are_training_data():
    [file] = read_training_files([SHIPPED_CORPUS / "questions.json"])
    assert len(file.questions) > 300
    assert file.bad == ()


BAD = [
    (changed(answers=[{"text": "1843", "answer_start": 29}]), "'when': its answer '1843' does not stand at answer_start 29"),
    (
        changed(answers=[{"text": "1842", "answer_start": -23}]),
        "'when': its answer '1842' does not stand at answer_start -23",
    ),
    (changed(answers=[{"text": "1842", "answer_start": "29"}]), "does not stand at answer_start '29'"),
    (changed(answers=[{"text": " ", "answer_start": 6}]), "'when': an answer's 'text' is ' ', not a text"),
    (changed(answers=[{"text": "\u200b", "answer_start": 33}]), r"an answer's 'text' is '\\u200b', in which there is"),
    (changed(answers=[{"text": "1842"}]), "'when': answer .*: the field 'answer_start' is missing"),
    (changed(answers=[{"text": "1842", "answer_start": 29, "end": 33}]), "the field 'end' is unknown"),
    (changed(answers=[]), "'when': it has no answer, and 'is_impossible' is not true"),
    (changed(answers=None), r"'when': the field 'answers' is missing \(it has id, question\)"),
    (changed(answers={"text": ["1842"]}), "'when': its 'answers' are .*, not a list"),
    (changed(question="  "), "'when': its 'question' is '  ', not a text"),
    (changed(anwsers=[]), "'when': the field 'anwsers' is unknown .known: also, answers, id"),
    (changed(is_impossible="no"), "'when': its 'is_impossible' is 'no', neither true nor false"),
    (changed(id=None), "question 0 of paragraph 0 of article 0: the field 'id' is missing"),
    ("When?", "question 0 of paragraph 0 of article 0: 'When[?]' is not an object"),
]


@pytest.mark.parametrize(("question", "complaint"), BAD, ids=[complaint[:50] for _, complaint in BAD])
def test_a_bad_question_is_refused_with_file_and_id_or_skipped_and_counted(tmp_path, question, complaint):
    path = written(tmp_path, squad(question, WHO))
    with pytest.raises(UnreadableFile, match=complaint) as error:
        read_training_files([path])
    assert str(path) in str(error.value)
    assert "1 bad of 2 questions" in str(error.value)
    [file] = read_training_files([path], skip_bad=True)
    assert [q.id for q in file.questions] == ["who"]
    assert len(file.bad) == 1


@pytest.mark.parametrize(("context", "complaint"), [(" ", "'context' is empty"), (7, "'context' is 7, not a text")])
def test_a_bad_passage_makes_all_its_questions_bad(tmp_path, context, complaint):
    path = written(tmp_path, squad(WHEN, WHY, context=context))
    with pytest.raises(UnreadableFile, match=f"2 bad of 2 .*'when': paragraph 0 of article 0: its {complaint}"):
        read_training_files([path])
    with pytest.raises(UnreadableFile, match="no question to train on"):
        read_training_files([path], skip_bad=True)


def test_a_second_question_of_the_same_id_is_bad_in_the_same_file_and_in_another_one(tmp_path):
    one, two = written(tmp_path, squad(WHEN, WHO), "one.json"), written(tmp_path, squad(WHY, WHO), "two.json")
    with pytest.raises(UnreadableFile, match=r"two\.json.*'who' is there twice.*one\.json"):
        read_training_files([one, two])
    first, second = read_training_files([one, two], skip_bad=True)
    assert [len(first.questions), len(second.questions), len(second.bad)] == [2, 1, 1]
    with pytest.raises(UnreadableFile, match="'when' is there twice"):
        read_training_files([written(tmp_path, squad(WHEN, WHEN))])


def test_the_first_bad_questions_are_named_and_the_others_counted(tmp_path):
    path = written(tmp_path, squad(*({**WHEN, "id": i, "question": ""} for i in range(9))))
    with pytest.raises(UnreadableFile, match=r"'4'.*; and 4 more\."):
        read_training_files([path])


@pytest.mark.parametrize("data", [[], {"data": 1}, {"data": [{"paragraphs": [{"context": CONTEXT}]}]}, {"data": [3]}])
def test_another_format_is_refused_whatever_is_skipped(tmp_path, data):
    with pytest.raises(UnreadableFile, match=r"not in SQuAD's format: an object with a list '(data|qas|paragraphs)'"):
        read_training_files([written(tmp_path, data)], skip_bad=True)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UnreadableFile, match="nowhere"):
        read_training_files([tmp_path / "nowhere.json"])


def test_a_passage_is_held_out_with_all_its_questions_whatever_else_there_is():
    questions = [Question(f"{p}-{q}", "?", f"passage {p}", "") for p in range(1000) for q in range(3)]
    train, held_out = hold_out(questions, 0.1, seed=1)
    assert sorted(q.id for q in train + held_out) == sorted(q.id for q in questions)
    assert {q.context for q in train}.isdisjoint(q.context for q in held_out)
    assert 240 < len(held_out) < 360
    assert hold_out(questions[1500:], 0.1, seed=1)[1] == [q for q in held_out if q in questions[1500:]]
    assert hold_out(questions, 0.1, seed=2)[1] != held_out
    assert hold_out(questions, 0, seed=1) == (questions, [])
