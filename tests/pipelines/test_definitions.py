"""The YAML definitions are Haystack's own format: they load with Haystack's loader and with needle's, run, and dump back."""

from pathlib import Path

import pytest
import transformers
import yaml
from haystack import Document, Pipeline
from haystack.core.errors import DeserializationError

from needle.components.passages import PassageWriter
from needle.components.reader import MiniLMReader
from needle.components.retrievers import BM25Retriever
from needle.components.store import SQLiteDocumentStore
from needle.data.errors import PipelineError
from needle.pipelines import QA, load_pipeline
from needle.pipelines.loading import DEFINITIONS

NAMES = [file.stem for file in sorted(DEFINITIONS.glob("*.yaml"))]


def test_the_definitions_are_there():
    assert NAMES == ["bm25_qa", "dense_qa", "hybrid_qa", "indexing", "rerank_qa"]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "rerank_qa"])
def test_a_definition_dumps_back_to_itself(name):
    text = (DEFINITIONS / f"{name}.yaml").read_text()
    for pipeline in (Pipeline.loads(text, allowed_modules=["needle.*"]), load_pipeline(name)):
        assert yaml.safe_load(pipeline.dumps()) == yaml.safe_load(text)


def test_they_run_as_haystack_pipelines(tmp_path, monkeypatch):
    """As a Haystack user would: no needle API, the store where the definition says."""
    monkeypatch.chdir(tmp_path)
    Path("facts.txt").write_text("The lighthouse of Tarn was lit in 1842. Its keeper was Ezra Whitcombe.")
    with (DEFINITIONS / "indexing.yaml").open() as file:
        indexing = Pipeline.load(file, allowed_modules=["needle.*"])
    assert indexing.run({"converter": {"sources": ["facts.txt"]}})["writer"] == {"documents_written": 1}
    with (DEFINITIONS / "bm25_qa.yaml").open() as file:
        asking = Pipeline.load(file, allowed_modules=["needle.*"])
    query = "Who kept the lighthouse of Tarn?"
    answers = asking.run({"retriever": {"query": query}, "reader": {"query": query}})["reader"]["answers"]
    assert answers[0].data == "Ezra Whitcombe"
    many = asking.run({"retriever": {"queries": [query] * 2}, "reader": {"queries": [query] * 2}})
    assert [a[0].data for a in many["reader"]["answers_per_query"]] == ["Ezra Whitcombe"] * 2
    assert Path("needle-store/needle.sqlite").is_file()


