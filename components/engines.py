"""Windows -> start and end logits: torch on GPU or CPU, and ONNX Runtime on the CPU without importing torch."""

from __future__ import annotations

import ctypes.util
import inspect
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import platformdirs

from needle.components.tokenizer import PassageTokenizer
from needle.components.weights import Checkpoint, Quantised
from needle.components.windows import Batch, pair_batches
from needle.data import SHIPPED_CORPUS
from needle.data.errors import ModelError
from needle.data.squad import read_squad

if TYPE_CHECKING:
    import onnx
    import onnxruntime
    import torch

logger = logging.getLogger(__name__)

EngineName = Literal["onnx", "torch"]

#: Raised when `bert_graph` or `quantise` change, so that a graph cached by an older version is not used.
GRAPH_VERSION = 2


class Engine(Protocol):
    """Computes a batch's logits and leaves them where it computed them (NumPy arrays or torch tensors)."""

    name: str

    #: Tokens, padding included, that a batch should hold: enough to fill the processor, few enough to stay in its caches.
    batch_tokens: int

    def logits(self, batch: Batch) -> tuple[Any, Any]:
        """Start and end logits, each (B, L) float32; values at padding mean nothing."""
        ...


def open_engine(checkpoint: Checkpoint, device: str | None = None, engine: EngineName | None = None) -> Engine:
    """Load a reader's weights into an engine.

    :param device: a torch device such as "cuda", "cuda:1" or "cpu"; None takes a GPU if there is one.
    :param engine: "onnx" (CPU only) or "torch"; None takes ONNX Runtime on the CPU for BERT-family models whose weights
        are in safetensors, torch for everything else.
    :raises ModelError: if the weights can't be loaded, or `engine` can't run them on `device`.
    """
    if engine not in (None, "onnx", "torch"):
        raise ValueError(f"engine must be 'onnx', 'torch' or None, not {engine!r}.")
    if device is None:
        device = "cuda" if _cuda_is_available() else "cpu"
    can_be_onnx = device == "cpu" and checkpoint.weights_file is not None and checkpoint.is_bert_family
    if engine == "onnx" and not can_be_onnx:
        raise ModelError(
            f"The onnx engine runs BERT-family safetensors weights on the CPU; this is a "
            f"'{checkpoint.config.get('model_type')}' at '{checkpoint.folder}' for device '{device}'. Use engine='torch'."
        )
    if engine == "onnx" or (engine is None and can_be_onnx):
        try:
            return OnnxEngine(checkpoint)
        except Exception as error:  # ONNX Runtime raises its own unrelated types
            if engine == "onnx":
                raise
            logger.warning("The ONNX graph of '%s' can't be built (%s); torch is used.", checkpoint.folder, error)
    return TorchEngine(checkpoint, device)


def _cuda_is_available() -> bool:
    """Ask torch only where there is a driver to ask about: importing torch takes seconds."""
    if not (os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/dxg") or ctypes.util.find_library("nvcuda")):
        return False
    import torch

    return torch.cuda.is_available()


class OnnxEngine:
    """ONNX Runtime on the CPU: int8 matrix products, float32 elsewhere (see `bert_graph`)."""

    name = "onnx"
    batch_tokens = 1024

    def __init__(self, checkpoint: Checkpoint):
        file = Path(platformdirs.user_cache_dir("needle")) / "graphs" / f"{checkpoint.fingerprint()}-v{GRAPH_VERSION}.onnx"
        try:
            self._session = _session(str(file))
        except Exception:  # not there yet, or damaged; ONNX Runtime raises its own unrelated types
            graph = _int8_graph(checkpoint).SerializeToString()
            self._session = _session(graph)
            try:
                _write(file, graph)
            except OSError as error:
                logger.warning("The ONNX graph can't be kept in '%s' and is built anew each time: %s", file.parent, error)

    def logits(self, batch: Batch) -> tuple[Any, Any]:
        inputs = {"input_ids": batch.input_ids, "token_type_ids": batch.token_type_ids, "lengths": batch.lengths}
        start, end = self._session.run(None, inputs)[0]
        return start, end


def _session(graph: str | bytes) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait leave the core
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _write(file: Path, content: bytes) -> None:
    """Whole or not at all, whatever other processes do and whenever this one ends."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as unfinished:
        try:
            unfinished.write(content)
            unfinished.flush()
            os.fsync(unfinished.fileno())
            os.replace(unfinished.name, file)
        except OSError:
            os.unlink(unfinished.name)
            raise


def _int8_graph(checkpoint: Checkpoint) -> onnx.ModelProto:
    from needle.components.bert_graph import bert_graph
    from needle.components.quantise import quantise

    weights = checkpoint.arrays()
    if not checkpoint.is_compact:
        tokenizer = PassageTokenizer.from_folder(checkpoint.folder)
        samples = [(q.question, q.context) for q in read_squad(SHIPPED_CORPUS / "questions.json")]
        weights = quantise(weights, checkpoint.config, pair_batches(samples[::4], tokenizer))
    return bert_graph(weights, checkpoint.config)


class TorchEngine:
    """Any `AutoModelForQuestionAnswering` of transformers, on any torch device, float32 on the CPU, bfloat16 on a GPU."""

    name = "torch"

    def __init__(self, checkpoint: Checkpoint, device: str):
        import torch

        try:
            self.device = torch.device(device)
        except RuntimeError as error:
            raise ValueError(f"device must be a torch device such as 'cpu', 'cuda' or 'cuda:1', not {device!r}.") from error
        self.batch_tokens = 1024 if self.device.type == "cpu" else 16384
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        model = _torch_model(checkpoint)
        parameters = inspect.signature(model.forward).parameters
        self._takes_types = "token_type_ids" in parameters and getattr(model.config, "type_vocab_size", 0) > 1
        self._model: torch.nn.Module = model.to(self.device, dtype).eval()

    def logits(self, batch: Batch) -> tuple[Any, Any]:
        import torch

        with torch.inference_mode():
            ids = torch.from_numpy(batch.input_ids).to(self.device)
            lengths = torch.from_numpy(batch.lengths).to(self.device)
            inputs = {
                "input_ids": ids,
                "attention_mask": torch.arange(ids.shape[1], device=self.device) < lengths[:, None],
            }
            if self._takes_types:
                inputs["token_type_ids"] = torch.from_numpy(batch.token_type_ids).to(self.device)
            output = self._model(**inputs)
            return output.start_logits.float(), output.end_logits.float()


def _torch_model(checkpoint: Checkpoint) -> torch.nn.Module:
    import torch
    from transformers import AutoConfig, AutoModelForQuestionAnswering

    model: torch.nn.Module
    if checkpoint.is_compact:
        arrays = checkpoint.arrays().items()
        state = {name: torch.from_numpy(w.dequantised() if isinstance(w, Quantised) else w) for name, w in arrays}
        model = AutoModelForQuestionAnswering.from_config(AutoConfig.from_pretrained(checkpoint.folder))  # type: ignore[no-untyped-call]
        model.load_state_dict(state)
        return model
    try:
        model, report = AutoModelForQuestionAnswering.from_pretrained(
            checkpoint.folder, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"transformers can't load a reader from '{checkpoint.folder}': {error}") from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"'{checkpoint.folder}' is no reader: its weights lack {', '.join(missing)}.")
    return model
