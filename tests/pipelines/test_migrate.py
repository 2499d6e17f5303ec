"""Definitions as people wrote them for Haystack 1 and 2 are rewritten, load, and answer with the real reader."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from haystack import Document, Pipeline
from typer.testing import CliRunner

from needle.components.store import SQLiteDocumentStore
from needle.data.errors import PipelineError
from needle.pipelines import QA, load_pipeline
from needle.pipelines.cli import app
from needle.pipelines.migrate import Migrated, migrate

SAMPLES = Path(__file__).parent / "migrate_samples"
NEEDLE = Path(sys.executable).with_name("needle.exe" if os.name == "nt" else "needle")
HUB_READER = "deepset/minilm-uncased-squad2"
FACTS = {
    "tarn": "The lighthouse of Tarn was lit in 1842. Its keeper was Ezra Whitcombe.",
    "tea": "Tea was first drunk in China. The leaves are dried.",
    "rome": "Rome, the capital of Italy, was founded on seven hills.",
}


def migrated(sample: str) -> dict[str, Migrated]:
    return {one.name: one for one in migrate(SAMPLES / sample)}


def with_the_shipped_reader(one: Migrated, folder: Path) -> Path:
    """The new definition in a file; the reader's weights, which are on the hub, are those that needle ships."""
    assert HUB_READER in one.text()
    file = folder / f"{one.name}.yaml"
    file.write_text(one.text().replace(HUB_READER, "null"))
    return file


def documents() -> list[Document]:
    return [Document(content=text, meta={"name": name}) for name, text in FACTS.items()]


class TestHaystack1:
    def test_elasticsearch_bm25_and_a_farm_reader(self, tmp_path):
        one = migrated("haystack1_support.yaml")["query"]
        parts = one.definition["components"]
        assert {name: part["type"] for name, part in parts.items()} == {
            "Retriever": "needle.components.retrievers.BM25Retriever",
            "Reader": "needle.pipelines.compat.farm.FARMReader",
        }
        store = {"type": "needle.components.store.SQLiteDocumentStore", "init_parameters": {"path": "needle-store"}}
        assert parts["Retriever"]["init_parameters"] == {"document_store": store, "top_k": 5}
        assert parts["Reader"]["init_parameters"] == {
            "model_name_or_path": HUB_READER,
            "return_no_answer": True,
            "no_ans_boost": -2,
            "top_k": 3,
            "use_gpu": False,
        }
        assert one.left == []
        assert any("not needed any more: host, index, port" in change for change in one.changes)
        qa = QA.from_documents(documents(), with_the_shipped_reader(one, tmp_path))
        first, second = qa.ask_many(["Who kept the lighthouse of Tarn?", "Where was tea first drunk?"])
        assert (first.answers[0].data, second.answers[0].data) == ("Ezra Whitcombe", "China")
        assert first.no_answer_score is not None

    def test_its_indexing_pipeline_becomes_needles(self, tmp_path):
        one = migrated("haystack1_support.yaml")["indexing"]
        splitter = one.definition["components"]["splitter"]["init_parameters"]
        assert splitter == {"split_by": "sentence", "length": 100, "overlap": 10}
        assert one.left == [
            "TextConverter: no counterpart of remove_numeric_tables: True",
            "Preprocessor: no counterpart of clean_header_footer: True",
        ]
        file = tmp_path / "indexing.yaml"
        file.write_text(one.text())
        for name, text in FACTS.items():
            (tmp_path / f"{name}.txt").write_text(text)
        qa = QA(SQLiteDocumentStore(tmp_path / "store"), indexing=file)
        report = qa.index([tmp_path / f"{name}.txt" for name in FACTS])
        assert (report.passages, report.skipped) == (3, [])

    def test_two_retrievers_are_joined(self, tmp_path):
        one = migrated("haystack1_hybrid.yaml")["hybrid"]
        parts = one.definition["components"]
        assert list(parts) == ["Sparse", "Dense", "Join", "Reader"]
        assert parts["Dense"]["init_parameters"]["model"] == "sentence-transformers/all-MiniLM-L6-v2"
        assert parts["Dense"]["init_parameters"]["similarity"] == "cosine"
        assert parts["Join"] == {
            "type": "haystack.components.joiners.document_joiner.DocumentJoiner",
            "init_parameters": {"join_mode": "reciprocal_rank_fusion", "top_k": 6},
        }
        assert len(one.left) == 2
        assert "all_terms_must_match: True" in one.left[0]
        assert "TransformersSummarizer" in one.left[1]
        result = QA.from_documents(documents(), with_the_shipped_reader(one, tmp_path)).ask("Who kept the lighthouse?")
        assert result.answers[0].data == "Ezra Whitcombe"


