"""The reader component, on the shipped weights: answers, offsets, many questions, and input that other readers fall over."""

import asyncio
import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
from haystack import Document, Pipeline

from needle.components.passages import PassageSplitter, PassageWriter
from needle.components.reader import MiniLMReader
from needle.components.store import SQLiteDocumentStore
from needle.data.errors import ModelError, QueryError

PARIS = Document(content="Paris is the capital of France. It lies on the Seine.", score=2.5, meta={"page_number": 7})
ROME = Document(content="Rome, the capital of Italy, was founded on seven hills.")
TEA = Document(content="Tea was first drunk in China. The leaves are dried.")
QUERY = "What is the capital of France?"


@pytest.fixture(scope="module")
def reader() -> MiniLMReader:
    reader = MiniLMReader()
    reader.warm_up()
    return reader


def told(answers):
    """What a user sees of answers."""
    return [(a.data, round(a.score, 6), a.document and a.document.id, a.document_offset, a.context) for a in answers]


def test_the_answer_comes_with_its_place_score_context_and_page(reader):
    best = reader.run(QUERY, [TEA, ROME, PARIS])["answers"][0]
    assert best.data == "Paris"
    assert best.query == QUERY
    assert 0.8 < best.score <= 1
    assert best.document is PARIS
    assert PARIS.content[best.document_offset.start : best.document_offset.end] == "Paris"
    assert best.context == "Paris is the capital of France."
    assert best.context[best.context_offset.start : best.context_offset.end] == "Paris"
    assert best.meta["page_number"] == 7
    assert best.meta["retrieval_score"] == 2.5


def test_no_answer_comes_first_when_the_passages_do_not_tell(reader):
    first, *rest = reader.run("Who invented the telephone?", [TEA, PARIS])["answers"]
    assert first.data is None
    assert first.score > 0.5
    assert all(a.data is not None for a in rest)


def test_parameters_of_a_call_win_over_those_of_the_component_and_zero_is_a_value(reader):
    assert [a.data for a in reader.run(QUERY, [PARIS], top_k=0)["answers"]] == [None]
    assert reader.run(QUERY, [PARIS], top_k=0, no_answer=False)["answers"] == []
    assert len(reader.run(QUERY, [PARIS], top_k=2, no_answer=False)["answers"]) == 2
    assert reader.run(QUERY, [PARIS], null_threshold=-1000.0)["answers"][0].data is None
    short = MiniLMReader(max_answer_tokens=1, no_answer=False)
    assert all(" " not in a.data for a in short.run("When was Rome founded, and on what?", [ROME])["answers"])


def test_many_questions_are_read_together_and_give_what_each_gives_alone(reader):
    queries = [QUERY, "Where was tea first drunk?", "What lies on the Seine?"]
    documents = [[PARIS, ROME], [TEA], [ROME, PARIS, TEA]]
    together = reader.run(queries=queries, documents_per_query=documents)["answers_per_query"]
    for query, docs, answers in zip(queries, documents, together, strict=True):
        alone = reader.run(query, docs)["answers"]
        assert [a.data for a in answers][:1] == [a.data for a in alone][:1]
        assert answers[0].score == pytest.approx(alone[0].score, abs=0.02)  # int8 activations round by batch


def test_in_float32_batching_and_order_change_nothing():
    exact = MiniLMReader(engine="torch", device="cpu", dtype="float32")
    queries = [QUERY, "Where was tea first drunk?"]
    alone = [exact.run(query, [PARIS, ROME, TEA])["answers"] for query in queries]
    together = exact.run(queries=queries, documents_per_query=[[PARIS, ROME, TEA]] * 2)["answers_per_query"]
    for one, other in zip(alone, together, strict=True):
        assert [a.data for a in one] == [a.data for a in other]
        assert [a.score for a in one] == pytest.approx([a.score for a in other], abs=1e-4)
    for order in itertools.permutations([PARIS, ROME, TEA]):
        assert [a.data for a in exact.run(QUERY, list(order))["answers"]] == [a.data for a in alone[0]]


def test_an_answer_far_down_a_long_passage_is_found(reader):
    filler = " ".join(f"In year {n} nothing of note happened in the valley." for n in range(1000, 1300))
    long = Document(content=f"{filler} The lighthouse keeper was called Ezra Whitcombe. {filler}")
    best = reader.run("What was the lighthouse keeper called?", [long])["answers"][0]
    assert best.data == "Ezra Whitcombe"
    assert long.content[best.document_offset.start : best.document_offset.end] == best.data


@pytest.mark.parametrize(
    "documents",
    [[], None, [Document(content=None)], [Document(content="")], [Document(content=" \n\t ")], [Document(content="\u200b")]],
    ids=["none", "None", "content None", "empty", "blank", "invisible"],
)
def test_without_text_there_is_no_answer_and_no_error(reader, documents):
    answers = reader.run(QUERY, documents)["answers"]
    assert answers[0].data is None
    assert answers[0].score > 0.5


def test_empty_documents_among_others_are_passed_over(reader):
    answers = reader.run(QUERY, [Document(content=None), PARIS, Document(content="")])["answers"]
    assert answers[0].data == "Paris"


@pytest.mark.parametrize(
    ("query", "content", "answer"),
    [
        ("Wer schrieb Faust?", "Faust wurde von Johann Wolfgang von Goethe geschrieben.", "Johann Wolfgang von Goethe"),
        ("Where is the party? 🎉", "🎉🎉 The party 🥳 is in Montréal 🇨🇦.", "Montréal"),
        ("What is the capital of Egypt?", "القاهرة Cairo هي عاصمة مصر, the capital of Egypt.", "Cairo"),
    ],
)
def test_offsets_are_exact_in_any_script(reader, query, content, answer):
    for found in reader.run(query, [Document(content=content)], no_answer=False)["answers"]:
        assert content[found.document_offset.start : found.document_offset.end] == found.data
        assert found.context[found.context_offset.start : found.context_offset.end] == found.data
    assert answer in reader.run(query, [Document(content=content)], no_answer=False)["answers"][0].data


