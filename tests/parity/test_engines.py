"""The engines against Hugging Face's own models, and the compact form against the weights it was made of."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import transformers
from numba.core.registry import cpu_target
from safetensors.numpy import load_file

from needle.components.engines import open_engine
from needle.components.llvm import HAS_AVX2, HAS_INT8_DOT
from needle.components.numba_engine import NumbaEngine
from needle.components.onnx_engine import OnnxEngine
from needle.components.quantise import int8_weights, quantise
from needle.components.reader import MiniLMReader
from needle.components.reader_files import save_compact
from needle.components.spans import best_spans
from needle.components.tiles import HAS_AMX
from needle.components.tokenizer import PassageTokenizer
from needle.components.torch_engine import TorchEngine
from needle.components.weights import COMPACT_FILE, Quantised, compact, open_checkpoint
from needle.components.windows import pair_batches
from needle.data import SHIPPED_CORPUS, SHIPPED_READER
from needle.data.errors import ModelError
from needle.data.squad import read_squad

PAIRS = [(q.question, q.context) for q in read_squad(SHIPPED_CORPUS / "questions.json")[::12]]

needs_amx = pytest.mark.skipif(not HAS_AMX, reason="this processor or its system has no AMX")
needs_avx2 = pytest.mark.skipif(not HAS_AVX2, reason="this processor has no AVX2")


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


def test_the_compact_reader_is_computed_in_float32_by_torch():
    engine = TorchEngine(open_checkpoint(), ["cpu"], "float32")
    weights = open_checkpoint().arrays()
    for name, parameter in engine._replicas[0]._model.state_dict().items():
        weight = weights[name]
        expected = weight.dequantised() if isinstance(weight, Quantised) else weight
        np.testing.assert_array_equal(parameter.numpy(), expected)


def test_torch_in_float32_equals_hugging_face(shared):
    folder = shared / "models/minilm-squad2"
    model = transformers.BertForQuestionAnswering.from_pretrained(folder, dtype=torch.float32).eval()
    engine = TorchEngine(open_checkpoint(folder), ["cpu"], "float32")
    for batch in pair_batches(PAIRS, PassageTokenizer.from_folder(folder)):
        for ours, theirs in zip(engine.logits(batch), hugging_face_logits(model, batch), strict=True):
            np.testing.assert_allclose(real(batch, ours), real(batch, theirs), atol=1e-4)


def test_the_compact_form_is_the_original_but_for_rounding(shared, tmp_path):
    folder = shared / "models/minilm-squad2"
    original = load_file(folder / "model.safetensors")
    assert save_compact(folder, tmp_path, PAIRS)
    weights = open_checkpoint(tmp_path).arrays()
    assert weights.keys() == original.keys()
    for name, weight in weights.items():
        array = original[name].astype(np.float32)
        if isinstance(weight, Quantised):
            step = weight.scale if weight.smooth is None else weight.scale / weight.smooth
            assert (np.abs(weight.dequantised() - array) <= 0.51 * step).all(), name
        else:
            np.testing.assert_array_equal(weight, array)


def test_the_shipped_reader_is_small_and_free_of_pickle():
    assert sum(f.stat().st_size for f in SHIPPED_READER.iterdir()) <= 36_000_000
    assert {f.suffix for f in SHIPPED_READER.iterdir()} <= {".json", ".md", ".safetensors"}


@pytest.mark.parametrize("engine", ["onnx", pytest.param("numba", marks=needs_avx2)])
def test_the_cpu_engines_give_the_torch_engines_answers_on_nearly_all_questions(engine):
    """int8 rounding moves logits by hundredths; where two spans are as good, the order may change."""
    int8, torch_ = MiniLMReader(engine=engine), MiniLMReader(engine="torch", device="cpu", dtype="float32")
    from haystack import Document

    arguments = {"queries": [q for q, _ in PAIRS], "documents_per_query": [[Document(content=c)] for _, c in PAIRS]}
    answers = [r.run(**arguments)["answers_per_query"] for r in (int8, torch_)]
    same = [a[0].data == b[0].data for a, b in zip(*answers, strict=True)]
    assert np.mean(same) >= 0.9
    scores = [[a[0].score for a in part] for part in answers]
    assert np.median(np.abs(np.subtract(*scores))) < 0.02


@pytest.mark.parametrize("name", ["onnx", pytest.param("numba", marks=needs_avx2)])
def test_int8_moves_logits_by_hundredths_on_any_processor(name):
    """Where sums of products overflow, as they may without VNNI, it is half as much again."""
    int8, exact = (open_engine(open_checkpoint(), ["cpu"], *engine) for engine in ((name,), ("torch", "float32")))
    apart = [
        real(batch, ours) - real(batch, theirs)
        for batch in pair_batches(PAIRS, PassageTokenizer.from_folder(SHIPPED_READER))
        for ours, theirs in zip(int8.logits(batch), exact.logits(batch), strict=True)
    ]
    assert np.abs(np.concatenate(apart)).mean() < 0.025


def tiny(kind, folder, head_size=12):
    """A small random reader, saved as users' own are, with the shipped tokenizer's files."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 4 * head_size, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
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
@pytest.mark.parametrize("int8_engine", ["onnx", pytest.param("numba", marks=needs_avx2)])
@pytest.mark.parametrize("head_size", [32, 64])
def test_any_bert_family_folder_runs_on_all_engines(kind, int8_engine, head_size, tmp_path):
    model = tiny(kind, tmp_path, head_size)
    checkpoint = open_checkpoint(tmp_path)
    engines = open_engine(checkpoint, ["cpu"], "torch", "float32"), open_engine(checkpoint, ["cpu"], int8_engine)
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


