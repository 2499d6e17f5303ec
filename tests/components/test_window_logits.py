"""Windows as older readers cut them, words, and the logits of a real model."""

import numpy as np
import pytest
import tokenizers

from needle.components.window_logits import WindowReader, WordTokenizer, split_by_step, word_bounds
from needle.components.windows import split_windows
from needle.data import SHIPPED_READER
from needle.data.errors import ModelError, QueryError

TEXT = " ".join(f"In year {n} the unforgettable keeper of Tarn's lighthouse wrote nothing." for n in range(60))
QUESTION = "Who kept the lighthouse?"


@pytest.fixture(scope="module")
def reader() -> WindowReader:
    return WindowReader(devices=["cpu"])


@pytest.mark.parametrize(("max_seq_len", "overlap"), [(384, 128), (96, 40), (64, 50), (48, 0)])
def test_windows_are_those_of_hugging_faces_tokenizers(max_seq_len, overlap):
    backend = tokenizers.Tokenizer.from_file(str(SHIPPED_READER / "tokenizer.json"))
    backend.enable_truncation(max_seq_len, stride=overlap, strategy="only_second")
    encoding = backend.encode(QUESTION, TEXT)
    theirs = [one.ids for one in [encoding, *encoding.overflowing]]
    tokenizer = WordTokenizer(tokenizers.Tokenizer.from_file(str(SHIPPED_READER / "tokenizer.json")))
    question, passage = tokenizer.encode([QUESTION, TEXT])
    lengths = np.array([len(question.ids)], np.int32), np.array([len(passage.ids)], np.int32)
    windows = split_by_step(*lengths, tokenizer.template.n_special, max_seq_len, overlap=overlap)
    prefix, middle, suffix, _ = tokenizer.template
    ours = [
        [*prefix, *question.ids, *middle, *passage.ids[one["start_token"] : one["end_token"]], *suffix] for one in windows
    ]
    assert ours == theirs


def test_a_step_is_the_distance_of_windows():
    windows = split_by_step(np.array([7], np.int32), np.array([500], np.int32), 3, 110, step=60)
    assert [(start, end) for _, start, end, _ in windows.tolist()] == [(60 * i, min(60 * i + 100, 500)) for i in range(8)]


def test_a_step_that_would_leave_a_gap_does_not():
    windows = split_by_step(np.array([57], np.int32), np.array([120], np.int32), 3, 110, step=80)
    assert [(start, end) for _, start, end, _ in windows.tolist()] == [(0, 50), (50, 100), (100, 120)]


def test_with_needles_own_strides_windows_are_needles_own():
    lengths = np.array([5, 30, 9], np.int32), np.array([900, 0, 40], np.int32)
    assert split_by_step(*lengths, 3, 384, overlap=128).tolist() == split_windows(*lengths, 3, 384, 128).tolist()


def test_a_question_that_leaves_no_room_is_told():
    with pytest.raises(QueryError, match="90 tokens"):
        split_by_step(np.array([90], np.int32), np.array([9], np.int32), 3, 100, overlap=0)


def test_words_are_runs_of_one_word_id():
    offsets = np.array([(0, 2), (2, 5), (6, 7), (7, 9), (9, 10)], np.int32)
    assert word_bounds([0, 0, 1, None, None], offsets).tolist() == [[0, 5], [0, 5], [6, 7], [7, 9], [9, 10]]
    assert word_bounds([], np.empty((0, 2), np.int32)).shape == (0, 2)


def test_a_passages_words_are_whole(reader):
    [passage] = reader.passages(["Unforgettableness, she said."])
    words = {"Unforgettableness, she said."[start:end] for start, end in passage.words}
    assert words == {"Unforgettableness", ",", "she", "said", "."}
    assert len(passage.tokens.ids) > len(words)


def test_logits_of_a_pair_do_not_depend_on_the_others(reader):
    questions, texts = [QUESTION, "When?", QUESTION], [TEXT, "In 1842.", "Ezra Whitcombe kept it."]

    def read(questions, texts):
        found = {}
        for batch, start, end in reader.read(questions, reader.passages(texts), 128, overlap=32):
            for row, (pair, first, _, length) in enumerate(batch.windows.tolist()):
                found[pair, first] = start[row, :length], end[row, :length]
        return found

    together = read(questions, texts)
    alone = read(questions[2:], texts[2:])
    assert len(together) > 4
    np.testing.assert_allclose(together[2, 0], alone[0, 0], atol=0.3)  # int8 rounds by batch


def test_what_can_not_be_read_is_told(reader):
    with pytest.raises(QueryError, match="not blank"):
        list(reader.read([" "], reader.passages(["a"]), 384, overlap=0))
    with pytest.raises(ValueError, match="takes at most 512"):
        list(reader.read(["a"], reader.passages(["a"]), 513, overlap=0))
    with pytest.raises(ModelError, match="'nobody/nothing' \\(revision v1\\)"):
        WindowReader("nobody/nothing", revision="v1").load()
    assert list(reader.read([], [], 384, overlap=0)) == []
