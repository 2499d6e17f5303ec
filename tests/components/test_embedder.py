"""Embedder: real weights from the package that carries them, and what tells one model from another."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from needle.components.embedder import DEFAULT_EMBEDDER, Embedder, _source
from needle.data.errors import ModelError


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(device="cpu")


def test_texts_of_one_meaning_are_near(embedder):
    passages = embedder.passages(["The automobile would not start.", "Bees make honey.", ""])
    [question] = embedder.questions(["What is wrong with my car?"])
    assert passages.shape == (3, 384)
    assert passages.dtype == question.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(passages, axis=1), 1, atol=1e-3)
    assert int(np.argmax(passages @ question)) == 0


def test_no_texts(embedder):
    assert len(embedder.passages([])) == 0


def test_the_fingerprint_names_the_weights_and_what_is_done_with_them(embedder, tmp_path):
    folder = shutil.copytree(_source(DEFAULT_EMBEDDER), tmp_path / "copy")
    assert Embedder(str(folder), device="cpu").fingerprint == embedder.fingerprint
    assert Embedder(str(folder), "dot", device="cpu").fingerprint != embedder.fingerprint
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text().replace('"pooling_mode_mean_tokens": true', '"pooling_mode_mean_tokens": false'))
    pooling.write_text(pooling.read_text().replace('"pooling_mode_cls_token": false', '"pooling_mode_cls_token": true'))
    assert Embedder(str(folder), device="cpu").fingerprint != embedder.fingerprint
    shutil.copy(Path(_source(DEFAULT_EMBEDDER)) / "1_Pooling" / "config.json", pooling)
    assert Embedder(str(folder), device="cpu").fingerprint == embedder.fingerprint
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.LayerNorm.bias"] = weights["embeddings.LayerNorm.bias"] + 0.01
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert Embedder(str(folder), device="cpu").fingerprint != embedder.fingerprint


def test_a_model_that_can_not_be_had(tmp_path: Path):
    for model in ("no/such-model", str(tmp_path)):
        with pytest.raises(ModelError, match=f"(?s)'{model}' can't be loaded.*needle-qa\\[embedder\\]"):
            Embedder(model).passages(["text"])


def test_a_similarity_that_is_none_of_ours(embedder, monkeypatch):
    monkeypatch.setattr(embedder._load(), "similarity_fn_name", "euclidean", raising=False)
    with pytest.raises(ModelError, match="compares vectors by 'euclidean'"):
        _ = embedder.similarity
    monkeypatch.undo()
    assert embedder.similarity == "cosine"
