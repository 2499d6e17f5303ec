"""Windows -> spans in torch: any extractive reader of transformers, on GPUs or the CPU."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForQuestionAnswering

from needle.components.spans import Spans, best_spans
from needle.components.weights import Checkpoint, Quantised
from needle.components.windows import Batch
from needle.data.errors import ModelError


class TorchEngine:
    """An `AutoModelForQuestionAnswering` on each of some devices, which take turns with the batches."""

    name = "torch"

    def __init__(self, checkpoint: Checkpoint, devices: Sequence[str], dtype: str | None = None):
        """
        :param dtype: "float32", "float16" or "bfloat16"; None takes float16 on a CUDA GPU (as fast as bfloat16 and nearer to
            float32), bfloat16 matrix products on a CPU that has them, and float32 elsewhere.
        """
        self._replicas = [_Replica(checkpoint, device, dtype) for device in devices]
        self._turns = itertools.cycle(self._replicas)
        self.in_flight = 2 * len(self._replicas)
        self.batch_tokens = min(replica.batch_tokens for replica in self._replicas)

    def logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return next(self._turns).logits(batch)

    def submit(self, batch: Batch, max_answer_tokens: int, n: int) -> Callable[[], Spans]:
        return next(self._turns).submit(batch, max_answer_tokens, n)


class _Replica:
    """The model on one device, and the threads that start its work there."""

    def __init__(self, checkpoint: Checkpoint, device: str, dtype: str | None):
        try:
            self.device = torch.device(device)
        except RuntimeError as error:
            raise ValueError(f"device must be a torch device such as 'cpu', 'cuda' or 'cuda:1', not {device!r}.") from error
        if self.device.type == "cuda" and (self.device.index or 0) >= torch.cuda.device_count():
            raise ModelError(f"The device {device!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices.")
        on_cpu = self.device.type == "cpu"
        self.batch_tokens = 1024 if on_cpu else 16384
        self._dtype = getattr(torch, dtype or _fastest_dtype(self.device))
        model = _model(checkpoint)
        parameters = inspect.signature(model.forward).parameters
        self._takes_types = "token_type_ids" in parameters and getattr(model.config, "type_vocab_size", 0) > 1
        # On the CPU only the products are in the smaller type, by autocast: rounding the rest as well gains no time there.
        self._model = model.to(self.device, torch.float32 if on_cpu else self._dtype).eval()
        self._autocast = on_cpu and self._dtype != torch.float32
        # On a GPU the second thread starts a batch while the first waits for its spans, so that the GPU does not.
        self._pool = ThreadPoolExecutor(1 if on_cpu else 2, "needle-reader", self._use_device)

    def submit(self, batch: Batch, max_answer_tokens: int, n: int) -> Callable[[], Spans]:
        return self._pool.submit(lambda: best_spans(*self.logits(batch), batch, max_answer_tokens, n)).result

    def logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.inference_mode(), torch.autocast(self.device.type, self._dtype, enabled=self._autocast):
            ids, lengths = self._moved(batch.input_ids), self._moved(batch.lengths)
            inputs = {
                "input_ids": ids,
                "attention_mask": torch.arange(ids.shape[1], device=self.device) < lengths[:, None],
            }
            if self._takes_types:
                inputs["token_type_ids"] = self._moved(batch.token_type_ids)
            output = self._model(**inputs)
            return output.start_logits.float(), output.end_logits.float()

    def _use_device(self) -> None:
        """So that a thread's pinned memory is this GPU's."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    def _moved(self, array: Any) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":  # from pinned memory: this thread goes on while the device copies
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)


def _fastest_dtype(device: torch.device) -> str:
    if device.type == "cuda":
        return "float16"
    has_bfloat16 = device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bfloat16" if has_bfloat16 else "float32"


def _model(checkpoint: Checkpoint) -> torch.nn.Module:
    model: torch.nn.Module
    if checkpoint.is_compact:
        arrays = checkpoint.arrays().items()
        state = {name: torch.from_numpy(w.dequantised() if isinstance(w, Quantised) else w) for name, w in arrays}
        model = AutoModelForQuestionAnswering.from_config(  # type: ignore[no-untyped-call]
            AutoConfig.from_pretrained(checkpoint.folder), dtype=torch.float32
        )
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
