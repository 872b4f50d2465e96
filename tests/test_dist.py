"""Sharded over several gloo processes, a model starts, trains and acts after its steps as in one process."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

import blockgraph as bg

pytestmark = pytest.mark.dist

SPECS = Path(__file__).parent / "specs"
LIMIT = 240.0  # seconds after which the processes are killed
STEPS, BATCH, SEQ, VOCAB = 3, 6, 9, 61  # the rows of the vocabulary do not divide among 2 or 3 ranks
CASES = [(method, dtype) for method in ("baseline", "sigma_reparam") for dtype in (torch.float32, torch.bfloat16)]


def model(method: str, seed: int = 0) -> nn.Module:
    return bg.compile("gpt", block=method, seed=seed, n_layers=2, d_model=32, n_heads=4, vocab=VOCAB)


def sharded(module: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Blocks first, then the root, made of nothing but shapes; the memory comes last."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for block in module.blocks():
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy)
    return module.to_empty(device="cpu")


def tokens() -> Tensor:
    return torch.randint(VOCAB, (BATCH, SEQ + 1), generator=torch.Generator().manual_seed(4))


def trained(module: nn.Module, rank: int = 0, world: int = 1) -> dict[str, Any]:
    """Losses of a few steps on this rank's share of the batch, then the whole state."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)
    losses = []
    for _ in range(STEPS):
        part = tokens().chunk(world)[rank]
        loss = F.cross_entropy(module(part[:, :-1]).float().flatten(0, 1), part[:, 1:].flatten())
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
        module.after_step()
    return {"losses": losses, "state": whole(module)}


def whole(module: nn.Module) -> dict[str, Tensor]:
    return {
        name: (value.full_tensor() if hasattr(value, "full_tensor") else value).clone()
        for name, value in module.state_dict().items()
    }


def work(rank: int, world: int, folder: str) -> None:
    """What each process does; rank 0 and rank 1 write down what they found."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=timedelta(seconds=120))
    found: dict[Any, Any] = {}
    for method, dtype in CASES if world == 2 else ():
        with torch.device("meta"):
            made = model(method)
        made = sharded(made, dtype)
        made.initialize(0)
        found[method, dtype] = trained(made, rank, world)
    with torch.device("meta"):
        made, ports = model("sigma_reparam"), bg.compile(SPECS / "weight_ports.yaml")
    made, ports = sharded(made), sharded(ports)
    made.initialize(0)
    ports.initialize(0)
    found["start"] = whole(made), whole(ports)
    with torch.no_grad():
        for value in ports.parameters():
            value.mul_(3.0)
    ports.after_step()
    found["ports"] = whole(ports)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def spawn(world: int, folder: Path) -> list[dict[Any, Any]]:
    """What the ranks found; nothing is left behind when they hang."""
    context = mp.spawn(work, args=(world, str(folder)), nprocs=world, join=False)
    end = time.monotonic() + LIMIT
    try:
        while not context.join(timeout=1.0):
            assert time.monotonic() < end, f"the processes were not done after {LIMIT:g} s"
    finally:
        for process in context.processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    return spawn(2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    return spawn(3, tmp_path_factory.mktemp("three"))


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    assert found.keys() == expected.keys()
    return all(torch.equal(value, expected[name]) for name, value in found.items())


def test_initial_values_do_not_depend_on_the_world(two: list[Any], three: list[Any]) -> None:
    for ranks in (two, three):
        for each in ranks:
            assert equal(each["start"][0], model("sigma_reparam").state_dict())
            assert equal(each["start"][1], bg.compile(SPECS / "weight_ports.yaml").state_dict())


@pytest.mark.parametrize(("method", "dtype"), CASES)
def test_two_ranks_train_as_one_process(method: str, dtype: torch.dtype, two: list[Any]) -> None:
    alone = model(method)
    alone.compute_dtype = dtype
    expected = trained(alone)
    losses = [sum(pair) / 2 for pair in zip(*(each[method, dtype]["losses"] for each in two), strict=True)]
    assert losses == pytest.approx(expected["losses"], abs=1e-6 if dtype == torch.float32 else 1e-3)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_state_of_the_power_iteration_is_equal_on_all_ranks(dtype: torch.dtype, two: list[Any]) -> None:
    first, second = (each["sigma_reparam", dtype]["state"] for each in two)
    assert equal(first, second)
    for name in ("layers.0.attn.qkv", "layers.1.ff.fc2"):
        u, v, weight = first[f"{name}.u"], first[f"{name}.v"], first[f"{name}.weight"]
        assert u.dtype == v.dtype == torch.float32
        torch.testing.assert_close(F.normalize(weight @ v, dim=0), u, rtol=1e-5, atol=1e-6)
    fresh = model("sigma_reparam").state_dict()
    assert not torch.equal(first["layers.0.attn.qkv.u"], fresh["layers.0.attn.qkv.u"])


def test_actions_after_a_step_see_the_whole_weight(two: list[Any], three: list[Any]) -> None:
    alone = bg.compile(SPECS / "weight_ports.yaml")
    with torch.no_grad():
        for value in alone.parameters():
            value.mul_(3.0)
    alone.after_step()
    assert all(equal(each["ports"], alone.state_dict()) for each in (*two, *three))