def test_the_fastest_engine_that_can_run_a_model_is_taken(tmp_path):
    assert open_engine(open_checkpoint()).name == ("numba" if HAS_AVX2 else "onnx")
    tiny("bert", tmp_path, head_size=12)
    assert open_engine(open_checkpoint(tmp_path)).name == "onnx"
    with pytest.raises(ModelError, match=r"no AVX2|no multiples of 32"):
        open_engine(open_checkpoint(tmp_path), engine="numba")
    with pytest.raises(ModelError, match=r"onnx engine runs on the CPU, not on cuda:0"):
        open_engine(open_checkpoint(), ["cuda:0"], "onnx")
    with pytest.raises(ValueError, match="at least one torch device"):
        open_engine(open_checkpoint(), [])
    assert open_engine(open_checkpoint(), ["cpu", "cpu"]).name == "torch"


@needs_avx2
def test_the_numba_engine_gives_a_window_the_same_logits_in_any_batch_and_thread():
    """Exactly: every row has a scale of its own, and no padding is computed."""
    engine = NumbaEngine(open_checkpoint())
    short = [("Who?", " ".join(c.split()[:n])) for n, (_, c) in enumerate(PAIRS, 1)]  # several a part, of odd lengths
    batches = list(pair_batches(PAIRS + short, PassageTokenizer.from_folder(SHIPPED_READER)))
    together = {}
    for batch in batches:
        for i, logits in enumerate(np.stack(engine.logits(batch), axis=1)):
            together[tuple(batch.windows[i])] = logits[:, : batch.lengths[i]]
    with ThreadPoolExecutor(8) as pool:
        for batch in batches:
            singles = [type(batch)(*(array[i : i + 1] for array in batch)) for i in range(len(batch.lengths))]
            for single, logits in zip(singles, pool.map(engine.logits, singles), strict=True):
                length = single.lengths[0]
                np.testing.assert_array_equal(np.stack(logits)[:, 0, :length], together[tuple(single.windows[0])])


