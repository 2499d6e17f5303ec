"""What older libraries let their users say about devices, numbers and the model hub -> what needle's engines take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from needle.components.engines import DType


def device_names(device: Any = None, device_map: Any = None) -> list[str] | None:
    """None for all GPUs that there are, or the CPU.

    :param device: -1 for the CPU, 0 for the first GPU, a name or a torch.device. device_map: "auto", or a device for all.
    :raises ValueError: if it names no single device.
    """
    if device is None and (device_map is None or device_map in ("auto", "balanced")):
        return None
    device = device_map if device is None else device
    if isinstance(device, dict):
        if len(set(map(str, device.values()))) != 1:
            raise ValueError(f"needle puts a model on one device, not on parts of several ({device}). Leave device_map out.")
        device = next(iter(device.values()))
    if isinstance(device, bool) or (isinstance(device, int) and device < -1):
        raise ValueError(f"device must be -1, the number of a GPU, a name or a torch.device, not {device!r}.")
    if isinstance(device, int):
        return ["cpu" if device == -1 else f"cuda:{device}"]
    return [str(device)]


def farm_devices(use_gpu: bool, devices: Sequence[Any] | None) -> list[str] | None:
    """Haystack 1's two parameters: without use_gpu it is the CPU, whatever the devices."""
    if not use_gpu:
        return ["cpu"]
    return None if not devices else [name for device in devices for name in device_names(device) or []]


def dtype_name(dtype: Any) -> DType | None:
    """ "float16", torch.float16, "torch.float16" -> "float16"; "auto" and None -> None.

    :raises ValueError: if it is another one.
    """
    name = str(dtype).removeprefix("torch.")
    if dtype is None or name == "auto":
        return None
    if name not in get_args(DType):
        raise ValueError(f"dtype must be one of {', '.join(get_args(DType))}, not {dtype!r}.")
    known: DType = name  # type: ignore[assignment]
    return known


def hub_token(token: str | bool | None) -> str | None:
    """True and None stand for the token that the user has logged in with, which huggingface_hub finds by itself."""
    return token if isinstance(token, str) else None
