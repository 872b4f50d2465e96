"""How fast a run is, next to what the machine can do."""

import ctypes
import time
from dataclasses import dataclass

import torch

PEAK_SIZE = {"cpu": 1024, "cuda": 8192}
PEAK_SECONDS = 0.1

# Of mallopt(3): freed memory stays with the process up to the first, and single pieces up to the second.
TRIM_THRESHOLD, KEPT_BYTES = -1, 2**31 - 1
MMAP_THRESHOLD, KEPT_PIECE_BYTES = -3, 2**30
TIGHT_BYTES, TIGHT_PIECE_BYTES = 2**26, 2**20  # the same where memory is tight


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of several square matrix products in `dtype`: what a step's share is taken of."""
    size = PEAK_SIZE[device.type]
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    fastest, stop = float("inf"), time.perf_counter() + PEAK_SECONDS
    while time.perf_counter() < stop or fastest == float("inf"):
        began = time.perf_counter()
        (a @ b)[0, 0].item()
        fastest = min(fastest, time.perf_counter() - began)
    return 2 * size**3 / fastest


def keep_memory(tight: bool = False) -> None:
    """Let glibc keep the memory of freed tensors for the next step; other C libraries are left as they are.

    It returns large pieces to the kernel by default, and faulting their pages in again is up to half of a step. Where
    memory is tight, all but small pieces go on being returned.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(TRIM_THRESHOLD, TIGHT_BYTES if tight else KEPT_BYTES)
        mallopt(MMAP_THRESHOLD, TIGHT_PIECE_BYTES if tight else KEPT_PIECE_BYTES)


@dataclass
class Pace:
    """Time spent in steps since the last row of the metrics, validation and saving left out."""

    tokens_per_step: int
    flops_per_step: int
    peak: float
    steps: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Take in one step."""
        self.steps, self.seconds = self.steps + 1, self.seconds + seconds

    def restart(self) -> None:
        """Begin the next row."""
        self.steps, self.seconds = 0, 0.0

    @property
    def tokens_per_s(self) -> float:
        """Tokens trained on in a second."""
        return self.steps * self.tokens_per_step / self.seconds

    @property
    def share(self) -> float:
        """Matrix-product FLOP/s of the steps as a part of the peak."""
        return self.steps * self.flops_per_step / self.seconds / self.peak
