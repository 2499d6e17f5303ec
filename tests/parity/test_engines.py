"""The engines against Hugging Face's own models, and the compact form against the weights it was made of."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from needle.components.engines import OnnxEngine, TorchEngine, open_engine
from needle.components.quantise import quantise
from needle.components.reader import MiniLMReader
from needle.components.tokenizer import PassageTokenizer
from needle.components.weights import COMPACT_FILE, Quantised, open_checkpoint, save_compact
from needle.components.windows import pair_batches
from needle.data import SHIPPED_CORPUS, SHIPPED_READER
from needle.data.errors import ModelError
from needle.data.squad import read_squad

PAIRS = [(q.question, q.context) for q in read_squad(SHIPPED_CORPUS / "questions.json")[::12]]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def real(batch, logits):
    """The logits at tokens that are not padding."""
    return np.asarray(logits)[np.arange(batch.input_ids.shape[1]) < batch.lengths[:, None]]


def hugging_face_logits(model, batch):
    inputs = {
        "input_ids": torch.from_numpy(batch.input_ids).long(),
        "attention_mask": (torch.arange(batch.input_ids.shape[1]) < torch.from_numpy(batch.lengths)[:, None]).long(),
    }
    if model.config.type_vocab_size > 1:
        inputs["token_type_ids"] = torch.from_numpy(batch.token_type_ids).long()
    with torch.no_grad():
        output = model(**inputs)
    return output.start_logits.numpy(), output.end_logits.numpy()


def test_torch_in_float32_equals_hugging_face(shared):
    folder = shared / "models/minilm-squad2"
    model = transformers.BertForQuestionAnswering.from_pretrained(folder, dtype=torch.float32).eval()
    engine = TorchEngine(open_checkpoint(folder), "cpu")
    for batch in pair_batches(PAIRS, PassageTokenizer.from_folder(folder)):
        for ours, theirs in zip(engine.logits(batch), hugging_face_logits(model, batch), strict=True):
            np.testing.assert_allclose(real(batch, ours), real(batch, theirs), atol=1e-4)


def test_the_compact_form_is_the_original_but_for_rounding(shared):
    original = load_file(shared / "models/minilm-squad2/model.safetensors")
    compact = open_checkpoint().arrays()
    assert compact.keys() == original.keys()
    for name, weight in compact.items():
        array = original[name].astype(np.float32)
        if isinstance(weight, Quantised):
            step = weight.scale if weight.smooth is None else weight.scale / weight.smooth
            assert (np.abs(weight.dequantised() - array) <= 0.51 * step).all(), name
        else:
            np.testing.assert_array_equal(weight, array)


def test_the_shipped_reader_is_small_and_free_of_pickle():
    assert sum(f.stat().st_size for f in SHIPPED_READER.iterdir()) <= 36_000_000
    assert {f.suffix for f in SHIPPED_READER.iterdir()} <= {".json", ".md", ".safetensors"}


def test_the_cpu_engine_gives_the_torch_engines_answers_on_nearly_all_questions():
    """int8 rounding moves logits by hundredths; where two spans are as good, the order may change."""
    onnx, torch_ = MiniLMReader(engine="onnx"), MiniLMReader(engine="torch", device="cpu")
    from haystack import Document

    arguments = {"queries": [q for q, _ in PAIRS], "documents_per_query": [[Document(content=c)] for _, c in PAIRS]}
    answers = [r.run(**arguments)["answers_per_query"] for r in (onnx, torch_)]
    same = [a[0].data == b[0].data for a, b in zip(*answers, strict=True)]
    assert np.mean(same) >= 0.9
    scores = [[a[0].score for a in part] for part in answers]
    assert np.median(np.abs(np.subtract(*scores))) < 0.02


def tiny(kind, folder):
    """A small random reader, saved as users' own are, with the shipped tokenizer's files."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    if kind == "roberta":
        vocabulary = {"vocab_size": 30522, "type_vocab_size": 1, "pad_token_id": 0, "max_position_embeddings": 512}
        model = transformers.RobertaForQuestionAnswering(transformers.RobertaConfig(**sizes, **vocabulary))
    elif kind == "distilbert":
        config = transformers.DistilBertConfig(dim=48, n_layers=2, n_heads=4, hidden_dim=96, vocab_size=30522)
        model = transformers.DistilBertForQuestionAnswering(config)
    else:
        model = transformers.BertForQuestionAnswering(transformers.BertConfig(**sizes))
    for parameter in model.parameters():  # the default initialisation gives logits too small to compare
        parameter.data.mul_(3)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((SHIPPED_READER / name).read_bytes())
    return model.eval()


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_any_bert_family_folder_runs_on_both_engines(kind, tmp_path):
    model = tiny(kind, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    engines = open_engine(checkpoint, "cpu", "torch"), open_engine(checkpoint, "cpu")
    assert isinstance(engines[1], OnnxEngine)
    for batch in pair_batches(PAIRS, PassageTokenizer.from_folder(tmp_path)):
        expected = hugging_face_logits(model, batch)
        for ours, theirs in zip(engines[0].logits(batch), expected, strict=True):
            np.testing.assert_allclose(real(batch, ours), real(batch, theirs), atol=1e-4)
        for ours, theirs in zip(engines[1].logits(batch), expected, strict=True):
            spread = np.std(real(batch, theirs))
            assert np.abs(real(batch, ours) - real(batch, theirs)).mean() < 0.1 * spread


def test_the_onnx_graph_without_int8_equals_hugging_face(tmp_path):
    import onnxruntime

    from needle.components.bert_graph import bert_graph

    for kind in ("bert", "roberta"):
        folder = tmp_path / kind
        folder.mkdir()
        model = tiny(kind, folder)
        checkpoint = open_checkpoint(folder)
        graph = bert_graph(checkpoint.arrays(), checkpoint.config).SerializeToString()
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        for batch in pair_batches(PAIRS, PassageTokenizer.from_folder(folder)):
            inputs = {"input_ids": batch.input_ids, "token_type_ids": batch.token_type_ids, "lengths": batch.lengths}
            for ours, theirs in zip(session.run(None, inputs)[0], hugging_face_logits(model, batch), strict=True):
                np.testing.assert_allclose(real(batch, ours), real(batch, theirs), atol=1e-4)


def test_other_architectures_run_in_torch(tmp_path):
    tiny("distilbert", tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    engine = open_engine(checkpoint, "cpu")
    assert engine.name == "torch"
    start, _ = engine.logits(next(pair_batches(PAIRS, PassageTokenizer.from_folder(tmp_path))))
    assert torch.isfinite(start).all()
    with pytest.raises(ModelError, match="distilbert"):
        open_engine(checkpoint, "cpu", "onnx")


def test_bert_is_told_which_tokens_are_the_question(tmp_path):
    """The defect of transformers-haystack's reader: without token_type_ids the logits are others."""
    model = tiny("bert", tmp_path)
    batch = next(pair_batches(PAIRS, PassageTokenizer.from_folder(tmp_path)))
    start, _ = open_engine(open_checkpoint(tmp_path), "cpu", "torch").logits(batch)
    blind, _ = hugging_face_logits(model, batch._replace(token_type_ids=np.zeros_like(batch.token_type_ids)))
    assert np.abs(real(batch, start) - real(batch, blind)).max() > 0.01


def test_the_graph_is_cached_once_and_reused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    OnnxEngine(open_checkpoint())
    [file] = (tmp_path / "needle" / "graphs").iterdir()
    written = file.stat().st_mtime_ns
    OnnxEngine(open_checkpoint())
    assert [f.stat().st_mtime_ns for f in (tmp_path / "needle" / "graphs").iterdir()] == [written]


def test_the_compact_form_of_any_reader_can_be_written_and_read(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    tiny("bert", source)
    checkpoint = open_checkpoint(source)
    batches = list(pair_batches(PAIRS[:8], PassageTokenizer.from_folder(source)))
    weights = quantise(checkpoint.arrays(), checkpoint.config, batches)
    assert save_compact(weights, out).name == COMPACT_FILE
    (out / "config.json").write_text(json.dumps(checkpoint.config))
    compact = open_checkpoint(out)
    assert compact.is_compact
    original = TorchEngine(checkpoint, "cpu").logits(batches[0])[0]
    for engine in (TorchEngine(compact, "cpu"), OnnxEngine(compact)):
        ours = engine.logits(batches[0])[0]
        assert np.abs(real(batches[0], ours) - real(batches[0], original)).mean() < 0.1 * float(original.std())


def test_broken_weights_are_named(tmp_path):
    (tmp_path / "config.json").write_text((SHIPPED_READER / "config.json").read_text())
    (tmp_path / COMPACT_FILE).write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match=COMPACT_FILE):
        open_checkpoint(tmp_path).arrays()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        open_checkpoint(tmp_path.parent)


def test_a_model_without_a_span_head_is_no_reader(tmp_path):
    tiny("distilbert", tmp_path)
    transformers.DistilBertModel.from_pretrained(tmp_path).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"qa_outputs\.weight"):
        open_engine(open_checkpoint(tmp_path), "cpu")


def test_a_damaged_cached_graph_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    open_engine(open_checkpoint(), "cpu")
    [file] = (tmp_path / "needle" / "graphs").iterdir()
    size = file.stat().st_size
    file.write_bytes(b"")
    assert isinstance(open_engine(open_checkpoint(), "cpu"), OnnxEngine)
    assert [f.stat().st_size for f in file.parent.iterdir()] == [size]


def test_without_a_cache_that_can_be_written_the_engine_runs_all_the_same(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert isinstance(open_engine(open_checkpoint(), "cpu"), OnnxEngine)
    assert "built anew each time" in caplog.text


def test_onnx_runtime_keeps_no_device_id(tmp_path):
    """Its own telemetry would put one, and a queue of events, into the user's cache."""
    code = "from needle.components.reader import MiniLMReader; MiniLMReader(engine='onnx', device='cpu').warm_up()"
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert {f.suffix for f in tmp_path.rglob("*") if f.is_file()} == {".onnx"}


@pytest.mark.parametrize(("argument", "value"), [("engine", "tensorrt"), ("device", "gpu")])
def test_an_engine_or_device_that_does_not_exist_is_refused_by_name(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be .*'{value}'"):
        open_engine(open_checkpoint(), **{argument: value})