def run_without(feature, code, *arguments, cache):
    """Python code in a process for which the processor has no such feature."""
    features = cpu_target.target_context.codegen().magic_tuple()[2].replace(f"+{feature}", f"-{feature}")
    environment = os.environ | {"NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(cache)}
    subprocess.run([sys.executable, "-c", code, *arguments], env=environment, check=True)


TWO_WINDOWS = """
import sys, numpy as np
from needle.components import llvm, tiles
from needle.components.numba_engine import NumbaEngine
from needle.components.tokenizer import PassageTokenizer
from needle.components.weights import open_checkpoint
from needle.components.windows import pair_batches
checkpoint = open_checkpoint()
pairs = [("Who wrote programs?", "Ada Lovelace, born in 1815, wrote programs. " * 9), ("Who?", "Nobody did.")]
[batch] = pair_batches(pairs, PassageTokenizer.from_folder(checkpoint.folder))
logits = np.stack(NumbaEngine(checkpoint).logits(batch))
"""


@needs_avx2
def test_without_bfloat16_products_attention_is_computed_in_float32(tmp_path):
    """As on processors that have int8 but not bfloat16 dot products; either way the logits are near torch's."""
    code = TWO_WINDOWS + "assert not llvm.HAS_BFLOAT16_DOT; np.save(sys.argv[1], logits)"
    run_without("avx512bf16", code, tmp_path / "logits.npy", cache=tmp_path)
    pairs = [("Who wrote programs?", "Ada Lovelace, born in 1815, wrote programs. " * 9), ("Who?", "Nobody did.")]
    [batch] = pair_batches(pairs, PassageTokenizer.from_folder(SHIPPED_READER))
    expected = np.stack(TorchEngine(open_checkpoint(), ["cpu"], "float32").logits(batch))
    for logits in (np.load(tmp_path / "logits.npy"), np.stack(NumbaEngine(open_checkpoint()).logits(batch))):
        for ours, theirs in zip(logits, expected, strict=True):
            assert np.abs(real(batch, ours) - real(batch, theirs)).mean() < 0.1


LAYERS = """
from needle.components import bert_kernels
random = np.random.default_rng(0)
s = bert_kernels.scratch(64, 128, 96, 32)  # 96 inputs are no multiple of what AMX takes at a time
found = {"logits": logits, "way": "amx" if tiles.HAS_AMX else "vnni" if llvm.HAS_INT8_DOT else "avx2"}
for rows in (1, 6, 12):
    x, matrix = random.normal(size=(12, 96)).astype(np.float32)[:rows], random.integers(-127, 128, (64, 96), np.int8)
    scale, bias, smooth = random.normal(size=(3, 96)).astype(np.float32)
    out = {kind: np.zeros((rows, 64), kind) for kind in ("float32", "uint32")}
    bert_kernels._quantise(x, smooth, s, s.wide_int8)
    arrays = s.wide_int8, s, bert_kernels.tiled(matrix), scale[:64], bias[:64]
    bert_kernels._linear(*arrays, out["float32"])
    bert_kernels._linear_gelu(*arrays, s.wide[:rows, :64])
    bert_kernels._linear_for_attention(*arrays, out["uint32"])
    found |= {f"linear {rows}": out["float32"], f"gelu {rows}": s.wide[:rows, :64].copy()}
    if tiles.PER_LANE == 2:
        found[f"bits {rows}"] = out["uint32"]
    x = x * smooth
    least = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    found[f"exact {rows}"] = np.rint(x / least) @ matrix.T.astype(np.int64) * least * scale[:64] + bias[:64]
for length in (1, 31, 40):
    q, k, v = random.normal(size=(3, 4, length, 32)).astype(np.float32).view(np.uint32) & 2**32 - 2**16  # bfloat16 as well
    rows = np.concatenate([part.transpose(1, 0, 2).reshape(length, 128) for part in (q, k, v)], axis=1)
    s.qkv[:length] = rows if tiles.PER_LANE == 1 else (rows >> 16).reshape(length, -1, 2) @ [1, 2**16]
    bert_kernels._attend(0, length, 4, s)
    found[f"attended {length}"] = s.attended[:length].copy()
    weights = np.exp(q.view(np.float32) @ k.view(np.float32).transpose(0, 2, 1) / np.sqrt(np.float32(32)))
    average = weights @ v.view(np.float32) / weights.sum(axis=2, keepdims=True)
    found[f"attention {length}"] = average.transpose(1, 0, 2).reshape(length, 128)
np.savez(sys.argv[1], **found)
"""


@needs_avx2
def test_all_ways_of_multiplying_compute_the_same(tmp_path):
    """AMX, AVX-512 VNNI and AVX2, as far as this processor has them: linear layers exactly, attention but for rounding."""
    ways = {"no-such-feature": "amx" if HAS_AMX else "vnni" if HAS_INT8_DOT else "avx2"}
    ways |= ({"amx-int8": "vnni"} if HAS_AMX else {}) | ({"avx512vnni": "avx2"} if HAS_INT8_DOT else {})
    results = []
    for feature, way in ways.items():
        run_without(feature, TWO_WINDOWS + LAYERS, tmp_path / f"{way}.npz", cache=tmp_path)
        results.append(np.load(tmp_path / f"{way}.npz"))
        assert results[-1]["way"] == way
    for result in results:
        for rows in (1, 6, 12):
            np.testing.assert_allclose(result[f"linear {rows}"], result[f"exact {rows}"], rtol=1e-4, atol=1e-3)
        for length in (1, 31, 40):
            np.testing.assert_allclose(result[f"attended {length}"], result[f"attention {length}"], atol=0.01)
        for name in result.files:
            if name.startswith(("linear", "gelu")) or (name.startswith("bits") and name in results[0]):
                np.testing.assert_array_equal(result[name], results[0][name])
        assert np.abs(result["logits"] - results[0]["logits"]).mean() < 0.1


@needs_amx
def test_a_forked_process_may_use_amx():
    code = """
import os
child = os.fork()
if not child:
    os._exit(not np.array_equal(np.stack(NumbaEngine(checkpoint).logits(batch)), logits))
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", TWO_WINDOWS + code], check=True)


@needs_avx2
def test_the_user_is_told_when_the_kernels_are_compiled_and_they_are_compiled_once(tmp_path):
    code = "from needle.components.reader import MiniLMReader; MiniLMReader(engine='numba').warm_up()"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}

    def run():
        told = subprocess.run(
            [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
        ).stderr
        return told, {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.nb[ci]")}

    told, kept = run()
    assert "Compiling the reader for this processor" in told
    assert kept
    assert run() == ("", kept)  # nothing was compiled anew, however slow the machine


@needs_avx2
def test_tokens_that_a_model_does_not_know_are_refused():
    engine = NumbaEngine(open_checkpoint())
    batch = next(pair_batches(PAIRS, PassageTokenizer.from_folder(SHIPPED_READER)))
    with pytest.raises(ModelError, match=r"ids up to 40000.*30522 ids"):
        engine.logits(batch._replace(input_ids=np.full_like(batch.input_ids, 40000)))


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bfloat16 products")
def test_torch_on_the_cpu_computes_in_bfloat16_where_the_processor_does():
    batch = next(pair_batches(PAIRS, PassageTokenizer.from_folder(SHIPPED_READER)))
    logits, exact = (TorchEngine(open_checkpoint(), ["cpu"], dtype).logits(batch)[0] for dtype in (None, "float32"))
    difference = np.abs(real(batch, logits) - real(batch, exact))
    assert 0 < difference.mean() < 0.1


def test_devices_share_the_batches():
    """Two replicas, here both on the CPU, give what one gives."""
    batches = list(pair_batches(PAIRS, PassageTokenizer.from_folder(SHIPPED_READER)))
    engine = TorchEngine(open_checkpoint(), ["cpu", "cpu"], "float32")
    taken = []
    for i, replica in enumerate(engine._replicas):
        logits = replica.logits
        replica.logits = lambda batch, i=i, logits=logits: taken.append(i) or logits(batch)
    waiting = [engine.submit(batch, 30, 5) for batch in batches]
    for batch, spans in zip(batches, waiting, strict=True):
        expected = best_spans(*engine.logits(batch), batch, 30, 5)
        for ours, theirs in zip(spans(), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert len(taken) == 2 * len(batches)
    assert abs(taken.count(1) - len(batches)) <= 1


def test_where_nothing_can_be_kept_the_reader_runs_all_the_same(tmp_path):
    """A container whose package folder and home can't be written: Numba finds no place for what it compiles."""
    code = """
import numba.core.caching as caching
caching.CacheImpl._locator_classes = []
from haystack import Document
from needle.components.reader import MiniLMReader
from needle.components.reader_files import save_compact
print(MiniLMReader(device="cpu").run("Who wrote it?", [Document(content="Ada Lovelace wrote it.")])["answers"][0].data)
"""
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert told.strip() == "Ada Lovelace"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("engine", ["onnx", pytest.param("numba", marks=needs_avx2)])
def test_a_reader_that_was_warm_before_a_fork_answers_after_it(engine):
    """As under gunicorn --preload: threads are not copied into the child."""
    code = f"""
import os, signal
from haystack import Document
from needle.components.reader import MiniLMReader
from needle.components.reader_files import save_compact
reader = MiniLMReader(engine={engine!r})
ask = lambda: reader.run("Who wrote it?", [Document(content="Ada Lovelace wrote it.")])["answers"][0].data
assert ask() == "Ada Lovelace"
child = os.fork()
if child == 0:
    signal.alarm(60)
    os._exit(0 if ask() == "Ada Lovelace" else 1)
assert os.waitpid(child, 0)[1] == 0
assert ask() == "Ada Lovelace"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_logits_that_are_no_numbers_are_an_error_and_not_no_answer(tmp_path):
    from haystack import Document

    model = tiny("bert", tmp_path)
    model.qa_outputs.weight.data[:] = float("nan")
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no numbers.*float32"):
        MiniLMReader(str(tmp_path), engine="torch", device="cpu").run("Who?", [Document(content="Nobody was here.")])


def test_the_int8_form_of_a_float_reader_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tiny("bert", tmp_path)
    first = int8_weights(open_checkpoint(tmp_path))
    [file] = (tmp_path / "cache" / "needle" / "int8").iterdir()
    written = file.stat().st_mtime_ns
    second = int8_weights(open_checkpoint(tmp_path))
    assert file.stat().st_mtime_ns == written
    assert first.keys() == second.keys()
    for name, weight in first.items():
        for a, b in zip(*([w] if isinstance(w, np.ndarray) else w for w in (weight, second[name])), strict=True):
            assert (a is None and b is None) or np.array_equal(a, b)
    file.write_bytes(b"damaged")
    assert int8_weights(open_checkpoint(tmp_path)).keys() == first.keys()


def test_other_architectures_run_in_torch(tmp_path):
    tiny("distilbert", tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    engine = open_engine(checkpoint, ["cpu"])
    assert engine.name == "torch"
    start, _ = engine.logits(next(pair_batches(PAIRS, PassageTokenizer.from_folder(tmp_path))))
    assert torch.isfinite(start).all()
    with pytest.raises(ModelError, match="distilbert"):
        open_engine(checkpoint, ["cpu"], "onnx")


def test_bert_is_told_which_tokens_are_the_question(tmp_path):
    """The defect of transformers-haystack's reader: without token_type_ids the logits are others."""
    model = tiny("bert", tmp_path)
    batch = next(pair_batches(PAIRS, PassageTokenizer.from_folder(tmp_path)))
    start, _ = open_engine(open_checkpoint(tmp_path), ["cpu"], "torch", "float32").logits(batch)
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
    (out / COMPACT_FILE).write_bytes(compact(weights))
    (out / "config.json").write_text(json.dumps(checkpoint.config))
    small = open_checkpoint(out)
    assert small.is_compact
    original = TorchEngine(checkpoint, ["cpu"], "float32").logits(batches[0])[0]
    for engine in (TorchEngine(small, ["cpu"], "float32"), OnnxEngine(small)):
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
        open_engine(open_checkpoint(tmp_path), ["cpu"])


def test_a_damaged_cached_graph_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    open_engine(open_checkpoint(), ["cpu"], "onnx")
    [file] = (tmp_path / "needle" / "graphs").iterdir()
    size = file.stat().st_size
    file.write_bytes(b"")
    assert isinstance(open_engine(open_checkpoint(), ["cpu"], "onnx"), OnnxEngine)
    assert [f.stat().st_size for f in file.parent.iterdir()] == [size]


def test_without_a_cache_that_can_be_written_the_engine_runs_all_the_same(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert isinstance(open_engine(open_checkpoint(), ["cpu"], "onnx"), OnnxEngine)
    assert "made anew each time" in caplog.text


def test_onnx_runtime_keeps_no_device_id(tmp_path):
    """Its own telemetry would put one, and a queue of events, into the user's cache."""
    code = "from needle.components.reader import MiniLMReader; MiniLMReader(engine='onnx', device='cpu').warm_up()"
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert {f.suffix for f in tmp_path.rglob("*") if f.is_file()} == {".onnx"}


@pytest.mark.parametrize("wrong", [{"engine": "tensorrt"}, {"devices": ["gpu"]}, {"dtype": "int4"}])
def test_an_engine_or_device_that_does_not_exist_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=r"(engine|device|dtype) must be .*'(tensorrt|gpu|int4)'"):
        open_engine(open_checkpoint(), **wrong)
