"""Scan of float16 vectors by torch, for GPUs: what `vector_scan` does on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

#: How far from the true score a float16 product may be, in units of |query| |vector|: the query's rounding, the result's
#: (2^-11 each), and the float32 sum's, which is much smaller.
ERROR = 2.0**-10 + 2.0**-12


class TorchVectors:
    """The vectors of an index on a device, d numbers each, in the order of its segments."""

    def __init__(self, segments: Sequence[NDArray[np.float16]], device: str):
        self.device = device
        self._vectors = torch.cat([torch.from_numpy(vectors.copy()).to(device) for vectors in segments])

    def candidates(
        self, queries: NDArray[np.float32], allowed: NDArray[np.bool_], n: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(Q, n) positions of the largest products, largest first, and these; `allowed` is empty if all vectors count."""
        products = torch.backends.cuda.matmul
        reduced, products.allow_fp16_reduced_precision_reduction = products.allow_fp16_reduced_precision_reduction, False
        try:
            scores = (torch.from_numpy(queries).to(self.device).half() @ self._vectors.T).float()  # (Q, all vectors)
        finally:
            products.allow_fp16_reduced_precision_reduction = reduced
        if len(allowed):
            scores.masked_fill_(~torch.from_numpy(allowed).to(self.device), -torch.inf)
        score, best = scores.topk(n, dim=1)
        return best.cpu().numpy(), score.cpu().numpy()
