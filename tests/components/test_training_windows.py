"""Questions become windows labelled with their answers' tokens, in steps of micro-batches of like length."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from needle.components.tokenizer import PassageTokenizer
from needle.components.training_windows import Source, TrainingWindows
from needle.data import SHIPPED_CORPUS, SHIPPED_READER
from needle.data.squad import Question, read_squad

TOKENIZER = PassageTokenizer.from_folder(SHIPPED_READER)
QUESTIONS = read_squad(SHIPPED_CORPUS / "questions.json")
WINDOWS = TrainingWindows(QUESTIONS, TOKENIZER)


def question(context: str, *answers: str) -> Question:
    return Question("1", "Who lit it?", context, "", answers, tuple(context.index(a) for a in answers))


def labelled_text(windows: TrainingWindows, number: int, seed: int = 0) -> str:
    """The words that a window's labels point at, "" if they point at [CLS]."""
    labelled = windows.labelled(np.array([number]), windows.draws(seed, epoch=0))
    [start], [end] = labelled.start, labelled.end
    if (start, end) == (0, 0):
        return ""
    window = labelled.batch.windows[0]
    shift = window["start_token"] - labelled.batch.passage_start[0]
    offsets = windows.passages[window["pair"]].offsets
    return windows.questions[window["pair"]].context[offsets[start + shift, 0] : offsets[end + shift, 1]]


def test_labels_point_at_the_answer():
    windows = TrainingWindows([question("It was lit by Ezra Whitcombe, in 1842.", "Ezra Whitcombe")], TOKENIZER)
    labelled = windows.labelled(np.array([0]), windows.draws(0, epoch=0))
    ids = labelled.batch.input_ids[0, labelled.start[0] : labelled.end[0] + 1]
    assert ids.tolist() == TOKENIZER.encode(["Ezra Whitcombe"])[0].ids.tolist()


def test_an_answer_inside_a_token_is_labelled_with_the_whole_token():
    windows = TrainingWindows([question("It was lit in the 1840s.", "1840")], TOKENIZER)
    assert labelled_text(windows, 0) in ("1840", "1840s")


def test_every_shipped_answer_is_labelled_and_unanswerable_questions_point_at_cls():
    for number, window in enumerate(WINDOWS.windows):
        own = QUESTIONS[window["pair"]]
        assert labelled_text(WINDOWS, number) in (own.answers or ("",))


def test_a_window_without_the_whole_answer_says_no_answer():
    context = " ".join(["word"] * 30 + ["Ezra", "Whitcombe"] + ["word"] * 30)
    windows = TrainingWindows([question(context, "Ezra Whitcombe")], TOKENIZER, max_seq_len=40, stride=8)
    found = [labelled_text(windows, number) for number in range(len(windows.windows))]
    assert set(found) == {"", "Ezra Whitcombe"}
    for number, window in enumerate(windows.windows):
        tokens = windows.passages[0].offsets[window["start_token"] : window["end_token"]]
        start = context.index("Ezra")
        inside = tokens[0, 0] <= start and start + len("Ezra Whitcombe") <= tokens[-1, 1]
        assert (found[number] != "") == inside


def test_of_several_annotators_answers_each_is_taken_now_and_then():
    windows = TrainingWindows([question("Lit by Ezra Whitcombe.", "Ezra Whitcombe", "Whitcombe")], TOKENIZER)
    taken = [labelled_text(windows, 0, seed) for seed in range(60)]
    assert 15 < taken.count("Whitcombe") < 45
    assert taken.count("Whitcombe") + taken.count("Ezra Whitcombe") == 60


def test_a_long_question_is_cut():
    long = Question("1", "why " * 200, "Because.", "", ("Because",), (0,))
    [window] = TrainingWindows([long], TOKENIZER, max_question_tokens=64).windows
    assert window["length"] == 64 + 2 + TOKENIZER.template.n_special


def test_an_epoch_sees_every_window_once_in_another_order_each_time():
    plan = WINDOWS.plan([[Source(0, len(QUESTIONS), 1)]], epochs=2, batch_tokens=2048, batch_size=1, group=3, seed=5)
    first, second = ([i for step in plan if step.epoch == epoch for b in step.batches for i in b] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(len(WINDOWS.windows)))
    assert first != second
    assert all(len(step.batches) == 3 for step in plan if step.epoch == plan[-1].epoch and step is not plan[-1])


def test_the_same_seed_gives_the_same_plan_and_another_one_another():
    def planned(seed: int) -> list[list[int]]:
        plan = WINDOWS.plan([[Source(0, 100, 1)]], 1, 1024, 1, 2, seed)
        return [batch.tolist() for step in plan for batch in step.batches]

    assert planned(1) == planned(1)
    assert planned(1) != planned(2)


def test_micro_batches_have_like_length_and_keep_to_their_tokens_or_their_windows():
    lengths = WINDOWS.windows["length"]
    for batch_tokens, batch_size in ((1536, 1), (None, 12)):
        plan = WINDOWS.plan([[Source(0, len(QUESTIONS), 20)]], 1, batch_tokens, batch_size, 4, seed=0)
        batches = [batch for step in plan for batch in step.batches]
        padded = sum(len(batch) * lengths[batch].max() for batch in batches)
        assert 1 - 20 * lengths.sum() / padded < 0.01
        if batch_tokens:
            assert all(len(batch) * lengths[batch].max() <= batch_tokens for batch in batches)
        else:
            assert max(map(len, batches)) == 12


def test_files_in_order_are_trained_on_one_after_the_other():
    plan = WINDOWS.plan(
        [[Source(0, 100, 1)], [Source(100, 150, 1)]], epochs=2, batch_tokens=1024, batch_size=1, group=1, seed=0
    )
    files = [0 if WINDOWS.windows["pair"][batch].max() < 100 else 1 for step in plan for batch in step.batches]
    assert files == sorted(files)
    assert sorted({step.epoch for step in plan}) == [0, 1, 2, 3]


@given(epochs=st.floats(0.1, 4), passes=st.floats(0.1, 3), seed=st.integers(0, 5))
def test_questions_are_seen_as_often_as_asked_and_none_twice_before_all_once(epochs, passes, seed):
    plan = WINDOWS.plan([[Source(20, 120, passes)]], epochs, 4096, 1, 1, seed)
    pairs = WINDOWS.windows["pair"][np.concatenate([b for step in plan for b in step.batches] or [np.empty(0, int)])]
    seen = np.bincount(pairs, minlength=len(QUESTIONS))
    windows_each = np.bincount(WINDOWS.windows["pair"], minlength=len(QUESTIONS))
    times = seen[20:120] / windows_each[20:120]
    assert seen.sum() == seen[20:120].sum()
    assert times.max() - times.min() <= 1
    assert times.mean() == pytest.approx(epochs * passes, abs=0.011)
