"""Windows -> spans on any CPU: ONNX Runtime runs `bert_graph`, without importing torch."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from needle.components.cache import cache_file, keep
from needle.components.quantise import int8_weights
from needle.components.spans import Spans, best_spans
from needle.components.weights import Checkpoint
from needle.components.windows import Batch
from needle.data.errors import ModelError

if TYPE_CHECKING:
    import onnxruntime

#: Raised when `bert_graph` or `quantise` change, so that a graph cached by an older version is not used.
GRAPH_VERSION = 2


class OnnxEngine:
    """int8 matrix products, float32 elsewhere (see `bert_graph`)."""

    name = "onnx"
    batch_tokens = 1024
    in_flight = 2

    def __init__(self, checkpoint: Checkpoint):
        if reason := checkpoint.not_int8:
            raise ModelError(f"The onnx engine can't run '{checkpoint.folder}': {reason}. Use engine='torch'.")
        file = cache_file("graphs", f"{checkpoint.fingerprint()}-v{GRAPH_VERSION}.onnx")
        try:
            self._session = _session(str(file))
        except Exception:  # not there yet, or damaged; ONNX Runtime raises its own unrelated types
            from needle.components.bert_graph import bert_graph

            graph = bert_graph(int8_weights(checkpoint), checkpoint.config).SerializeToString()
            self._session = _session(graph)
            keep(file, graph)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="needle-reader")

    def logits(self, batch: Batch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        inputs = {"input_ids": batch.input_ids, "token_type_ids": batch.token_type_ids, "lengths": batch.lengths}
        start, end = self._session.run(None, inputs)[0]
        return start, end

    def submit(self, batch: Batch, max_answer_tokens: int, n: int) -> Callable[[], Spans]:
        return self._pool.submit(lambda: best_spans(*self.logits(batch), batch, max_answer_tokens, n)).result


def _session(graph: str | bytes) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    # Without VNNI the sums of neighbouring products would overflow 16 bits, and be cut off.
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait leave the core
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
