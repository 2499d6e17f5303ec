"""Splitting: a passage's place is exact, nothing is lost, and sizes are kept. Writing: passages lie with their tokens."""

import itertools

import numpy as np
import pytest
from haystack import Document
from hypothesis import example, given, settings
from hypothesis import strategies as st

from needle.components.passages import PassageSplitter, PassageWriter, sentence_bounds, trimmed
from needle.components.store import SQLiteDocumentStore
from needle.components.tokenizer import PassageTokenizer
from needle.data import SHIPPED_READER
from needle.data.files import SourceFile

#: What real texts are made of, and what they should not be made of.
PIECES = [
    "word",
    "a",
    "Dr.",
    "U.S.",
    "3.14",
    "end.",
    "What?",
    "Yes!",
    "😀",
    "👨‍👩‍👧",
    "é",
    "e\u0301",
    "مرحبا",
    "كيف؟",
    "東京。",
    "…",
]
PIECES += [" ", " ", "\n", "\n\n", "\t", "\f", "\xa0", "\u3000", "\u2028", "\x1c", "\x00", "\u200b", '"', "(", ")", "-"]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=60).map("".join)
# A lone surrogate can be no Document's text: Haystack itself refuses it.
texts = texts.filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))
sizes = st.integers(1, 12).flatmap(lambda length: st.tuples(st.just(length), st.integers(0, length - 1)))


def split(text: str | None, split_by: str = "sentence", length: int = 128, overlap: int = 32, **meta) -> list[Document]:
    return PassageSplitter(split_by, length, overlap).run([Document(content=text, meta=meta)])["documents"]


def spans(passages: list[Document]) -> list[tuple[int, int]]:
    return [(p.meta["start_char"], p.meta["end_char"]) for p in passages]


class TestSentences:
    def test_abbreviations_and_numbers_end_no_sentence(self):
        text = "Dr. Smith paid $3.14 to Mr. Jones, i.e. too much. He left at 5 p.m. sharp! Why?"
        assert [text[a:b] for a, b in sentence_bounds(text)] == [
            "Dr. Smith paid $3.14 to Mr. Jones, i.e. too much.",
            "He left at 5 p.m. sharp!",
            "Why?",
        ]

    def test_offsets_count_characters_beyond_the_basic_plane(self):
        text = "Fun 😀👨‍👩‍👧. Then\u2003more.  "
        assert [text[a:b] for a, b in sentence_bounds(text)] == ["Fun 😀👨‍👩‍👧.", "Then\u2003more."]

    def test_arabic(self):
        text = "مرحبا بك. كيف حالك؟ أنا بخير."
        assert [text[a:b] for a, b in sentence_bounds(text)] == ["مرحبا بك.", "كيف حالك؟", "أنا بخير."]

    @pytest.mark.parametrize("text", ["", " ", "\n\t\f\u3000"])
    def test_blank_text_has_none(self, text):
        assert sentence_bounds(text) == []

    @given(texts)
    def test_they_are_in_order_apart_trimmed_and_leave_nothing_out(self, text):
        bounds = sentence_bounds(text)
        assert all(start < end for start, end in bounds)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(bounds))
        assert all(text[start:end] == text[start:end].strip() for start, end in bounds)
        assert "".join("".join(text[a:b].split()) for a, b in bounds) == "".join(text.split())

    @given(texts, st.data())
    def test_trimmed_offsets_are_those_of_strip(self, text, data):
        start, end = sorted([data.draw(st.integers(0, len(text))), data.draw(st.integers(0, len(text)))])
        a, b = trimmed(text, start, end)
        assert text[a:b] == text[start:end].strip()


