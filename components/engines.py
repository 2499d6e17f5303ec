"""Which engine computes a reader's spans: Numba or ONNX Runtime on the CPU, both without importing torch, or torch."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, get_args

from needle.components.spans import Spans
from needle.components.weights import Checkpoint
from needle.components.windows import Batch
from needle.data.errors import ModelError

logger = logging.getLogger(__name__)

EngineName = Literal["numba", "onnx", "torch"]
DType = Literal["float32", "float16", "bfloat16"]


class Engine(Protocol):
    """Computes batches of windows. Safe to use from several threads."""

    name: str

    #: Tokens, padding included, that a batch should hold.
    batch_tokens: int

    #: Batches that are submitted before the first of them is waited for, beside the newest.
    in_flight: int

    def logits(self, batch: Batch) -> tuple[Any, Any]:
        """Start and end logits, each (B, L) float32, where they were computed; values at padding mean nothing."""
        ...

    def submit(self, batch: Batch, max_answer_tokens: int, n: int) -> Callable[[], Spans]:
        """Begin to compute the n best spans of each window; the function returned waits for them."""
        ...


def open_engine(
    checkpoint: Checkpoint,
    devices: Sequence[str] | None = None,
    engine: EngineName | None = None,
    dtype: DType | None = None,
) -> Engine:
    """Load a reader's weights into an engine.

    :param devices: torch devices such as "cuda", "cuda:1" or "cpu", which share the work; None takes all GPUs that there
        are, or the CPU.
    :param engine: None takes the fastest that runs this model there: on the CPU numba, else onnx, else torch.
    :param dtype: the numbers that the torch engine computes with, see there; the other engines have their own.
    :raises ModelError: if the weights can't be loaded, or `engine` can't run them.
    """
    if engine is not None and engine not in get_args(EngineName):
        raise ValueError(f"engine must be 'numba', 'onnx', 'torch' or None, not {engine!r}.")
    if dtype is not None and (dtype not in get_args(DType) or engine in ("numba", "onnx")):
        raise ValueError(f"dtype must be one of {', '.join(get_args(DType))}, with engine='torch', not {dtype!r}.")
    if devices is not None and not devices:
        raise ValueError("devices must name at least one torch device, or be None for those that there are.")
    if devices is None:
        devices = _gpus() if engine in (None, "torch") else ()
        devices = devices or ["cpu"]
    if engine == "torch" or (engine is None and (dtype is not None or list(devices) != ["cpu"])):
        return _torch_engine(checkpoint, devices, dtype)
    if list(devices) != ["cpu"]:
        raise ModelError(f"The {engine} engine runs on the CPU, not on {', '.join(devices)}. Use engine='torch'.")
    for name, open_one in {"numba": _numba_engine, "onnx": _onnx_engine}.items():
        if engine in (None, name):
            try:
                return open_one(checkpoint)
            except Exception as error:  # Numba and ONNX Runtime raise their own unrelated types
                if engine is not None:
                    raise
                logger.log(
                    logging.INFO if isinstance(error, ModelError) else logging.WARNING,
                    "The %s engine can't run '%s' (%s); the next one is tried.",
                    name,
                    checkpoint.folder,
                    error,
                )
    return _torch_engine(checkpoint, devices, dtype)


def _numba_engine(checkpoint: Checkpoint) -> Engine:
    from needle.components.numba_engine import NumbaEngine

    return NumbaEngine(checkpoint)


def _onnx_engine(checkpoint: Checkpoint) -> Engine:
    from needle.components.onnx_engine import OnnxEngine

    return OnnxEngine(checkpoint)


def _torch_engine(checkpoint: Checkpoint, devices: Sequence[str], dtype: DType | None) -> Engine:
    from needle.components.torch_engine import TorchEngine  # importing torch takes seconds

    return TorchEngine(checkpoint, devices, dtype)


def _gpus() -> list[str]:
    """Ask torch only where there is a driver to ask about: importing torch takes seconds."""
    if not (os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/dxg") or sys.platform == "win32"):
        return []
    import torch

    return [f"cuda:{i}" for i in range(torch.cuda.device_count())]
