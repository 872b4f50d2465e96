"""Devices that a run can be planned for, with the figures their makers publish."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

GIB = 2**30
TERA = 10**12
USABLE = 0.9  # of a device's memory; CUDA's context, NCCL's buffers and gaps between tensors take the rest

# One core of an AMD EPYC 9354 (Zen 4) at its base clock, 3.25 GHz: 32 multiply-adds in bf16 or 16 in fp32 per cycle
# (AMD publication 57647, Software Optimization Guide for the AMD Zen4 Microarchitecture), and a 32nd of 460.8 GB/s
# (amd.com, EPYC 9354).
CORE_RATES = {"bf16": 64 * 3.25e9, "fp32": 32 * 3.25e9}
CORE_BANDWIDTH = 460.8e9 / 32


@dataclass(frozen=True)
class Device:
    """What one device has: bytes of memory, bytes moved in a second, FLOP in a second by precision."""

    memory: int
    bandwidth: float
    rates: Mapping[str, float]


@dataclass(frozen=True)
class Machines:
    """Where a run is to be: `nodes` of `gpus` devices, of which groups of `shard` share the weights.

    `utilisation` is the share of their rate at which the devices do the matrix products.
    """

    name: str
    device: Device
    nodes: int
    gpus: int
    shard: int
    utilisation: float

    @property
    def ranks(self) -> int:
        """Processes, one for each device."""
        return self.nodes * self.gpus

    @property
    def usable(self) -> int:
        """Bytes of a device that tensors can have."""
        return int(USABLE * self.device.memory)


def _gpu(gib: int, tb_per_s: float, bf16: float, fp32: float) -> Device:
    return Device(gib * GIB, tb_per_s * TERA, {"bf16": bf16 * TERA, "fp32": fp32 * TERA})


def _cpu() -> Device:
    """This machine; its speed is that of as many cores of a server of 2022."""
    cores = os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Device(memory, cores * CORE_BANDWIDTH, {name: cores * rate for name, rate in CORE_RATES.items()})


# GiB, TB/s, TFLOP/s in bf16 and fp32. bf16 is without sparsity, which data sheets often double. fp32 is what torch uses
# unless asked for TF32. The "GB" of the sheets are GiB on the device.
DEVICES = {
    "a100": _gpu(80, 2.039, 312, 19.5),  # nvidia.com/en-us/data-center/a100, A100 80GB SXM
    "a100-40": _gpu(40, 1.555, 312, 19.5),  # NVIDIA A100 40GB data sheet, SXM
    "h100": _gpu(80, 3.35, 989.5, 67),  # nvidia.com/en-us/data-center/h100, H100 SXM
    "h100-pcie": _gpu(80, 2.0, 756.5, 51),  # NVIDIA H100 PCIe product brief and data sheet
    "h200": _gpu(141, 4.8, 989.5, 67),  # nvidia.com/en-us/data-center/h200, H200 SXM
    "b200": _gpu(180, 8.0, 2250, 75),  # nvidia.com/en-us/data-center/hgx, an eighth of HGX B200
    "l40s": _gpu(48, 0.864, 362.05, 91.6),  # nvidia.com/en-us/data-center/l40s
    "cpu": _cpu(),
}
