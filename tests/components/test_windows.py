"""Windows cover every token of a passage, in batches with little padding."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from needle.components.tokenizer import PassageTokenizer, Tokens
from needle.components.windows import MIN_PASSAGE_TOKENS, batches_by_length, fill_batch, split_windows
from needle.data import SHIPPED_READER
from needle.data.errors import QueryError

TOKENIZER = PassageTokenizer.from_folder(SHIPPED_READER)
N_SPECIAL = TOKENIZER.template.n_special


def split(question: int, passage: int, max_seq_len: int, stride: int) -> np.ndarray:
    return split_windows(np.array([question]), np.array([passage]), N_SPECIAL, max_seq_len, stride)


def test_a_short_passage_is_one_window():
    [window] = split(question=10, passage=100, max_seq_len=384, stride=128)
    assert window.tolist() == (0, 0, 100, 113)


def test_a_long_passage_is_cut_into_windows_that_share_stride_tokens():
    windows = split(question=7, passage=50, max_seq_len=30, stride=5)  # room for 20 tokens, 15 further each time
    assert windows[["start_token", "end_token"]].tolist() == [(0, 20), (15, 35), (30, 50)]


def test_an_empty_passage_has_no_window():
    windows = split_windows(np.array([5, 5, 5]), np.array([0, 3, 0]), N_SPECIAL, 384, 128)
    assert windows["pair"].tolist() == [1]
    assert len(split_windows(np.array([]), np.array([]), N_SPECIAL, 384, 128)) == 0


def test_a_question_that_leaves_no_room_is_refused_with_the_numbers():
    split(question=384 - N_SPECIAL - MIN_PASSAGE_TOKENS, passage=100, max_seq_len=384, stride=128)
    with pytest.raises(QueryError, match=r"has 366 tokens.*384.*at most 365"):
        split(question=384 - N_SPECIAL - MIN_PASSAGE_TOKENS + 1, passage=100, max_seq_len=384, stride=128)


@given(
    pairs=st.lists(st.tuples(st.integers(1, 60), st.integers(0, 900)), min_size=1, max_size=8),
    max_seq_len=st.integers(100, 512),
    stride=st.integers(0, 400),
)
def test_every_token_is_in_a_window_and_no_window_is_too_long(pairs, max_seq_len, stride):
    questions, passages = np.array(pairs).T
    windows = split_windows(questions, passages, N_SPECIAL, max_seq_len, stride)
    assert (windows["length"] <= max_seq_len).all()
    for pair, (question, passage) in enumerate(pairs):
        own = windows[windows["pair"] == pair]
        covered = [t for w in own for t in range(w["start_token"], w["end_token"])]
        assert set(covered) == set(range(passage))
        assert (own["length"] == N_SPECIAL + question + own["end_token"] - own["start_token"]).all()
        room = max_seq_len - N_SPECIAL - question
        for left, right in itertools.pairwise(own):
            assert left["end_token"] - right["start_token"] == min(stride, room // 2)


@given(lengths=st.lists(st.integers(1, 384), max_size=60), batch_tokens=st.integers(1, 4000))
def test_batches_hold_each_window_once_and_keep_to_the_budget(lengths, batch_tokens):
    lengths = np.array(lengths, np.int32)
    groups = list(batches_by_length(lengths, batch_tokens))
    assert sorted(i for g in groups for i in g) == list(range(len(lengths)))
    assert all(len(g) == 1 or len(g) * lengths[g].max() <= batch_tokens for g in groups)


def test_padding_is_below_five_per_cent_on_squad_passages(shared):
    from needle.data.squad import read_squad

    questions = read_squad(shared / "data/squad/dev-v2.0.json.gz")[:2000]
    lengths = [len(t.ids) for t in TOKENIZER.encode([q.question for q in questions])]
    passages = [len(t.ids) for t in TOKENIZER.encode([q.context for q in questions])]
    windows = split_windows(np.array(lengths), np.array(passages), N_SPECIAL, 384, 128)
    padded = sum(len(g) * windows["length"][g].max() for g in batches_by_length(windows["length"], 1024))
    assert 1 - windows["length"].sum() / padded < 0.05


def test_a_batch_is_what_the_tokenizer_makes_of_the_pair():
    """One window of a whole passage equals the tokenizers library's own encoding of question and passage."""
    import tokenizers

    reference = tokenizers.Tokenizer.from_file(str(SHIPPED_READER / "tokenizer.json"))
    pairs = [("Who was Ada Lovelace?", "Ada Lovelace, born in 1815, wrote programs."), ("Où?", "À Paris 🗼, العربية.")]
    questions = [t.ids for t in TOKENIZER.encode([q for q, _ in pairs])]
    passages: list[Tokens] = TOKENIZER.encode([p for _, p in pairs])
    windows = split_windows(
        np.array([len(q) for q in questions]), np.array([len(p.ids) for p in passages]), N_SPECIAL, 384, 128
    )
    batch = fill_batch(windows, questions, passages, TOKENIZER.template, TOKENIZER.pad_id)
    for i, (question, passage) in enumerate(pairs):
        expected = reference.encode(question, passage)
        assert batch.input_ids[i, : batch.lengths[i]].tolist() == expected.ids
        assert batch.token_type_ids[i, : batch.lengths[i]].tolist() == expected.type_ids
        assert (batch.input_ids[i, batch.lengths[i] :] == TOKENIZER.pad_id).all()
        inside = batch.input_ids[i, batch.passage_start[i] : batch.passage_end[i]]
        assert inside.tolist() == passages[i].ids.tolist()
