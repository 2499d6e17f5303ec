"""Labels: what a verdict keeps, how the store keeps it, and the SQuAD file that labels make."""

import json
import multiprocessing
import os
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from haystack import Document, ExtractedAnswer
from haystack.document_stores.types import DuplicatePolicy
from hypothesis import given
from hypothesis import strategies as st

from needle.components import database
from needle.components.feedback import Export, Label, Verdict, Versions, export_labels
from needle.components.store import IndexedFile, SQLiteDocumentStore
from needle.data.errors import NeedleError
from needle.data.squad import Question, read_squad

FORK: Any = multiprocessing.get_context("fork") if hasattr(os, "fork") else None
needs_fork = pytest.mark.skipif(FORK is None, reason="this system can't fork")
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

KEEPER = "Who was the keeper?"
TARN = "The lighthouse of Tarn was lit in 1842.\nIts keeper was Ezra  Whitcombe; in 1843 Ezra left."
META = {"file_path": "/docs/tarn.txt", "page_number": 2, "source_id": "tarn", "start_char": 0}
VERSIONS = Versions("0.1.0", "reader", "abc", "bm25_qa")


def answer(text: str | None, passage: str | None = TARN, query: str = KEEPER, meta: dict | None = None) -> ExtractedAnswer:
    """An answer found in a passage; None is "no answer"."""
    span = None
    if text is not None and passage is not None:
        start = passage.index(text)
        span = ExtractedAnswer.Span(start, start + len(text))
    document = None if passage is None else Document(id="p1", content=passage, meta=META if meta is None else meta)
    return ExtractedAnswer(query=query, score=0.75, data=text, document=document, document_offset=span)


def label(text: str | None, verdict: str, correction: str | None = None, **options) -> Label:
    return Label.of(answer(text, **options), verdict, correction, VERSIONS)


def exported(labels: list[Label], path) -> tuple[list[Question], Export]:
    """What the export of these labels reads as; every answer stands where it says."""
    export = export_labels(labels, path)
    questions = read_squad(path)
    assert len(questions) == export.questions == len({q.id for q in questions})
    for q in questions:
        for text, start in zip(q.answers, q.answer_starts, strict=True):
            assert q.context[start : start + len(text)] == text
    return questions, export


@pytest.fixture
def store(tmp_path):
    with SQLiteDocumentStore(tmp_path / "store") as store:
        yield store


class TestVerdicts:
    def test_there_are_four_that_may_be_written_without_a_space(self):
        assert [Verdict(word) for word in ("right", "wrong", "wrong-span", "no_answer")] == list(Verdict)

    @pytest.mark.parametrize("word", ["maybe", "", "rightwrong", None])
    def test_another_is_refused_with_the_list_of_those_there_are(self, word):
        with pytest.raises(ValueError, match=f"no verdict {word!r}; there are 'right', 'wrong', 'wrong span', 'no answer'"):
            Verdict(word)


class TestLabels:
    def test_all_that_is_needed_without_the_document(self):
        before = datetime.now(UTC).replace(microsecond=0)
        kept = label("Ezra  Whitcombe", "right")
        assert before <= datetime.fromisoformat(kept.time) <= datetime.now(UTC)
        assert kept == Label(
            time=kept.time,
            verdict=Verdict.RIGHT,
            query=KEEPER,
            answer="Ezra  Whitcombe",
            score=0.75,
            passage=TARN,
            start_char=55,
            end_char=70,
            file_path="/docs/tarn.txt",
            page_number=2,
            source_id="tarn",
            correction=None,
            correction_start_char=None,
            correction_end_char=None,
            needle="0.1.0",
            reader="reader",
            reader_fingerprint="abc",
            pipeline="bm25_qa",
        )

    def test_no_answer_keeps_the_passage_and_no_offsets(self):
        kept = label(None, "no answer")
        assert (kept.answer, kept.passage, kept.start_char, kept.end_char) == (None, TARN, None, None)

    def test_what_is_not_known_is_none(self):
        kept = label("1842", "right", meta={"page_number": "iv"})
        assert (kept.file_path, kept.page_number, kept.source_id) == (None, None, "p1")
        kept = label("1842", "right", passage=None)
        assert (kept.passage, kept.start_char, kept.source_id) == (None, None, None)

    def test_offsets_that_lead_elsewhere_are_not_kept(self):
        found = answer("1842")
        kept = Label.of(replace(found, data="the year 1842"), "right", None, VERSIONS)
        assert (kept.answer, kept.start_char, kept.end_char) == ("the year 1842", None, None)

    @pytest.mark.parametrize(
        ("said", "words", "place", "why"),
        [
            ("Ezra  Whitcombe", "Whitcombe", "Whitcombe; in", "the words as they are"),
            ("Ezra  Whitcombe", "Ezra Whitcombe", "Ezra  Whitcombe;", "whatever the white space"),
            ("lit", "1842. Its", "1842.\nIts", "across lines"),
            ("Ezra  Whitcombe", "ezra whitcombe", "Ezra  Whitcombe;", "whatever the case"),
            ("Whitcombe", "Ezra", "Ezra  Whitcombe", "the nearer of two places"),
            ("1843", "Ezra", "Ezra left", "and the other one"),
            ("lit", "in", "in 1842", "a word before a nearer part of one"),
            ("lit", "comb", "combe;", "a part of a word if need be"),
        ],
    )
    def test_a_correction_is_what_stands_in_the_passage(self, said, words, place, why):
        kept = label(said, "wrong span", words)
        assert kept.correction_start_char == TARN.index(place), why
        assert kept.correction == TARN[kept.correction_start_char : kept.correction_end_char]
        assert kept.correction.lower().split() == words.lower().split()

    def test_a_correction_that_stands_elsewhere_is_kept_without_offsets(self):
        kept = label("1842", "wrong", "Ada Pell")
        assert (kept.correction, kept.correction_start_char, kept.correction_end_char) == ("Ada Pell", None, None)

    @pytest.mark.parametrize(
        ("text", "verdict", "correction", "complaint"),
        [
            ("1842", "right", "1843", r"'right' takes no correction \('1843'\); 'wrong' and 'wrong span' do"),
            ("1842", "no answer", "1843", "'no answer' takes no correction"),
            ("1842", "wrong", " ", "must be valid text that is not blank, not ' '"),
            ("1842", "wrong", "\ud800", r"must be valid text that is not blank, not '\\ud800'"),
            (None, "wrong span", None, "'No answer' has no span that could be wrong. Call it 'wrong'"),
            ("1842", "fine", None, "no verdict 'fine'"),
        ],
    )
    def test_what_does_not_go_together_is_refused(self, text, verdict, correction, complaint):
        with pytest.raises(ValueError, match=complaint):
            label(text, verdict, correction)


