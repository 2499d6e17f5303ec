"""Windows -> spans on x86 with AVX2, AVX-512 VNNI or AMX: `bert_kernels` on all cores, without importing torch."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba.core import event
from numpy.typing import NDArray

from needle.components import bert_kernels, llvm
from needle.components.cores import available_cores
from needle.components.quantise import int8_weights
from needle.components.spans import Spans, best_spans
from needle.components.tiles import COLUMNS
from needle.components.weights import BERT_FAMILY, Checkpoint, Quantised, Weights
from needle.components.windows import WINDOW, Batch
from needle.data.errors import ModelError

logger = logging.getLogger(__name__)

#: A thread takes windows one at a time; short ones several together, up to so many tokens, to read the weights less often.
PART_TOKENS = 192


class NumbaEngine:
    """int8 linear layers, bfloat16 or float32 attention, one window a thread."""

    name = "numba"
    in_flight = 2

    def __init__(self, checkpoint: Checkpoint):
        if reason := unsupported(checkpoint):
            raise ModelError(f"The numba engine can't run '{checkpoint.folder}': {reason}. Use engine='onnx' or 'torch'.")
        self._heads: int = checkpoint.config["num_attention_heads"]
        self._epsilon = np.float32(checkpoint.config["layer_norm_eps"])
        self._encoder = _encoder(int8_weights(checkpoint), checkpoint.config)
        threads = available_cores()
        self.batch_tokens = 2048 * threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="needle-reader")
        self._own = threading.local()
        self._compile()

    def logits(self, batch: Batch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        parts = list(self._pool.map(self._encode, _parts(batch)))
        start, end = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return start, end

    def submit(self, batch: Batch, max_answer_tokens: int, n: int) -> Callable[[], Spans]:
        def read(part: Batch) -> Spans:
            return best_spans(*self._encode(part), part, max_answer_tokens, n)

        futures = [self._pool.submit(read, part) for part in _parts(batch)]
        return lambda: Spans.joined([future.result() for future in futures])

    def _encode(self, batch: Batch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        tokens, largest_id = int(batch.lengths.sum()), batch.input_ids.max()
        n_ids, n_positions = len(self._encoder.words), len(self._encoder.positions)
        if largest_id >= n_ids or batch.input_ids.min() < 0 or batch.lengths.max() > n_positions:
            raise ModelError(
                f"A window has {batch.lengths.max()} tokens with ids up to {largest_id}; this model knows {n_positions} "
                f"positions and {n_ids} ids. Is the tokenizer its own?"
            )
        start, end = np.zeros((2, *batch.input_ids.shape), np.float32)
        arrays = batch.input_ids, batch.token_type_ids, batch.lengths, self._scratch(tokens), start, end
        bert_kernels.encode(self._encoder, self._heads, self._epsilon, *arrays)
        return start, end

    def _scratch(self, tokens: int) -> bert_kernels.Scratch:
        """This thread's memory, made once unless a window is longer than any before."""
        if getattr(self._own, "tokens", 0) < tokens:
            self._own.tokens = max(tokens, 2 * PART_TOKENS)
            hidden = self._encoder.words.shape[1]
            inner = self._encoder.inner.bias.shape[1]
            self._own.scratch = bert_kernels.scratch(self._own.tokens, hidden, inner, hidden // self._heads)
        scratch: bert_kernels.Scratch = self._own.scratch
        return scratch

    def _compile(self) -> None:
        """Numba keeps what it compiled beside the module, or in the user's cache where that can't be written."""
        ids = np.zeros((1, 4), np.int32)
        bound = np.array([1], np.int32)
        batch = Batch(np.empty(1, WINDOW), ids, ids, np.array([4], np.int32), bound, bound + 2)
        with event.install_listener("numba:compile", _TellCompiling()):
            self.submit(batch, max_answer_tokens=2, n=1)()


class _TellCompiling(event.Listener):
    """Numba reports what it compiles, not what it only loads."""

    def on_start(self, event: Any) -> None:
        if event.data["dispatcher"] is bert_kernels.encode:
            logger.warning("Compiling the reader for this processor; this takes some seconds, once.")

    def on_end(self, event: Any) -> None:
        pass


def unsupported(checkpoint: Checkpoint) -> str:
    """Why this engine can't run a model on this machine; "" if it can."""
    if not llvm.HAS_AVX2:
        return "this processor has no AVX2"
    if checkpoint.not_int8:
        return checkpoint.not_int8
    sizes = [checkpoint.config[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads")]
    if any(size % COLUMNS for size in (*sizes[:2], sizes[0] // sizes[2])):
        return f"its layers' sizes are no multiples of {COLUMNS}"
    return ""


def _parts(batch: Batch) -> list[Batch]:
    """What the threads take, one after the other."""
    parts, first, tokens = [], 0, 0
    for i, length in enumerate([*batch.lengths.tolist(), PART_TOKENS + 1]):  # the last is beyond the batch and ends its part
        if i > first and tokens + length > PART_TOKENS:
            parts.append(Batch._make(array[first:i] for array in batch))
            first, tokens = i, 0
        tokens += length
    return parts


def _stacked(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    out = bert_kernels.zeros((len(arrays), *arrays[0].shape), arrays[0].dtype.type)
    return np.stack(arrays, out=out)


def _encoder(weights: Weights, config: dict[str, Any]) -> bert_kernels.Encoder:
    prefix = BERT_FAMILY[config["model_type"]]
    layers = [f"{prefix}encoder.layer.{i}." for i in range(config["num_hidden_layers"])]
    first_position = 0 if config["model_type"] == "bert" else config["pad_token_id"] + 1

    def floats(name: str) -> NDArray[np.float32]:
        weight = weights[name]
        return weight.dequantised() if isinstance(weight, Quantised) else weight

    def linear(*parts: str) -> bert_kernels.Linear:
        """One layer, or several side by side, in all encoder layers."""
        return bert_kernels.Linear(
            *(_stacked(arrays) for arrays in zip(*(one(layer, parts) for layer in layers), strict=True))
        )

    def one(layer: str, parts: tuple[str, ...]) -> tuple[NDArray[Any], ...]:
        matrices = [w for w in (weights[f"{layer}{part}.weight"] for part in parts) if isinstance(w, Quantised)]
        smooth = matrices[0].smooth
        return (
            bert_kernels.tiled(np.concatenate([m.values for m in matrices])),
            np.concatenate([m.scale[:, 0] for m in matrices]),
            np.concatenate([floats(f"{layer}{part}.bias") for part in parts]),
            np.ones(matrices[0].values.shape[1], np.float32) if smooth is None else 1 / smooth,
        )

    def norm(part: str, names: list[str]) -> bert_kernels.Norm:
        return bert_kernels.Norm(*(_stacked([floats(f"{n}{part}.{kind}") for n in names]) for kind in ("weight", "bias")))

    words = weights[f"{prefix}embeddings.word_embeddings.weight"]
    assert isinstance(words, Quantised)
    return bert_kernels.Encoder(
        words=words.values,
        word_scale=words.scale[:, 0].copy(),
        positions=floats(f"{prefix}embeddings.position_embeddings.weight")[first_position:],
        kinds=floats(f"{prefix}embeddings.token_type_embeddings.weight"),
        embedding_norm=norm("LayerNorm", [f"{prefix}embeddings."]),
        qkv=linear("attention.self.query", "attention.self.key", "attention.self.value"),
        attention=linear("attention.output.dense"),
        attention_norm=norm("attention.output.LayerNorm", layers),
        inner=linear("intermediate.dense"),
        outer=linear("output.dense"),
        outer_norm=norm("output.LayerNorm", layers),
        head=floats("qa_outputs.weight"),
        head_bias=floats("qa_outputs.bias"),
    )
