"""The Python API."""

import asyncio
import json
import os
import shutil
import subprocess
import sys

import pytest
from haystack import Document
from haystack.dataclasses import ByteStream

from needle.data import SHIPPED_READER
from needle.data.errors import PipelineError, QueryError, UnreadableFile
from needle.pipelines import QA
from needle.pipelines.loading import DEFINITIONS

TARN = "The lighthouse of Tarn was lit in 1842. Its keeper was Ezra Whitcombe."


@pytest.fixture
def qa(tmp_path):
    return QA.open(tmp_path / "store")


def test_documents_are_asked_without_a_store_of_ones_own():
    qa = QA.from_documents([Document(content=TARN, meta={"title": "Tarn"}), Document(content="Nothing else is here.")])
    result = qa.ask("Who was the keeper of the lighthouse?")
    assert result.is_answered
    assert result.answer.data == "Ezra Whitcombe"
    assert result.answer.document.meta["title"] == "Tarn"
    assert 0 < result.no_answer_score < 0.1 < 0.9 < result.answer.score < 1


def test_what_the_documents_do_not_tell_is_not_answered():
    result = QA.from_documents([Document(content=TARN)]).ask("Who wrote the opera about the lighthouse?")
    assert result.answer is None
    assert not result.is_answered
    assert result.no_answer_score > 0.5


def test_an_empty_store_answers_nothing(qa):
    result = qa.ask("Is anybody there?")
    assert (result.answers, result.no_answer_score, result.is_answered) == ([], 1.0, False)


def test_many_questions_are_answered_in_their_order(qa):
    qa.index_documents([Document(content=TARN)])
    results = qa.ask_many(["When was the lighthouse lit?", "Who was its keeper?"], top_k=1)
    assert [r.query for r in results] == ["When was the lighthouse lit?", "Who was its keeper?"]
    assert [r.answer.data for r in results] == ["1842", "Ezra Whitcombe"]
    assert [len(r.answers) for r in results] == [1, 1]
    assert qa.ask_many([]) == []
    assert [r.query for r in qa.ask_many(r.query for r in results)] == [r.query for r in results]


def test_passages_are_searched_where_an_event_loop_runs_already(qa):
    """As in a notebook."""
    qa.index_documents([Document(content=TARN)])

    async def cell() -> list[Document]:
        return qa.search("When was the lighthouse lit?")

    assert [d.content for d in asyncio.run(cell())] == [TARN]


def test_filters_choose_the_passages(qa):
    qa.index_documents([Document(content=TARN.replace("1842", y), meta={"year": int(y)}) for y in ("1842", "1901")])
    for year in (1842, 1901):
        chosen = {"field": "meta.year", "operator": "==", "value": year}
        assert qa.ask("When was the lighthouse lit?", filters=chosen).answer.data == str(year)


def test_a_changed_document_replaces_its_passages(qa):
    qa.index_documents([Document(id="tarn", content=TARN)])
    qa.index_documents([Document(id="tarn", content=TARN.replace("Ezra Whitcombe", "Ada Pell"))])
    assert qa.store.count_documents() == 1
    assert qa.ask("Who was the keeper?").answer.data == "Ada Pell"


def test_files_are_indexed_once_and_again_when_they_change(qa, tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "tarn.txt").write_text(TARN)
    (folder / "other.md").write_text("# Other\n\nNothing *here*.")
    progress = []
    first = qa.index([folder], lambda *told: progress.append(told))
    assert (len(first.indexed), first.passages, progress) == (2, 2, [("file", 2, 2), ("passage", 2, 2)])
    assert qa.index([folder]).unchanged == [str(folder / "other.md"), str(folder / "tarn.txt")]
    (folder / "tarn.txt").write_text(TARN.replace("1842", "1843"))
    assert qa.index([folder]).indexed == [str(folder / "tarn.txt")]
    assert qa.store.count_documents() == 2
    assert qa.ask("When was the lighthouse lit?").answer.data == "1843"


def test_a_file_that_became_unreadable_keeps_what_was_stored(qa, tmp_path):
    file = tmp_path / "tarn.txt"
    file.write_text(TARN)
    qa.index([file])
    file.write_bytes(b"\0\1\2")
    report = qa.index([file])
    assert [s.path for s in report.skipped] == [str(file)]
    assert "what was indexed of it before is kept" in report.skipped[0].reason
    assert qa.ask("Who was the keeper?").answer.data == "Ezra Whitcombe"


def test_streams_are_indexed_under_their_name(qa):
    report = qa.index([ByteStream(TARN.encode(), meta={"file_path": "notes.txt"})])
    assert report.indexed == ["notes.txt"]
    assert qa.ask("Who was the keeper?").answer.meta["places"][0]["file_path"] == "notes.txt"


