"""The processes that train one model together, as torchrun starts them, each with a device of its own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


class Workers:
    """This process among them; alone it is the only one.

    rank: its number. size: how many there are. device: where it computes.
    """

    def __init__(self, device: str | None = None):
        """
        :param device: a torch device; None takes the GPU of this process's number, or the CPU.
        :raises ValueError: if there is no such device.
        """
        self.rank, self.size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        if device is None:
            device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
        try:
            self.device = torch.device(device)
            torch.empty(1, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"device must be a torch device of this machine such as 'cpu' or 'cuda:0', not {device!r}."
            ) from error
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if self.size > 1 and not dist.is_initialized():
            # The others wait while the first evaluates.
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo", timeout=timedelta(days=1))

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that evaluates and writes files."""
        return self.rank == 0

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by the sum of all processes' ones."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def largest(self, *values: float) -> list[float]:
        """The largest of all processes' values, each by itself."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return [float(value) for value in tensor]
