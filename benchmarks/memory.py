"""Memory of a training step: what `blockgraph plan` says, what torch's allocator gave, what the process grew by."""

import ctypes
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.profiler import ProfilerActivity, profile

import blockgraph as bg
from blockgraph.kernels.base import GraphModule
from blockgraph.library import shipped
from blockgraph.memory import Setting, rehearse
from blockgraph.recompute import EVERYTHING, NOTHING
from runners import sharding
from runners.config import Train
from runners.launch import Launch
from runners.loss import loss_for
from runners.world import World

SIZES = {"n_layers": 4, "d_model": 256, "n_heads": 4, "vocab": 8192}
SEQ, MICRO, RANKS = 256, 4, 4
CPU = torch.device("cpu")
LOSS = loss_for(0.0, compiled=False)
MB = 10**6
STATUS = Path("/proc/self/status")
M_MMAP_THRESHOLD = -3


def main() -> None:
    """Print a line for each block, for one process and a rank of several, with activations kept and computed again."""
    torch.set_num_threads(1)
    # Freed memory goes back to the system, so that the process shows what it needs.
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**16)
    # One rank of several, whose collectives do nothing but take their memory.
    dist.init_process_group("fake", rank=0, world_size=RANKS)
    print(f"gpt {SIZES}, {MICRO} sequences of {SEQ} tokens, bf16: MB of a step beside weights and optimiser")
    print(f"{'block':<14} {'ranks':>5} {'checkpointing':>14} {'planned':>9} {'allocator':>18} {'process':>18}")
    for block in (name for name, path in shipped().items() if path.parent.name == "blocks"):
        for ranks in (None, RANKS):
            for recompute in (NOTHING, EVERYTHING, ("attn",)):
                print(line(block, Setting(SEQ, torch.bfloat16, ranks, recompute, cpu=True)), flush=True)


def line(block: str, setting: Setting) -> str:
    graph = bg.load("gpt", block=block, **SIZES)
    planned = max(sum(moment.values()) for moment in rehearse(graph, LOSS, setting, MICRO))
    step = partial(forward_and_backward, model_of(graph, setting))
    step()
    measured = [f"{size / MB:9.1f} {size / planned - 1:+8.1%}" for size in (allocated(step), grown(step))]
    how = f"{setting.ranks or 1:>5} {', '.join(name or 'block' for name in setting.recompute) or 'none':>14}"
    return f"{block:<14} {how} {planned / MB:9.1f} {' '.join(measured)}"


def model_of(graph: bg.Graph, setting: Setting) -> GraphModule:
    """The model as the runner makes it."""
    mesh = init_device_mesh("cpu", (RANKS,)) if setting.ranks else None
    with torch.device("meta"):
        model: GraphModule = bg.compile(graph, recompute=setting.recompute)
    model.compute_dtype = setting.dtype
    sharding.place(model, Train(), World(Launch(size=setting.ranks or 1), CPU, mesh), compiled=False)
    return model


def forward_and_backward(model: GraphModule) -> None:
    tokens = torch.zeros(MICRO, SEQ + 1, dtype=torch.int64)
    LOSS(model(tokens[:, :-1]), tokens[:, 1:])[0].backward()
    model.zero_grad()


def allocated(step: Callable[[], None]) -> int:
    """The most bytes that torch's CPU allocator gave at a time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def grown(step: Callable[[], None]) -> int:
    """The most bytes by which the process was larger than before, as the system counts them."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = status("VmRSS")
    step()
    return status("VmHWM") - before


def status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text())
    assert found is not None
    return 1024 * int(found[1])


if __name__ == "__main__":
    main()
