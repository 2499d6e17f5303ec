"""Questions with known answers, from every format that they come in."""

import json

import pytest

from needle.data import SHIPPED_CORPUS
from needle.data.errors import UnreadableFile
from needle.data.questions import read_questions


def test_squad_json(tmp_path):
    assert len(read_questions(SHIPPED_CORPUS / "questions.json")) == 349
    assert len(read_questions(SHIPPED_CORPUS / "questions.json", limit=3)) == 3


def test_csv(tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text('question,answer,title\nWho?,Ada,tarn.txt\n"When, then?",,\n', encoding="utf-8-sig")
    who, when = read_questions(file)
    assert (who.question, who.answers, who.title, who.id) == ("Who?", ("Ada",), "tarn.txt", "2")
    assert (when.question, when.answers, when.is_impossible) == ("When, then?", (), True)
    file.write_text("id,question,answers\nx,Who?,Ada|Ada Pell\n")
    [who] = read_questions(file)
    assert (who.id, who.answers) == ("x", ("Ada", "Ada Pell"))


def test_json_lines(tmp_path):
    file = tmp_path / "pairs.jsonl"
    rows = [
        {"question": "Who?", "answers": ["Ada", "Pell"], "context": "It was Ada."},
        {"question": "When?", "answers": {"text": ["1842"], "answer_start": [3]}, "context": "In 1842.", "id": 7},
        {"question": "Why?", "answer": None},
    ]
    file.write_text("\n\n".join(map(json.dumps, rows)))
    who, when, why = read_questions(file)
    assert (who.answers, who.answer_starts, who.context) == (("Ada", "Pell"), (7, -1), "It was Ada.")
    assert (when.id, when.answers, when.answer_starts) == ("7", ("1842",), (3,))
    assert why.is_impossible
    file.write_text(json.dumps({"question": "Two\u2028lines\u0085?", "answer": "x"}, ensure_ascii=False) + "\r\n")
    assert [q.question for q in read_questions(file)] == ["Two\u2028lines\u0085?"]


def test_a_context_in_csv_may_be_huge(tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text(f"question,answer,context\nWho?,Ada,{'Ada. ' * 40_000}\n")
    assert len(read_questions(file)[0].context) == 200_000


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", '{"question": "Who?"}', "line 1: it needs an 'answer'"),
        ("a.jsonl", '{"question": "Who?", "answer": "x"}\n{', "line 2, is no JSON"),
        ("a.jsonl", '{"question": " ", "answer": "x"}', "line 1: it needs a 'question'"),
        ("a.jsonl", '{"question": "Who?", "answers": [["x"]]}', "'answers' must be texts"),
        ("a.jsonl", "[1]", "line 1: it needs a 'question'"),
        ("a.jsonl", "", "has no question"),
        ("a.csv", "question,answer\n", "has no question"),
        ("a.csv", "frage,antwort\nWer?,Ada\n", "line 2: it needs a 'question'"),
        ("a.jsonl", '{"question": "Who?", "answer": "x", "id": 1}\n' * 2, "two questions with the id '1'"),
        ("a.jsonl", "[" * 100_000, "line 1, is no JSON"),
        ("a.jsonl", '{"question": "Who?", "answers": {"text": 3}}', "holds lists 'text' and 'answer_start'"),
        ("a.jsonl", '{"question": "Who?", "answers": {"text": ["a"], "answer_start": ["x"]}}', "lists 'text'"),
        ("a.json", "{}", "not in SQuAD's format"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, content, told):
    (tmp_path / name).write_text(content)
    with pytest.raises(UnreadableFile, match=told) as error:
        read_questions(tmp_path / name)
    assert name in str(error.value)


def test_what_is_no_file(tmp_path):
    with pytest.raises(UnreadableFile, match="can't be read"):
        read_questions(tmp_path / "nothing.jsonl")
    with pytest.raises(UnreadableFile, match=r"There is no file 'owner/name'.*(pip install datasets|no such data set)"):
        read_questions("owner/name")
    (tmp_path / "a.csv").write_bytes(b"question,answer\n\xff\xfe,x\n")
    with pytest.raises(UnreadableFile, match="can't be read as UTF-8"):
        read_questions(tmp_path / "a.csv")
