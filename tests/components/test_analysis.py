"""Texts -> terms: what counts as the same word, and what as no word at all."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from needle.components import analysis
from needle.components.analysis import STOP_WORDS, Analyzer

PLAIN = Analyzer(stop_words=False, stem=False)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Paris PARIS paris", ["paris"] * 3),
        ("café CAFÉ cafe\u0301 cafe", ["cafe"] * 4),
        ("Straße STRASSE", ["strasse"] * 2),
        ("Σίσυφος ΣΊΣΥΦΟΣ", ["σισυφοσ"] * 2),
        ("İstanbul istanbul", ["istanbul"] * 2),
        ("ﬁne ｆｉｎｅ 𝐅ine", ["fine"] * 3),
        ("Acme™", ["acmetm"]),
        ("light\u00adhouse light\u2060house \ufefflighthouse", ["lighthouse"] * 3),
    ],
)
def test_case_accents_and_letter_forms_make_no_difference(text, terms):
    assert PLAIN.terms(text) == terms


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("one, two; (three)—four/five", ["one", "two", "three", "four", "five"]),
        ("Darwin's don’t", ["darwin", "s", "don", "t"]),
        ("snake_case _emphasis_ __init__", ["snake", "case", "emphasis", "init"]),
        ("well-known U.S.A.", ["well", "known", "u", "s", "a"]),
        ("line\nbreak\ttab\x00nul", ["line", "break", "tab", "nul"]),
    ],
)
def test_words_end_at_all_that_is_neither_letter_nor_digit(text, terms):
    assert PLAIN.terms(text) == terms


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("1969 1,000 3.14", ["1969", "1", "000", "3", "14"]),
        ("B52 x² ½ ٣", ["b52", "x2", "1", "2", "٣"]),
    ],
)
def test_numbers_are_words(text, terms):
    assert PLAIN.terms(text) == terms


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("東京タワー2020年", ["東", "京", "タ", "ワ", "ー", "2020", "年"]),
        ("がか", ["が", "か"]),  # the mark that tells them apart is not an accent
        ("한국어 사전", ["한국어", "사전"]),
        ("Москва́ МОСКВА", ["москва", "москва"]),
        ("سأل", ["سأل"]),
    ],
)
def test_other_scripts(text, terms):
    assert PLAIN.terms(text) == terms


@pytest.mark.parametrize("text", ["", " \n", "?!… — _", "\u0301"])
def test_no_words_no_terms(text):
    assert Analyzer().terms(text) == PLAIN.terms(text) == []


def test_stop_words_are_left_out_in_any_case():
    text = "THE Great Wall Of China, which was built when?"
    assert Analyzer(stem=False).terms(text) == ["great", "wall", "china", "built"]
    assert PLAIN.terms(text) == ["the", "great", "wall", "of", "china", "which", "was", "built", "when"]
    assert Analyzer().terms(" ".join(STOP_WORDS)) == []
    assert Analyzer().terms("US Will") == ["us", "will"]  # names


def test_stems_join_the_forms_of_a_word():
    assert len(set(Analyzer().terms("connect connected connecting connection connections"))) == 1
    assert Analyzer(stem=False).terms("connect connected") == ["connect", "connected"]


def test_stop_words_are_judged_before_stemming():
    assert Analyzer().terms("doing") == ["do"]


def test_terms_keep_their_order_and_repetitions():
    assert Analyzer().terms("river bank river") == ["river", "bank", "river"]


def test_the_key_tells_analyzers_apart():
    keys = {Analyzer(stop, stem).key for stop in (True, False) for stem in (True, False)}
    assert len(keys) == 4
    assert Analyzer().key == Analyzer(True, True).key


def test_many_threads_may_use_one_analyzer():
    analyzer, expected = Analyzer(), Analyzer()
    texts = [" ".join(f"word{i}ing{j}" for j in range(50)) for i in range(200)]
    wrong: list[str] = []

    def analyse() -> None:
        wrong.extend(text for text in texts if analyzer.terms(text) != Analyzer().terms(text))

    threads = [threading.Thread(target=analyse) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert analyzer.terms(texts[0]) == expected.terms(texts[0])


def decoded(texts: list[str], analyzer: Analyzer, vocabulary: dict[str, int]) -> list[list[str]]:
    ids, lengths = analyzer.encode(texts, vocabulary)
    terms = list(vocabulary)
    ends = lengths.cumsum().tolist()
    return [[terms[i] for i in ids[end - length : end]] for end, length in zip(ends, lengths.tolist(), strict=True)]


class TestEncode:
    @given(texts=st.lists(st.text(alphabet=st.characters(codec="utf-8") | st.sampled_from("a thé\x00_İ東 \n")), max_size=8))
    @pytest.mark.parametrize("analyzer", [Analyzer(), PLAIN], ids=["default", "plain"])
    def test_it_gives_the_terms_of_each_text(self, analyzer, texts):
        assert decoded(texts, analyzer, {}) == [analyzer.terms(text) for text in texts]

    def test_terms_get_the_next_ids_in_the_order_in_which_they_occur(self):
        vocabulary = {"old": 0}
        ids, lengths = PLAIN.encode(["new old", "", "newer new"], vocabulary)
        assert vocabulary == {"old": 0, "new": 1, "newer": 2}
        assert (ids.tolist(), lengths.tolist()) == ([1, 0, 2, 1], [2, 0, 2])

    def test_more_texts_than_are_analysed_at_once(self, monkeypatch):
        monkeypatch.setattr(analysis, "_AT_ONCE", 3)
        texts = [f"text number {i}" for i in range(10)]
        assert decoded(texts, PLAIN, {}) == [["text", "number", str(i)] for i in range(10)]
