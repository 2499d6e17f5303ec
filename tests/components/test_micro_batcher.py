"""Questions asked at the same moment are read together; everyone gets their own answer, or their own error."""

import asyncio
import threading
import time

import pytest
from haystack import Document

from needle.components.micro_batcher import MicroBatcher
from needle.components.reader import MiniLMReader
from needle.data.errors import QueryError


class Recorder:
    """Doubles numbers, remembers its batches, refuses 13."""

    def __init__(self):
        self.batches = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, items):
        self.batches.append(list(items))
        self.gate.wait(10)
        if 13 in items:
            raise ValueError("13")
        return [2 * item for item in items]


def test_items_of_the_same_moment_are_one_batch():
    recorder = Recorder()
    batcher = MicroBatcher(recorder, delay=0.1)
    futures = [batcher.submit(i) for i in range(5)]
    assert [f.result(5) for f in futures] == [0, 2, 4, 6, 8]
    assert recorder.batches == [[0, 1, 2, 3, 4]]


def test_what_arrives_while_a_batch_is_handled_makes_the_next_one_of_at_most_so_many():
    recorder = Recorder()
    recorder.gate.clear()
    batcher = MicroBatcher(recorder, delay=0, most=3)
    first = batcher.submit(0)
    while not recorder.batches:
        time.sleep(0.001)
    later = [batcher.submit(i) for i in range(1, 6)]
    recorder.gate.set()
    assert [f.result(5) for f in [first, *later]] == [0, 2, 4, 6, 8, 10]
    assert recorder.batches == [[0], [1, 2, 3], [4, 5]]


def test_an_error_reaches_only_whom_it_concerns():
    batcher = MicroBatcher(Recorder(), delay=0.05)
    futures = [batcher.submit(i) for i in (1, 13, 2)]
    assert [futures[0].result(5), futures[2].result(5)] == [2, 4]
    with pytest.raises(ValueError, match="13"):
        futures[1].result(5)


@pytest.mark.parametrize("failure", [SystemExit("stop"), asyncio.CancelledError(), "too few results"])
def test_nobody_waits_for_ever_whatever_goes_wrong(failure):
    def handle(items):
        if failure == "too few results":
            return items[1:]
        raise failure

    batcher = MicroBatcher(handle, delay=0.01)
    for _ in range(2):  # the second time the batcher is the one that failed before
        for future in [batcher.submit(i) for i in range(3)]:
            assert future.exception(5) is not None


def test_without_a_thread_the_question_fails_and_the_next_one_is_answered(monkeypatch):
    batcher = MicroBatcher(Recorder(), delay=0.01)
    with monkeypatch.context() as broken:
        broken.setattr(batcher._pool, "submit", lambda *_: (_ for _ in ()).throw(RuntimeError("can't start new thread")))
        with pytest.raises(RuntimeError, match="can't start"):
            batcher.submit(1)
    assert batcher.submit(2).result(5) == 4


def test_what_was_cancelled_is_not_handled():
    recorder = Recorder()
    batcher = MicroBatcher(recorder, delay=0.1)
    futures = [batcher.submit(i) for i in range(3)]
    assert futures[1].cancel()
    assert [futures[0].result(5), futures[2].result(5)] == [0, 4]
    assert recorder.batches == [[0, 2]]


def test_items_of_many_threads_are_each_answered_once():
    recorder = Recorder()
    batcher = MicroBatcher(recorder, delay=0.001, most=7)
    results = {}
    threads = [
        threading.Thread(target=lambda t=t: results.update({i: batcher.submit(i).result(10) for i in range(t, t + 50)}))
        for t in range(100, 1100, 100)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: 2 * i for t in range(100, 1100, 100) for i in range(t, t + 50)}
    assert sorted(i for batch in recorder.batches for i in batch) == sorted(results)
    assert max(map(len, recorder.batches)) <= 7


async def test_questions_asked_at_once_of_a_reader_are_read_in_one_batch(monkeypatch):
    reader = MiniLMReader()
    reader.warm_up()
    read = reader._answers
    sizes = []
    monkeypatch.setattr(reader._batcher, "_delay", 0.2)
    monkeypatch.setattr(reader._batcher, "_handle", lambda asked: sizes.append(len(asked)) or read(asked))
    cities = ["Paris", "Rome", "Oslo", "Lima"]
    documents = [Document(content=f"The conference of that year took place in {city}, as planned.") for city in cities]
    question = "Where did the conference take place?"
    results = await asyncio.gather(
        *(reader.run_async(question, [d], top_k=k) for k, d in enumerate(documents, 1)),
        reader.run_async(" ", documents),
        return_exceptions=True,
    )
    assert [r["answers"][0].data for r in results[:4]] == cities
    assert isinstance(results[4], QueryError)
    assert sizes == [4]