def test_a_cross_encoder_re_ranks(tmp_path):
    """Its weights are random: what counts is that its order, and no other, is what the reader and the answers get."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "paris", "capital", "france", "berlin", "germany"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "ranker")
    config = transformers.BertConfig(
        vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=1
    )
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "ranker")
    definition = (
        (DEFINITIONS / "rerank_qa.yaml")
        .read_text()
        .replace("cross-encoder/ms-marco-MiniLM-L-6-v2", str(tmp_path / "ranker"))
    )
    (tmp_path / "mine.yaml").write_text(definition)
    contents = ["Paris is the capital of France.", "Berlin is the capital of Germany.", "Rome is a city."]
    qa = QA.from_documents([Document(content=content) for content in contents], tmp_path / "mine.yaml")
    query = "What is the capital of France?"
    found = qa.pipeline.run(
        {"bm25": {"query": query}, "dense": {"query": query}, "ranker": {"query": query}, "reader": {"query": query}},
        include_outputs_from={"ranker", "fusion"},
    )
    ranked = found["ranker"]["documents"]
    expected = qa.pipeline.get_component("ranker").run(query=query, documents=found["fusion"]["documents"])["documents"]
    assert [(d.content, d.score) for d in ranked] == [(d.content, d.score) for d in expected]
    assert {d.content for d in ranked} == set(contents)
    results = qa.ask_many([query, query])
    assert [r.answers[0].data for r in results] == ["Paris", "Paris"]
    by_content = {d.content: d.score for d in ranked}
    assert results[0].answers[0].meta["retrieval_score"] == pytest.approx(by_content[contents[0]])


async def test_they_run_asynchronously(tmp_path):
    qa = QA.open(tmp_path)
    qa.index_documents([Document(content="Paris is the capital of France.")])
    query = "What is the capital of France?"
    result = await qa.pipeline.run_async({"retriever": {"query": query}, "reader": {"query": query}})
    assert result["reader"]["answers"][0].data == "Paris"


def test_store_and_model_are_put_into_every_component(tmp_path):
    pipeline = load_pipeline("bm25_qa", store=tmp_path, model="other/reader")
    assert pipeline.get_component("retriever").document_store.folder == tmp_path
    assert pipeline.get_component("reader").document_store.folder == tmp_path
    assert pipeline.get_component("reader").model == "other/reader"
    assert load_pipeline("indexing", model="other/reader").get_component("writer").model == "other/reader"


@pytest.mark.parametrize("cls", [BM25Retriever, MiniLMReader, PassageWriter])
def test_components_dump_and_load_with_their_store(cls, tmp_path):
    component = cls(document_store=SQLiteDocumentStore(tmp_path))
    assert cls.from_dict(component.to_dict()).to_dict() == component.to_dict()


def written(folder, text):
    file = folder / "pipeline.yaml"
    file.write_text(text)
    return file


def test_a_module_that_is_not_allowed_is_refused_with_what_to_do(tmp_path):
    text = "components:\n  c:\n    type: subprocess.Popen\n    init_parameters: {args: [touch, owned]}\nconnections: []\n"
    with pytest.raises(PipelineError, match=r"subprocess.*HAYSTACK_DESERIALIZATION_ALLOWLIST"):
        load_pipeline(written(tmp_path, text))
    with pytest.raises(DeserializationError):
        Pipeline.loads((DEFINITIONS / "bm25_qa.yaml").read_text())  # needle itself is not on Haystack's own list


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch owned']",
        "components: {c: {type: needle.components.reader.os.system, init_parameters: {command: 'touch owned'}}}",
        "components: {c: {type: needle.components.engines.os.system, init_parameters: {command: 'touch owned'}}}",
        "components: [a, b]",
        "just text",
        "",
        "components: {a: {type: needle.components.reader.MiniLMReader, init_parameters: {no_such_parameter: 1}}}",
        "components: {a: {type: needle.components.reader.NoSuchClass, init_parameters: {}}}",
        "components: {a: {type: needle.no.such.module.Class, init_parameters: {}}}",
        "components: {a: 7}",
        "\x00\x01",
        "a: &a [*a]",
    ],
)
def test_bad_definitions_are_refused_by_name_and_run_nothing(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match=r"pipeline\.yaml"):
        load_pipeline(written(tmp_path, text))
    assert not Path("owned").exists()


def test_a_missing_definition_is_told_with_those_that_exist():
    with pytest.raises(PipelineError, match=r"no_such.*bm25_qa"):
        load_pipeline("no_such")


def test_a_pipeline_that_answers_nothing_cannot_be_asked(tmp_path):
    with pytest.raises(PipelineError, match="'answers'"):
        QA.open(tmp_path, pipeline="indexing")


def test_a_users_own_pipeline_is_asked_one_question_at_a_time_where_it_takes_no_list(tmp_path):
    """Haystack's own in-memory retriever in front of needle's reader."""
    text = """
components:
  retriever:
    type: haystack.components.retrievers.in_memory.bm25_retriever.InMemoryBM25Retriever
    init_parameters:
      document_store:
        type: haystack.document_stores.in_memory.document_store.InMemoryDocumentStore
        init_parameters: {}
  reader:
    type: needle.components.reader.MiniLMReader
    init_parameters: {}
connections:
- {sender: retriever.documents, receiver: reader.documents}
"""
    qa = QA.open(tmp_path, pipeline=written(tmp_path, text))
    document = Document(content="Paris is the capital of France.")
    qa.pipeline.get_component("retriever").document_store.write_documents([document])
    results = qa.ask_many(["What is the capital of France?", "Which capital has France?"])
    assert [r.answer.data for r in results] == ["Paris", "Paris"]


def test_a_component_in_between_that_knows_one_question_only_is_asked_one_at_a_time(tmp_path):
    """Haystack's joiner has no `queries`, and neither gives nor takes passages of many questions."""
    text = """
components:
  first: &bm25
    type: needle.components.retrievers.BM25Retriever
    init_parameters:
      document_store: {type: needle.components.store.SQLiteDocumentStore, init_parameters: {path: needle-store}}
  second: *bm25
  join:
    type: haystack.components.joiners.document_joiner.DocumentJoiner
    init_parameters: {}
  reader:
    type: needle.components.reader.MiniLMReader
    init_parameters: {}
connections:
- {sender: first.documents, receiver: join.documents}
- {sender: second.documents, receiver: join.documents}
- {sender: join.documents, receiver: reader.documents}
"""
    qa = QA.open(tmp_path / "store", pipeline=written(tmp_path, text))
    qa.index_documents([Document(content="Paris is the capital of France.")])
    results = qa.ask_many(["What is the capital of France?", "Which capital has France?"])
    assert [r.answer.data for r in results] == ["Paris", "Paris"]
