"""A checkpoint -> a model to train, fast on a CPU too.

Two of torch's own parts are slow where there is no GPU, and are replaced there: the backward pass of its fused attention
takes half of a training step for MiniLM's narrow heads (plain matrix products take a tenth), and so do the random numbers
of its dropout.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForQuestionAnswering,
    PreTrainedModel,
)
from transformers.masking_utils import eager_mask

from needle.components.engines import DType
from needle.components.weights import Checkpoint, Quantised
from needle.components.windows import Batch
from needle.data.errors import ModelError

_ATTENTION = "needle_training"
_HEAD = "qa_outputs"


def load_trainable(
    checkpoint: Checkpoint, device: torch.device, dropout: float, layers: int | None = None
) -> PreTrainedModel:
    """A reader, or an encoder to which an untrained head is added, as an `AutoModelForQuestionAnswering` in float32.

    :param dropout: probability of every dropout in the model.
    :param layers: keep so many of the encoder's layers, see `kept_layers`.
    :raises ModelError: if the weights can't be loaded, or the model has no such layers.
    """
    on_cpu = device.type == "cpu"
    attention = _ATTENTION if on_cpu and checkpoint.config.get("model_type") == "bert" else None
    model = _with_head(checkpoint, attention)
    if layers is not None:
        _drop_layers(model, layers)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Dropout):
                setattr(parent, name, CpuDropout(dropout) if on_cpu else nn.Dropout(dropout))
    model.to(device)  # type: ignore[arg-type]
    return model


def kept_layers(n: int, keep: int) -> list[int]:
    """Which of n layers a student starts from: evenly spread, the first and the last among them (as DistilBERT's, Sanh et
    al. 2019, arXiv 1910.01108, take every second)."""
    return np.linspace(0, n - 1, keep).round().astype(int).tolist() if keep > 1 else [n - 1]


def model_inputs(batch: Batch, model: PreTrainedModel) -> dict[str, Tensor]:
    """A batch as the model's arguments, where the model is; no mask where nothing is padded."""
    device = next(model.parameters()).device
    ids = torch.from_numpy(batch.input_ids).to(device, torch.long)
    inputs = {"input_ids": ids}
    if getattr(model.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.from_numpy(batch.token_type_ids).to(device, torch.long)
    if (batch.lengths < ids.shape[1]).any():
        lengths = torch.from_numpy(batch.lengths).to(device)
        inputs["attention_mask"] = (torch.arange(ids.shape[1], device=device) < lengths[:, None]).long()
    return inputs


def fastest_dtype(device: torch.device) -> DType:
    """bfloat16 for matrix products where the device computes them in it; else float16 on a GPU, and float32."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"


class CpuDropout(nn.Dropout):
    """Dropout with eight decisions from each 64-bit random number; the probability is rounded to a 256th, 255 of them
    at most.

    A pass's numbers are seeded from torch's, so that `torch.manual_seed` governs them.
    """

    def forward(self, x: Tensor) -> Tensor:
        cut = min(round(self.p * 256), 255)
        if not self.training or not cut:
            return x
        n = x.numel()
        seed = int(torch.randint(2**62, ()))
        numbers = np.random.SFC64(seed).random_raw(-(-n // 8)).view(np.uint8)[:n]
        # 0 or 256 / (256 - cut) by their bits: NumPy multiplies integers many times faster than torch converts booleans.
        scale = torch.tensor(256 / (256 - cut), dtype=x.dtype)
        bits = scale.view(torch.int16 if x.dtype.itemsize == 2 else torch.int32).numpy()
        factors = torch.from_numpy(np.multiply(numbers >= cut, bits, dtype=bits.dtype))
        return x * factors.view(x.dtype).view(x.shape)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """softmax(Q K^T / sqrt(d)) V for Q, K, V of shape (B, heads, L, d): (B, L, heads, d)."""
    scores = torch.matmul(query * scaling, key.transpose(2, 3))
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = module.dropout(scores.softmax(-1))
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


AttentionInterface.register(_ATTENTION, _attention)
AttentionMaskInterface.register(_ATTENTION, eager_mask)


def _with_head(checkpoint: Checkpoint, attention: str | None) -> PreTrainedModel:
    model: PreTrainedModel
    config = AutoConfig.from_pretrained(checkpoint.folder)
    if checkpoint.is_compact:
        arrays = checkpoint.arrays().items()
        state = {name: torch.from_numpy(w.dequantised() if isinstance(w, Quantised) else w) for name, w in arrays}
        model = AutoModelForQuestionAnswering.from_config(  # type: ignore[no-untyped-call]
            config, dtype=torch.float32, attn_implementation=attention
        )
        model.load_state_dict(state)
        return model
    try:
        model, report = AutoModelForQuestionAnswering.from_pretrained(
            checkpoint.folder,
            config=config,
            dtype=torch.float32,
            attn_implementation=attention,
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"transformers can't load a model to train from '{checkpoint.folder}': {error}") from error
    if missing := sorted(name for name in report["missing_keys"] if not name.startswith(_HEAD)):
        raise ModelError(f"'{checkpoint.folder}' can't be trained: its weights lack {', '.join(missing)}.")
    return model


def _drop_layers(model: PreTrainedModel, keep: int) -> None:
    encoder: Any = getattr(getattr(model, model.base_model_prefix), "encoder", None)
    stack = getattr(encoder, "layer", None)
    if not isinstance(stack, nn.ModuleList) or not 1 <= keep <= len(stack):
        has = f"it has {len(stack)}" if isinstance(stack, nn.ModuleList) else "no list 'encoder.layer' is in it"
        raise ModelError(f"A student of {keep} layers can't be made of this {type(model).__name__}: {has}.")
    encoder.layer = nn.ModuleList(stack[i] for i in kept_layers(len(stack), keep))
    model.config.num_hidden_layers = keep
