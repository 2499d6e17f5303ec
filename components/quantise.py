"""Float weights -> int8 rows, smoothed so that int8 activations lose little.

A feed-forward layer's input has a few channels ten times larger than the others, and one int8 scale for all of them would
leave the others a few steps only. So each input channel j is divided by s_j and its column of weights multiplied by it,
s_j = max |x_j| ^ alpha / max |w_j| ^ (1 - alpha), which changes nothing but the rounding (SmoothQuant, Xiao et al. 2023,
arXiv 2211.10438, equation 4). max |x_j| is measured on sample windows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.components.cache import cache_file, keep
from needle.components.tokenizer import PassageTokenizer
from needle.components.weights import Checkpoint, Quantised, Weights, compact
from needle.components.windows import Batch, pair_batches
from needle.data import SHIPPED_CORPUS
from needle.data.errors import ModelError
from needle.data.squad import read_squad

logger = logging.getLogger(__name__)

#: Raised when this module changes, so that weights cached by an older version are not used.
VERSION = 1

#: Chosen by the mean error of the logits on 90 windows of training text: 0.046 at 0.65, 0.042 at 0.7, 0.041 at 0.75, 0.042
#: at 0.8, 0.066 without smoothing. With every row scaled besides (`bert_graph`), 0.65 would be a little better: 0.022
#: against 0.026. Smoothing the attention's layers as well gained too little for a pass over their input.
ALPHA = 0.75


def int8_weights(checkpoint: Checkpoint) -> Weights:
    """A BERT-family reader's weights as int8 rows; those of a reader in float are made once and kept in the user's cache.

    :raises ModelError: if the weights can't be read.
    """
    if checkpoint.is_compact:
        return checkpoint.arrays()
    file = cache_file("int8", f"{checkpoint.fingerprint()}-v{VERSION}.safetensors")
    try:
        return replace(checkpoint, weights_file=file).arrays()
    except ModelError:  # not there yet, or damaged
        logger.warning("Making the int8 form of '%s'; this takes some seconds, once.", checkpoint.folder)
        tokenizer = PassageTokenizer.from_folder(checkpoint.folder)
        samples = [(q.question, q.context) for q in read_squad(SHIPPED_CORPUS / "questions.json")[::4]]
        weights = quantise(checkpoint.arrays(), checkpoint.config, pair_batches(samples, tokenizer))
        keep(file, compact(weights))
        return weights


def quantise(weights: Weights, config: dict[str, Any], samples: Iterable[Batch]) -> Weights:
    """Int8 rows for every matrix but the head's.

    :param weights: float32 arrays by name. config: the model's config.json. samples: typical windows, some dozens.
    """
    largest = _largest_inputs(weights, config, samples)
    quantised: Weights = {}
    for name, weight in weights.items():
        if isinstance(weight, Quantised) or weight.ndim != 2 or name.startswith("qa_outputs"):
            quantised[name] = weight
        else:
            layer = name.removesuffix(".weight")
            quantised[name] = Quantised.of(weight, _smooth(weight, largest[layer]) if layer in largest else None)
    return quantised


def _smooth(weight: NDArray[np.float32], largest: NDArray[np.float32]) -> NDArray[np.float32]:
    smooth = np.maximum(largest, 1e-4) ** ALPHA / np.maximum(np.abs(weight).max(axis=0), 1e-5) ** (1 - ALPHA)
    return np.asarray(smooth / np.exp(np.log(smooth).mean()), np.float32)


def _largest_inputs(weights: Weights, config: dict[str, Any], samples: Iterable[Batch]) -> dict[str, NDArray[np.float32]]:
    """Feed-forward layer's name -> (inputs,) the largest magnitude of each of its input channels over all samples."""
    import onnxruntime

    from needle.components.bert_graph import bert_graph

    model = bert_graph(weights, config, linear_inputs=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs() if o.name.endswith(".input") and ".attention." not in o.name]
    largest: dict[str, NDArray[np.float32]] = {}
    for batch in samples:
        real = np.arange(batch.input_ids.shape[1]) < batch.lengths[:, None]
        inputs = {"input_ids": batch.input_ids, "token_type_ids": batch.token_type_ids, "lengths": batch.lengths}
        for name, x in zip(names, session.run(names, inputs), strict=True):
            layer = name.removesuffix(".input")
            largest[layer] = np.maximum(largest.get(layer, np.float32(0)), np.abs(x[real]).max(axis=0))
    return largest