def test_a_question_that_fills_the_window_is_refused(reader):
    for documents in ([PARIS], []):
        with pytest.raises(QueryError, match="shorter question"):
            reader.run("why " * 400, documents)


@pytest.mark.parametrize("query", ["", "   ", None, 7, "half a \ud83d character"])
def test_a_question_must_be_a_text(reader, query):
    with pytest.raises(ValueError, match=r"question must be|needs a query"):
        reader.run(query, [PARIS])


def test_every_question_needs_its_passages(reader):
    with pytest.raises(ValueError, match="2 queries need as many lists"):
        reader.run(queries=["a", "b"], documents_per_query=[[PARIS]])


@pytest.mark.parametrize(
    "parameter", ["top_k", "max_answer_tokens", "max_seq_len", "stride", "spans_per_window", "batch_tokens"]
)
def test_numbers_that_make_no_sense_are_refused_by_name(parameter):
    with pytest.raises(ValueError, match=parameter):
        MiniLMReader(**{parameter: -1})


def test_windows_longer_than_the_model_takes_are_refused():
    with pytest.raises(ValueError, match="at most 512"):
        MiniLMReader(max_seq_len=513).warm_up()


def test_a_missing_folder_is_named():
    with pytest.raises(ModelError, match=r"No reader at '\./nowhere'.*reader that needle ships"):
        MiniLMReader("./nowhere").warm_up()


def test_an_unreachable_hub_is_told_with_what_to_do():
    with pytest.raises(ModelError, match=r"deepset/minilm-uncased-squad2.*minilm-squad2"):
        MiniLMReader("deepset/minilm-uncased-squad2").warm_up()


def test_stored_tokens_give_what_fresh_ones_give(reader, tmp_path):
    store = SQLiteDocumentStore(tmp_path)
    passages = PassageSplitter(length=8, overlap=2).run(documents=[PARIS, ROME, TEA])["documents"]
    PassageWriter(store).run(documents=passages)
    with_store = MiniLMReader(document_store=store)
    assert told(with_store.run(QUERY, passages)["answers"]) == told(reader.run(QUERY, passages)["answers"])
    changed = Document(id=passages[0].id, content="Lyon is now the capital of France, they say.")
    assert with_store.run(QUERY, [changed])["answers"][0].data == "Lyon"


def test_threads_may_share_a_reader(reader):
    expected = told(reader.run(QUERY, [PARIS, ROME, TEA])["answers"])
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: reader.run(QUERY, [PARIS, ROME, TEA]), range(12)):
            assert told(result["answers"]) == expected


async def test_run_async_leaves_the_loop_free(reader):
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticker = asyncio.create_task(tick())
    result = await reader.run_async(QUERY, [PARIS] + [ROME] * 60)
    ticker.cancel()
    assert result["answers"][0].data == "Paris"
    assert ticks > 3


def test_it_is_a_component_that_dumps_and_loads_with_all_its_parameters(tmp_path):
    reader = MiniLMReader(
        model="some/folder",
        document_store=SQLiteDocumentStore(tmp_path),
        top_k=3,
        no_answer=False,
        null_threshold=1.5,
        max_answer_tokens=10,
        max_seq_len=256,
        stride=64,
        spans_per_window=7,
        batch_tokens=500,
        devices=["cuda:0", "cuda:1"],
        engine="torch",
        dtype="float16",
    )
    data = reader.to_dict()
    assert MiniLMReader.from_dict(reader.to_dict()).to_dict() == data
    pipeline = Pipeline()
    pipeline.add_component("reader", MiniLMReader(top_k=1))
    assert pipeline.run({"reader": {"query": QUERY, "documents": [PARIS]}})["reader"]["answers"][0].data == "Paris"


def test_one_device_or_several_but_not_both():
    with pytest.raises(ValueError, match=r"device \('cpu'\) or devices"):
        MiniLMReader(device="cpu", devices=["cpu"])


def test_an_answer_does_not_reach_over_a_paragraph_break(reader):
    text = "Apollo 11\n\nApollo 11 was the spaceflight that first put people on the Moon."
    for answer in reader.run("When did people first land on the Moon?", [Document(content=text)], no_answer=False)[
        "answers"
    ]:
        assert "\n" not in answer.data


def test_of_very_many_spans_the_best_of_each_question_are_kept(monkeypatch):
    """Whatever the bounds that keep memory small, the best answers are the same."""
    documents = [Document(content=f"Flight {n} to Lima left at {n % 24}:15 from gate {n % 40}.") for n in range(30)]
    asked = {"queries": ["When did flight 17 leave?", "Which gate did flight 9 leave from?"]}
    asked["documents_per_query"] = [documents, documents[:12]]
    expected = MiniLMReader().run(**asked)["answers_per_query"]
    monkeypatch.setattr("needle.components.reader.PASSAGES_AT_ONCE", 7)
    monkeypatch.setattr("needle.components.reader.MAX_SPANS", 60)
    for bounded, free in zip(MiniLMReader().run(**asked)["answers_per_query"], expected, strict=True):
        assert bounded[0].data == free[0].data
        assert bounded[0].score == pytest.approx(free[0].score, abs=0.02)
    assert MiniLMReader().run(queries=[], documents_per_query=[]) == {"answers_per_query": []}