class TestInTheStore:
    LABELS = (
        label("1842", "wrong", "Ezra"),
        label(None, "no answer", query="Wer war's? 😀 \x00 e\u0301"),
        label("1842", "right", passage=None),
        label("лампа", "wrong span", "Лампа 💡", passage="💡💡 Лампа 💡 лампа"),
    )

    def test_they_come_back_as_they_were_oldest_first(self, tmp_path):
        with SQLiteDocumentStore(tmp_path) as store:
            assert store.labels() == []
            for one in self.LABELS:
                store.add_label(one)
        with SQLiteDocumentStore(tmp_path) as store:
            assert store.labels() == list(self.LABELS)
            assert all(type(one.verdict) is Verdict for one in store.labels())

    def test_they_are_no_change_of_documents_and_outlive_them(self, store):
        passage = Document(id="p1", content=TARN, meta=META)
        file = IndexedFile("/docs/tarn.txt", "digest", 100, 1)
        store.replace_sources([file], [passage])
        revision = store.revision
        store.add_label(label("1842", "right"))
        assert store.revision == revision
        for change in (
            lambda: store.replace_sources([file], [Document(id="p2", content="Changed.", meta=META)]),
            lambda: store.write_documents([Document(id="p2", content="Again.")], DuplicatePolicy.OVERWRITE),
            lambda: store.remove_files(["/docs/tarn.txt"]),
            lambda: store.delete_all_documents(),
        ):
            change()
            assert [one.passage for one in store.labels()] == [TARN]
        assert store.revision != revision

    def test_a_store_of_the_schema_before_is_kept_whole(self, tmp_path, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(database, "MIGRATIONS", database.MIGRATIONS[:1])
            with SQLiteDocumentStore(tmp_path) as old:
                old.replace_sources([IndexedFile("/docs/tarn.txt", "digest", 100, 1)], [Document(content=TARN, meta=META)])
                assert old._database.read("PRAGMA user_version") == [(1,)]
                kept = old.filter_documents(), old.files(), old.revision, old.rows().tolist()
        with SQLiteDocumentStore(tmp_path) as store:
            store.add_label(label("1842", "right"))
            assert (store.filter_documents(), store.files(), store.revision, store.rows().tolist()) == kept
            assert len(store.labels()) == 1

    @needs_fork
    def test_processes_may_label_at_once(self, tmp_path):
        def give(name: int) -> None:
            start.wait(30)
            with SQLiteDocumentStore(tmp_path) as store:
                for i in range(20):
                    store.add_label(label("1842", "right", query=f"{name}/{i}?"))

        start = FORK.Barrier(2)
        processes = [FORK.Process(target=give, args=(name,)) for name in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0]
        with SQLiteDocumentStore(tmp_path) as store:
            asked = [one.query for one in store.labels()]
        assert sorted(asked) == sorted(f"{name}/{i}?" for name in range(2) for i in range(20))
        for name in "01":  # each in its order
            assert [q for q in asked if q.startswith(name)] == [f"{name}/{i}?" for i in range(20)]

    @needs_fork
    def test_a_killed_process_loses_none_that_was_kept(self, tmp_path):
        def give() -> None:
            store = SQLiteDocumentStore(tmp_path)
            for i in range(1_000_000):
                store.add_label(label("1842", "right", query=f"{i}?"))
                pipe.send(i)

        reports, pipe = FORK.Pipe(duplex=False)
        process = FORK.Process(target=give)
        process.start()
        for _ in range(10):
            last = reports.recv()
        process.kill()
        process.join(30)
        with SQLiteDocumentStore(tmp_path) as store:
            assert [one.query for one in store.labels()][: last + 1] == [f"{i}?" for i in range(last + 1)]


class TestExport:
    def test_the_four_verdicts(self, tmp_path):
        labels = [
            label("Ezra  Whitcombe", "right"),
            label("1843", "wrong", "1842", query="When was it lit?"),
            label("Ezra", "wrong span", "Ezra Whitcombe", query="Who kept it?"),
            label("Ezra", "no answer", query="Who built it?"),
            label(None, "right", query="Who painted it?"),
            label(None, "wrong", "Tarn", query="Where is it?"),
        ]
        questions, export = exported(labels, tmp_path / "labels.json")
        assert {q.question: q.answers for q in questions} == {
            KEEPER: ("Ezra  Whitcombe",),
            "When was it lit?": ("1842",),
            "Who kept it?": ("Ezra  Whitcombe",),
            "Who built it?": (),
            "Who painted it?": (),
            "Where is it?": ("Tarn",),
        }
        assert {(q.context, q.title) for q in questions} == {(TARN, "tarn.txt")}
        assert export.left_out == {}

    def test_what_does_not_tell_the_right_answer_is_left_out_and_counted(self, tmp_path):
        labels = [
            label("1842", "wrong", query="1?"),
            label("1842", "wrong", query="2?"),
            label("1842", "wrong span", query="3?"),
            label("1842", "wrong", "Ada Pell", query="4?"),
            label("1842", "right", query="5?", passage=None),
            label("1842", "wrong", query="6?"),
            label("1842", "right", query="6?"),
        ]
        questions, export = exported(labels, tmp_path / "labels.json")
        assert [q.question for q in questions] == ["6?"]
        assert export.left_out == {
            "older than another on the same question and passage": 1,
            "'wrong' without the right answer": 2,
            "'wrong span' without the right answer": 1,
            "whose right answer does not stand in the passage": 1,
            "without a passage": 1,
        }

    def test_the_newest_label_on_a_question_and_passage_counts_whatever_it_says(self, tmp_path):
        labels = [label("1843", "right"), label(None, "no answer"), label("1843", "wrong span", "Ezra", query=f" {KEEPER}")]
        [question], _ = exported(labels, tmp_path / "a.json")
        assert (question.question, question.answers) == (KEEPER, ("Ezra",))
        other = "Its keeper was Ada Pell."
        labels += [label("1843", "wrong"), label("Ada Pell", "right", passage=other)]
        [elsewhere], export = exported(labels, tmp_path / "b.json")
        assert (elsewhere.answers, elsewhere.context, elsewhere.id != question.id) == (("Ada Pell",), other, True)
        assert export.left_out["older than another on the same question and passage"] == 3

    def test_ids_tell_the_question_and_passage_and_nothing_else(self, tmp_path):
        [one], _ = exported([label("1842", "right")], tmp_path / "a.json")
        [again], _ = exported([label(None, "no answer", meta={})], tmp_path / "b.json")
        assert one.id == again.id

    def test_equal_labels_make_equal_files_plain_or_gzipped(self, tmp_path):
        labels = [label("1842", "right")]
        for name in ("labels.json", "labels.json.gz"):
            export_labels(labels, tmp_path / name)
            first = (tmp_path / name).read_bytes()
            export_labels(labels, tmp_path / name)
            assert (tmp_path / name).read_bytes() == first
        assert read_squad(tmp_path / "labels.json") == read_squad(tmp_path / "labels.json.gz")
        assert first[:2] == b"\x1f\x8b"
        assert json.loads((tmp_path / "labels.json").read_text("utf-8"))["version"] == "v2.0"

    def test_no_labels_make_a_file_without_questions(self, tmp_path):
        assert exported([], tmp_path / "none.json") == ([], Export(0, {}))

    def test_a_file_that_can_not_be_written_is_named(self, tmp_path):
        with pytest.raises(NeedleError, match=r"labels can't be written: .*nowhere"):
            export_labels([], tmp_path / "nowhere" / "x.json")

    @given(passage=st.text(min_size=1), data=st.data())
    def test_any_span_of_any_text_comes_back_exactly(self, tmp_path_factory, passage, data):
        start = data.draw(st.integers(0, len(passage) - 1))
        end = data.draw(st.integers(start + 1, len(passage)))
        span = ExtractedAnswer.Span(start, end)
        found = replace(answer(passage[0], passage), data=passage[start:end], document_offset=span)
        path = tmp_path_factory.getbasetemp() / "any.json"
        [question], _ = exported([Label.of(found, "right", None, VERSIONS)], path)
        assert (question.context, question.answers, question.answer_starts) == (passage, (passage[start:end],), (start,))