class TestHaystack2:
    def test_an_in_memory_store_and_an_extractive_reader(self, tmp_path):
        one = migrated("haystack2_bm25.yaml")["pipeline"]
        retriever, reader = (one.definition["components"][name] for name in ("retriever", "reader"))
        assert retriever["init_parameters"] == {
            "document_store": {
                "type": "needle.components.store.SQLiteDocumentStore",
                "init_parameters": {"path": "needle-store"},
            },
            "top_k": 4,
            "variant": "plus",
            "k1": 1.2,
            "delta": 0.5,
        }
        assert reader["type"] == "needle.components.extractive_reader.ExtractiveReader"
        old = yaml.safe_load((SAMPLES / "haystack2_bm25.yaml").read_text())["components"]["reader"]["init_parameters"]
        assert reader["init_parameters"] == old
        assert one.definition["max_runs_per_component"] == 100
        assert one.left == ["InMemoryDocumentStore: no counterpart of bm25_tokenization_regex: '(?u)\\\\b\\\\w\\\\w+\\\\b'"]
        pipeline = load_pipeline(with_the_shipped_reader(one, tmp_path), store=tmp_path / "store")
        pipeline.get_component("retriever").document_store.write_documents(documents())
        query = "Who kept the lighthouse of Tarn?"
        found = pipeline.run({"retriever": {"query": query}, "reader": {"query": query}})  # as it was run before
        assert found["reader"]["answers"][0].data == "Ezra Whitcombe"

    def test_elasticsearch_by_keyword_and_vector(self, tmp_path):
        one = migrated("haystack2_hybrid.yaml")["pipeline"]
        assert list(one.definition["components"]) == ["embedding_retriever", "bm25_retriever", "joiner", "reader"]
        assert one.definition["connections"] == [
            {"sender": "embedding_retriever.documents", "receiver": "joiner.documents"},
            {"sender": "bm25_retriever.documents", "receiver": "joiner.documents"},
            {"sender": "joiner.documents", "receiver": "reader.documents"},
        ]
        assert any("give the question to 'embedding_retriever' as query" in change for change in one.changes)
        assert one.left == ["embedding_retriever: no counterpart of num_candidates: 50"]
        result = QA.from_documents(documents(), with_the_shipped_reader(one, tmp_path)).ask("Who kept the lighthouse?")
        assert result.answers[0].data == "Ezra Whitcombe"

    def test_an_indexing_pipeline_keeps_its_parts(self, tmp_path):
        one = migrated("haystack2_indexing.yaml")["pipeline"]
        assert "embedder" not in one.definition["components"]
        assert {"sender": "splitter.documents", "receiver": "writer.documents"} in one.definition["connections"]
        assert one.definition["components"]["audit"]["type"] == "acme.haystack.audit.AuditLog"
        audit, loading = one.left
        assert audit == "audit: acme.haystack.audit.AuditLog is neither Haystack 3's nor needle's; it stays as it was"
        assert "can't be loaded yet" in loading
        assert "acme.haystack.audit" in loading
        del one.definition["components"]["audit"]
        file = tmp_path / "indexing.yaml"
        file.write_text(one.text())
        (tmp_path / "tarn.txt").write_text(FACTS["tarn"])
        pipeline = load_pipeline(file, store=tmp_path / "store")
        assert pipeline.run({"router": {"sources": [tmp_path / "tarn.txt"]}})["writer"] == {"documents_written": 1}

    def test_what_is_haystack_3s_already_is_left_alone(self, tmp_path):
        text = load_pipeline("bm25_qa").dumps()
        (tmp_path / "new.yaml").write_text(text)
        [one] = migrate(tmp_path / "new.yaml")
        assert one.definition == yaml.safe_load(text)
        assert (one.changes, one.left) == ([], [])

    def test_other_embedders_and_stores_are_told(self, tmp_path):
        text = """
components:
  embedder: {type: haystack.components.embedders.openai_text_embedder.OpenAITextEmbedder, init_parameters: {model: text-3}}
  retriever:
    type: haystack.components.retrievers.in_memory.embedding_retriever.InMemoryEmbeddingRetriever
    init_parameters: {document_store: {type: haystack.document_stores.in_memory.document_store.InMemoryDocumentStore}}
  prompt: {type: haystack.components.builders.prompt_builder.PromptBuilder, init_parameters: {template: "{{q}}"}}
connections:
- {sender: prompt.prompt, receiver: embedder.text}
- {sender: embedder.embedding, receiver: retriever.query_embedding}
unheard_of: 1
"""
        (tmp_path / "old.yaml").write_text(text)
        [one] = migrate(tmp_path / "old.yaml")
        assert one.definition["connections"] == [{"sender": "prompt.prompt", "receiver": "retriever.query"}]
        assert one.left[0] == "'unheard_of' of the file has no counterpart"
        assert one.left[1].startswith("embedder: OpenAITextEmbedder ('text-3') is left out")
        Pipeline.from_dict(one.definition, allowed_modules=["needle.*"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("!!python/object/apply:os.system ['touch owned']", "can't be read as plain YAML"),
        ("components: {c: {type: !!python/name:os.system '', init_parameters: {}}}", "can't be read as plain YAML"),
        ("a: &a [x, x]\nb: &b [*a, *a]\ncomponents: {c: *b}", "aliases .* are not taken"),
        ("a: &a [*a]", "aliases .* are not taken"),
        ("components: {c: {type: subprocess.Popen, init_parameters: {args: [touch, owned]}}}", None),
        ("components: [1]\npipelines: []", "Component 1 must be a mapping"),
        ("components: [{name: a}]\npipelines: []", "The type of component 'a' must be a text, not None"),
        ("components: []\npipelines: [{name: p, nodes: [{name: x, inputs: [Query]}]}]", "of which there is no component"),
        ("components: []\npipelines: [{name: p}]", "must have a list of nodes"),
        ("components: {a: 7}", "Component 'a' must be a mapping"),
        ("components: {a: {type: x.Y}}\nconnections: 3", "'connections' must be a list"),
        ("components: [{name: a, type: b}]", "is no pipeline definition of Haystack 1"),
        ("- just\n- a list", "it holds a list, not a mapping"),
        ("", "it holds a NoneType"),
        ("\x00\x01", "can't be read as plain YAML"),
        ("[" * 5000, "can't be read as plain YAML"),
        ("# " + "x" * 2**20, "a pipeline definition has at most"),
    ],
)
def test_bad_files_are_told_and_run_nothing(text, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(text)
    if told is None:  # kept as it was, and named; it is neither imported nor made
        [one] = migrate("bad.yaml")
        assert len(one.left) == 2
    else:
        with pytest.raises(PipelineError, match=told) as caught:
            migrate("bad.yaml")
        assert "bad.yaml" in str(caught.value) or "must" in str(caught.value) or "Pipeline" in str(caught.value)
    assert not Path("owned").exists()
    with pytest.raises(PipelineError, match=r"'nowhere.yaml' can't be read"):
        migrate("nowhere.yaml")


class TestCommand:
    @pytest.mark.skipif(not NEEDLE.exists(), reason="the needle command is not installed beside this Python")
    def test_it_writes_a_file_a_pipeline_and_tells_what_is_different(self, tmp_path):
        command = [NEEDLE, "migrate", SAMPLES / "haystack1_support.yaml", "--out", tmp_path]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False, text=True)
        assert done.returncode == 3, done.stderr
        assert {file.name for file in tmp_path.iterdir()} == {
            "haystack1_support-query.needle.yaml",
            "haystack1_support-indexing.needle.yaml",
        }
        assert "Reader: FARMReader -> needle.pipelines.compat's, with the same scores" in done.stdout
        assert "not translated: TextConverter: no counterpart of remove_numeric_tables: True" in done.stderr
        assert "2 things could not be translated" in done.stderr
        text = (tmp_path / "haystack1_support-indexing.needle.yaml").read_text()
        assert text.startswith("# Not translated: TextConverter: no counterpart of remove_numeric_tables: True\n")

    def test_what_is_there_already_stays_unless_told_otherwise(self, tmp_path):
        arguments = ["migrate", str(SAMPLES / "haystack2_bm25.yaml"), "--out", str(tmp_path)]
        assert CliRunner().invoke(app, arguments).exit_code == 3
        file = tmp_path / "haystack2_bm25-pipeline.needle.yaml"
        file.write_text("mine")
        refused = CliRunner().invoke(app, arguments)
        assert (refused.exit_code, file.read_text()) == (1, "mine")
        assert "is there already. Replace it with --force" in refused.output
        assert CliRunner().invoke(app, [*arguments, "--force"]).exit_code == 3
        assert "ExtractiveReader" in file.read_text()

    def test_bad_files_are_told_without_a_traceback(self, tmp_path):
        (tmp_path / "bad.yaml").write_text("!!python/object/apply:os.system ['touch owned']")
        refused = CliRunner().invoke(app, ["migrate", str(tmp_path / "bad.yaml")])
        assert refused.exit_code == 1
        assert refused.output.startswith("needle: '")