def test_files_and_folders_are_removed_even_when_they_are_gone(qa, tmp_path):
    for name in ("a/one.txt", "a/b/two.txt", "ab/three.txt"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{TARN} {name}")
    qa.index([tmp_path])
    (tmp_path / "a/one.txt").unlink()
    assert qa.remove([tmp_path / "a"]) == 2
    assert [f.rsplit("/", 1)[-1] for f in qa.store.files()] == ["three.txt"]
    assert qa.remove([tmp_path / "nothing"]) == 0


def test_an_answers_offsets_lead_to_the_words_in_the_source_document(qa):
    text = "Lead-in without meaning. " * 60 + TARN + " Closing words that say little." * 60
    qa.index_documents([Document(id="long", content=text)])
    answer = qa.ask("Who was the keeper of the lighthouse?").answer
    place = answer.meta["places"][0]
    assert place["source_id"] == "long"
    assert text[place["start_char"] : place["end_char"]] == answer.data == "Ezra Whitcombe"


@pytest.mark.parametrize("query", ["", "  ", None])
def test_a_blank_question_is_refused(qa, query):
    with pytest.raises(QueryError, match="not blank"):
        qa.ask(query)


def test_a_path_that_does_not_exist_is_named(qa, tmp_path):
    with pytest.raises(UnreadableFile, match="nowhere"):
        qa.index([tmp_path / "nowhere"])


def test_status_tells_what_is_there(qa):
    qa.index([ByteStream(TARN.encode(), meta={"file_path": "notes.txt"})])
    status = qa.status()
    assert status["files"] == {"notes.txt": 1}
    assert status["passages"] == status["passages_with_tokens"] == 1
    assert status["size_bytes"] > 0
    assert status["reader"] == "minilm-squad2 (shipped)"


@pytest.mark.parametrize(
    ("first", "asked_for", "sends"),
    [("needle.pipelines", None, False), ("haystack", None, False), ("needle.pipelines", "True", True)],
)
def test_haystacks_telemetry_is_off_unless_asked_for(first, asked_for, sends, tmp_path):
    """Whichever of the two is imported first; nothing is sent here either way."""
    environment = {k: v for k, v in os.environ.items() if k != "HAYSTACK_TELEMETRY_ENABLED"} | {"HOME": str(tmp_path)}
    if asked_for is not None:
        environment["HAYSTACK_TELEMETRY_ENABLED"] = asked_for
    code = (
        f"import {first}, haystack.telemetry._telemetry as telemetry, needle.pipelines; "
        "print(telemetry.telemetry is not None)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(sends)


def test_one_path_need_not_be_in_a_list(qa, tmp_path):
    file = tmp_path / "docs" / "tarn.txt"
    file.parent.mkdir()
    file.write_text(TARN)
    assert qa.index(str(file.parent)).indexed == [str(file)]
    assert qa.index(file).unchanged == [str(file)]
    assert qa.remove(str(file)) == 1


@pytest.mark.parametrize("paths", ["", [""]])
def test_an_empty_path_removes_nothing(qa, tmp_path, paths):
    qa.index([ByteStream(TARN.encode(), meta={"file_path": "notes.txt"})])
    with pytest.raises(UnreadableFile, match="empty path"):
        qa.remove(paths)
    assert list(qa.store.files()) == ["notes.txt"]


def test_a_single_question_is_not_taken_for_a_list_of_letters(qa):
    with pytest.raises(QueryError, match="list of questions"):
        qa.ask_many("Who?")


def test_files_are_tokenised_anew_for_another_reader(qa, tmp_path):
    """Another reader's tokenizer, here the shipped one with a word added."""
    folder = tmp_path / "reader"
    shutil.copytree(SHIPPED_READER, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["whitcombe"] = tokenizer["model"]["vocab"].pop("[unused42]")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    file = tmp_path / "tarn.txt"
    file.write_text(TARN)
    qa.index(file)
    other = QA.open(tmp_path / "store", model=str(folder))
    assert other.status()["passages_with_tokens"] == 0
    assert other.ask("Who was the keeper?").answer is not None
    assert other.index(file).indexed == [str(file)]
    assert other.status()["passages_with_tokens"] == other.status()["passages"] == 1
    assert other.index(file).unchanged == [str(file)]


def test_documents_are_split_as_the_indexing_definition_says(tmp_path):
    definition = (DEFINITIONS / "indexing.yaml").read_text().replace("sentence", "word").replace("128", "4")
    (tmp_path / "words.yaml").write_text(definition.replace("overlap: 32", "overlap: 0"))
    qa = QA.open(tmp_path / "store", indexing=tmp_path / "words.yaml")
    assert qa.index_documents([Document(content="one two three four five six seven eight nine")]) == 3
    with pytest.raises(PipelineError, match="needs one FileConverter"):
        QA.open(tmp_path / "store", indexing="bm25_qa")


def test_indexes_in_shards_give_the_same_answers_and_stay_so_until_told_otherwise(tmp_path):
    documents = [Document(content=TARN.replace("1842", str(1842 + i)), meta={"title": str(i)}) for i in range(9)]
    one, three = QA.open(tmp_path / "one"), QA.open(tmp_path / "three", shards=3)
    for qa in (one, three):
        qa.index_documents(documents)
        qa.update()
    assert sorted(f.name for f in (tmp_path / "three/bm25").rglob("shard-*") if f.is_dir()) == [
        "shard-0-of-3",
        "shard-1-of-3",
        "shard-2-of-3",
    ]
    asked = "When was the lighthouse lit?"
    assert three.ask(asked).as_json() == one.ask(asked).as_json()
    assert QA.open(tmp_path / "three").ask(asked).as_json() == one.ask(asked).as_json()
    QA.open(tmp_path / "three", shards=1).update()
    assert QA.open(tmp_path / "three").ask(asked).as_json() == one.ask(asked).as_json()
    with pytest.raises(PipelineError, match="Only indexes of a store in a folder are kept in shards"):
        QA.open(f"qdrant://{tmp_path}/qdrant", shards=2)