class TestSplitting:
    @settings(deadline=None)
    @given(texts, st.sampled_from(["sentence", "word"]), sizes)
    @example("One two. Three four five six.", "sentence", (5, 3))  # once the same passage again and again, for ever
    def test_what_holds_for_every_text(self, text, split_by, size):
        length, overlap = size
        document = Document(content=text)
        passages = PassageSplitter(split_by, length, overlap).run([document])["documents"]
        places = spans(passages)
        for passage, (start, end) in zip(passages, places, strict=True):
            assert passage.content == text[start:end] == text[start:end].strip() != ""
            assert len(passage.content.split()) <= length
            assert passage.meta["source_id"] == document.id
            assert passage.meta["page_number"] == 1 + text.count("\f", 0, start)
        assert len({p.id for p in passages}) == len(passages)

        covered = np.zeros(len(text), bool)
        for start, end in places:
            covered[start:end] = True
        assert all(c.isspace() for c, inside in zip(text, covered, strict=True) if not inside)
        for before, after in itertools.pairwise(places):
            assert before[0] < after[0]
            assert before[1] < after[1]
            assert len(text[after[0] : before[1]].split()) <= overlap

    def test_sentences_are_kept_whole_and_shared_whole(self):
        passages = split("One two. Three four. Five six. Seven eight.", length=5, overlap=2)
        assert [p.content for p in passages] == ["One two. Three four.", "Three four. Five six.", "Five six. Seven eight."]

    def test_a_sentence_that_is_too_long_alone_is_cut_between_words(self):
        assert [p.content for p in split("One. A b c d e f g. Two.", length=3, overlap=0)] == [
            "One.",
            "A b c",
            "d e f",
            "g. Two.",
        ]

    def test_words_are_cut_anywhere_and_share_exactly_the_overlap(self):
        assert [p.content for p in split("a b c.  d e", "word", length=3, overlap=2)] == ["a b c.", "b c.  d", "c.  d e"]

    def test_a_short_sentence_before_a_long_one(self):
        text = f"Short one. L{' l' * 125}."  # with the default sizes: the overlap takes no room from what must follow
        assert [len(p.content.split()) for p in split(text)] == [128]
        text = f"A short one here. L{' l' * 125}."
        assert [len(p.content.split()) for p in split(text)] == [4, 126]

    def test_pages_are_counted_by_form_feeds_on_top_of_the_documents_own(self):
        text = "One.\fTwo.\f\fThree."
        assert [p.meta["page_number"] for p in split(text, length=1, overlap=0)] == [1, 2, 4]
        assert [p.meta["page_number"] for p in split(text, length=1, overlap=0, page_number=10)] == [10, 11, 13]

    @pytest.mark.parametrize("own", ["iv", None, [1]])
    def test_a_page_number_that_is_none_is_passed_over(self, own):
        assert [p.meta["page_number"] for p in split("One.\fTwo.", length=1, overlap=0, page_number=own)] == [1, 2]

    def test_the_documents_meta_goes_with_every_passage_but_can_not_fake_its_place(self):
        for passage in split("One. Two.", length=1, overlap=0, title="T", source_id="fake", start_char=99):
            assert passage.meta["title"] == "T"
            assert (passage.meta["source_id"], passage.meta["start_char"]) != ("fake", 99)

    @pytest.mark.parametrize("text", [None, "", " \n\f"])
    def test_without_text_there_is_no_passage(self, text):
        assert split(text) == []

    @pytest.mark.parametrize(
        "bad", [{"split_by": "page"}, {"length": 0, "overlap": 0}, {"length": 8, "overlap": 8}, {"overlap": -1}]
    )
    def test_sizes_that_make_no_sense_are_refused(self, bad):
        with pytest.raises(ValueError, match=r"split_by|overlap"):
            PassageSplitter(**bad)


class TestWriting:
    @pytest.fixture
    def store(self, tmp_path):
        with SQLiteDocumentStore(tmp_path / "store") as store:
            yield store

    def write(self, store, *documents: Document, files: list[SourceFile] | None = None) -> int:
        passages = PassageSplitter(length=5, overlap=0).run(list(documents))["documents"]
        return PassageWriter(store).run(passages, files)["documents_written"]

    def test_stored_tokens_are_those_that_fresh_tokenising_gives(self, store):
        assert self.write(store, Document(content="Ezra kept it. 😀 Café, naïve! مرحبا بك. \x00 unaffable")) > 1
        tokenizer = PassageTokenizer.from_folder(SHIPPED_READER)
        passages = store.filter_documents()
        fresh = tokenizer.encode([p.content for p in passages])
        for stored, expected in zip(store.tokens(passages, tokenizer.fingerprint), fresh, strict=True):
            assert stored is not None
            np.testing.assert_array_equal(stored.ids, expected.ids)
            np.testing.assert_array_equal(stored.offsets, expected.offsets)

    def test_a_documents_old_passages_go_when_it_is_written_again(self, store):
        other = Document(id="other", content="Stays.")
        self.write(store, Document(id="a", content="One two three. Four five six. Seven."), other)
        assert self.write(store, Document(id="a", content="One two three. Changed.")) == 1
        assert sorted(p.content for p in store.filter_documents()) == ["One two three. Changed.", "Stays."]
        assert store.count_tokens(PassageTokenizer.from_folder(SHIPPED_READER).fingerprint) == 2

    def test_a_files_old_passages_go_when_it_is_written_again(self, store):
        for text in ("One two three. Four five six.", "New."):
            self.write(store, Document(content=text, meta={"file_path": "f"}), files=[SourceFile.of("f", text.encode())])
        assert [p.content for p in store.filter_documents()] == ["New."]
        assert store.files()["f"].passages == 1
        assert store.files()["f"].digest == SourceFile.of("f", b"New.").digest

    def test_equal_parts_of_a_file_are_one_passage(self, store):
        same = Document(content="Same.", meta={"file_path": "f"})
        assert self.write(store, same, same, files=[SourceFile.of("f", b"x")]) == 1
        assert store.files()["f"].passages == store.count_documents() == 1

    def test_it_is_a_haystack_component_that_can_be_saved(self, store):
        writer = PassageWriter(store)
        assert PassageWriter.from_dict(writer.to_dict()).to_dict() == writer.to_dict()
        assert PassageWriter(store).run([])["documents_written"] == 0
