"""A reader saved for transformers."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from needle.components.hugging_face import save_hugging_face
from needle.components.weights import COMPACT_FILE, Quantised, open_checkpoint
from needle.data.errors import ModelError


def test_the_compact_form_becomes_float32(tmp_path):
    shipped = open_checkpoint()
    save_hugging_face(shipped, tmp_path / "saved", {"told": 1})
    saved = load_file(tmp_path / "saved/model.safetensors")
    for name, weight in shipped.arrays().items():
        expected = weight.dequantised() if isinstance(weight, Quantised) else weight
        assert saved[name].dtype == np.float32
        np.testing.assert_array_equal(saved[name], expected)
    config = json.loads((tmp_path / "saved/config.json").read_text())
    assert config == {**shipped.config, "dtype": "float32", "torch_dtype": "float32", "told": 1}
    assert {"tokenizer.json", "tokenizer_config.json", COMPACT_FILE} < {f.name for f in (tmp_path / "saved").iterdir()}


def test_a_folder_that_can_not_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="can't be saved"):
        save_hugging_face(open_checkpoint(), tmp_path / "file" / "folder")
