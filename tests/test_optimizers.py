"""Optimisers against their papers' formulas, torch's own classes, and themselves over several processes."""

import copy
import time
import zlib
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from train_case import assert_same, train, write_case

import blockgraph as bg
from blockgraph.errors import SpecError
from runners import optim, speed
from runners.config import Optim
from runners.optimizers import ratios
from runners.optimizers.muon import Muon
from runners.optimizers.stable_adamw import StableAdamW
from runners.trainer import Trainer

SPECS = Path(__file__).parent / "specs"
LIMIT = 150.0  # seconds after which the processes are killed
LAYOUTS = {"fsdp": {"shards": 2}, "hsdp": {"copies": 2, "shards": 1}}
RUNS = {
    "stable_adamw": {"name": "stable_adamw", "lr": 0.1},
    "independent": {"name": "stable_adamw", "lr": 0.1, "decay": "independent"},
    "muon": {"name": "muon", "lr": 0.1},
}


def draws(*shape: int, scales: tuple[float, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    draw = torch.Generator().manual_seed(len(scales))
    return [scale * torch.randn(shape, generator=draw, dtype=dtype) for scale in scales]


def stepped(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, gradients: list[Tensor]) -> Tensor:
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


def paper(theta: Tensor, gradients: list[Tensor], lr: float, eps: float, decay: float, clips_decay: bool) -> Tensor:
    """Algorithm 2 of arXiv 2304.13013, with betas 0.9 and 0.95 that carry their own bias correction."""
    v = u = torch.zeros_like(theta)
    for t, g in enumerate(gradients, 1):
        beta1, beta2 = (beta * (1 - beta ** (t - 1)) / (1 - beta**t) for beta in (0.9, 0.95))
        v, u = beta1 * v + (1 - beta1) * g, beta2 * u + (1 - beta2) * g**2
        rms = (g**2 / u.clamp(min=eps**2)).mean().sqrt().item()
        clipped = lr / max(1.0, rms)
        theta = theta - (clipped if clips_decay else lr) * decay * theta - clipped * v / (u.sqrt() + eps)
    return theta


@pytest.mark.parametrize("eps", [1e-8, 0.5])
@pytest.mark.parametrize("clips_decay", [True, False])
def test_steps_are_those_of_the_paper(monkeypatch: pytest.MonkeyPatch, eps: float, clips_decay: bool) -> None:
    monkeypatch.setattr(ratios, "PIECE", 7)
    start, gradients = torch.ones(5, 13).double(), draws(5, 13, scales=(1, 1, 30, 0.1), dtype=torch.float64)
    for gradient in gradients:
        gradient[2] = 0  # as for a token that is in no batch
    parameter = nn.Parameter(start.clone())
    made = StableAdamW([parameter], lr=0.1, eps=eps, weight_decay=0.2, clips_decay=clips_decay)
    expected = paper(start, gradients, 0.1, eps, 0.2, clips_decay)
    torch.testing.assert_close(stepped(made, parameter, gradients), expected, rtol=1e-12, atol=1e-12)


def test_weights_without_a_gradient_stay_at_any_eps() -> None:
    parameter, gradient = nn.Parameter(torch.ones(3, 2)), torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]])
    moved = stepped(StableAdamW([parameter], lr=0.1, eps=1e-30, weight_decay=0.0), parameter, [gradient] * 2)
    torch.testing.assert_close(moved, 1 - 0.2 * gradient.sign())


@pytest.mark.parametrize("clips_decay", [True, False])
def test_shares_that_stay_tensors_as_on_a_gpu_give_the_same_steps(
    monkeypatch: pytest.MonkeyPatch, clips_decay: bool
) -> None:
    gradients, real = draws(9, 40, scales=(1, 20, 3), dtype=torch.float64), StableAdamW._shares
    start = torch.ones(9, 40).double()
    monkeypatch.setattr(StableAdamW, "_shares", lambda *args: torch.tensor(real(*args)).double().unbind())
    parameter = nn.Parameter(start.clone())
    made = StableAdamW([parameter], lr=0.1, weight_decay=0.2, clips_decay=clips_decay)
    expected = paper(start, gradients, 0.1, 1e-8, 0.2, clips_decay)
    torch.testing.assert_close(stepped(made, parameter, gradients), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on the first import of its compiler
def test_compiled_sums_give_the_same_steps() -> None:
    gradients = draws(9, 40, scales=(1, 20, 3))
    found = []
    for compiled in (False, True):
        parameter = nn.Parameter(torch.ones(9, 40))
        found.append(stepped(StableAdamW([parameter], lr=0.1, compiled=compiled), parameter, gradients))
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("clips_decay", [True, False])
def test_gradients_that_do_not_grow_give_the_bits_of_adamw(clips_decay: bool) -> None:
    start, gradients = torch.ones(64, 9), draws(64, 9, scales=(1, 0.9, 0.5, 0.6, 0.1))
    plain, parameter = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings: dict[str, Any] = {"lr": 0.1, "betas": (0.9, 0.95), "weight_decay": 0.2}
    first = torch.optim.AdamW([plain], **settings, fused=True)
    parameter.data = stepped(first, plain, gradients[:1]).clone()
    second = StableAdamW([parameter], **settings, clips_decay=clips_decay)
    second.load_state_dict(copy.deepcopy(first.state_dict()))  # the state is AdamW's own
    expected = stepped(first, plain, gradients[1:])
    torch.testing.assert_close(stepped(second, parameter, gradients[1:]), expected, rtol=0, atol=0)


@pytest.mark.parametrize("clips_decay", [True, False])
def test_a_jump_of_the_gradients_is_clipped_by_its_rms(clips_decay: bool) -> None:
    ends = []
    for cls, settings in ((torch.optim.AdamW, {"fused": True}), (StableAdamW, {"clips_decay": clips_decay})):
        parameter = nn.Parameter(torch.zeros(3))
        made = cls([parameter], lr=0.1, betas=(0.9, 0.95), weight_decay=0.2, **settings)
        stepped(made, parameter, [torch.ones(3)] * 99)
        parameter.data.fill_(1.0)
        ends.append(1.0 - stepped(made, parameter, [torch.full((3,), 100.0)]))
    moment = (0.95 * (1 - 0.95**99) + 0.05 * 100**2) / (1 - 0.95**100)
    rms, update, decay = 100 / moment**0.5, ends[0] - 0.02, 0.02
    assert rms > 4
    torch.testing.assert_close(ends[1], update / rms + (decay / rms if clips_decay else decay), rtol=1e-5, atol=0)


def test_bf16_gradients_move_fp32_weights_as_their_fp32_copies_do() -> None:
    found, gradients = [], [g.bfloat16() for g in draws(8, 8, scales=(1, 20, 3))]
    for dtype in (torch.float32, torch.bfloat16):
        parameter = nn.Parameter(torch.ones(8, 8))
        parameter.grad_dtype = dtype
        made = StableAdamW([parameter], lr=0.1)
        found.append(stepped(made, parameter, [g.to(dtype) for g in gradients]))
        assert made.state[parameter]["exp_avg_sq"].dtype == torch.float32
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


@pytest.mark.parametrize("settings", [{"momentum": 0.9}, {"nesterov": False, "adjust_lr_fn": "match_rms_adamw"}])
def test_muon_on_whole_matrices_is_torchs_own(settings: dict[str, Any]) -> None:
    found, gradients = [], draws(24, 40, scales=(1, 2, 0.5))
    for cls in (torch.optim.Muon, Muon):
        parameter = nn.Parameter(torch.ones(24, 40))
        made = cls([parameter], lr=0.1, weight_decay=0.2, **settings)
        found.append(stepped(made, parameter, gradients))
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
@pytest.mark.parametrize("settings", [{"momentum": 0.9}, {"nesterov": False, "adjust_lr_fn": "match_rms_adamw"}])
def test_muon_on_a_stack_is_that_on_each_of_its_matrices(shape: tuple[int, int], settings: dict[str, Any]) -> None:
    gradients = draws(5, *shape, scales=(1, 2, 0.5))
    gradients[0][3] = 0  # an expert without rows
    together = nn.Parameter(torch.ones(5, *shape))
    found = stepped(Muon([together], lr=0.1, weight_decay=0.2, **settings), together, gradients)
    for expert in range(5):
        alone = nn.Parameter(torch.ones(shape))
        made = torch.optim.Muon([alone], lr=0.1, weight_decay=0.2, **settings)
        expected = stepped(made, alone, [gradient[expert] for gradient in gradients])
        torch.testing.assert_close(found[expert], expected, rtol=1e-6, atol=1e-6)


def test_muon_gets_the_matrices_of_the_blocks_and_adamw_the_rest() -> None:
    model = bg.compile(SPECS / "shared.yaml", block="sigma_reparam")
    muon, adamw = optim.make(model, model.weights, Optim(name="muon")).parts
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [{names[id(p)] for group in part.param_groups for p in group["params"]} for part in (muon, adamw)]
    linears = ("attn.qkv", "ff.fc1", "ff.fc2")
    matrices = {f"layers.0.{name}.weight" for name in linears} | {f"layers.{n}.attn.proj.weight" for n in range(3)}
    assert found == [matrices, set(names.values()) - matrices]


def test_muon_takes_experts_but_neither_their_biases_nor_tables_of_biases() -> None:
    def moved(spec: str, **sizes: Any) -> set[str]:
        model = bg.compile(spec, **sizes)
        groups = optim.make(model, model.weights, Optim(name="muon")).parts[0].param_groups
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        return {names[id(p)].partition("layers.0.")[2] for group in groups for p in group["params"]}

    linears = {f"attn.{name}.weight" for name in "qkv"} | {"attn.proj.weight"}
    experts = {"ff.router.weight", "ff.gate_up.weight", "ff.down.weight"}
    assert moved("gpt_oss", size="tiny") - {""} == linears | experts
    assert {name for name in moved("t5", size="tiny") if "bias" in name} == set()


def test_muon_without_a_matrix_to_move_is_refused() -> None:
    model = bg.compile(SPECS / "tied.yaml")
    with pytest.raises(SpecError, match=r"^optim\.name: error: muon moves the matrices .* none; adamw moves all"):
        optim.make(model, model.weights, Optim(name="muon"))


@pytest.mark.parametrize("name", ["adamw", "stable_adamw", "muon"])
def test_mu_p_simple_is_a_spec(name: str) -> None:
    for width in (64, 256, 512):
        model = bg.compile(SPECS / "mup_simple.yaml", d_model=width)
        made = optim.make(model, model.weights, Optim(name=name, lr=0.5))
        rates = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
        for path, parameter in model.named_parameters():
            linear = parameter.ndim == 2 and not path.startswith("embed")
            assert rates[id(parameter)] == 0.5 * (256 / width if linear else 1.0), path


@pytest.mark.parametrize("name", ["stable_adamw", "muon"])
@pytest.mark.parametrize(("decay", "factors"), [("coupled", (0.2, 0.1, 0)), ("independent", (1.0, 1.0, 0))])
def test_decay_follows_the_node_and_the_schedule(name: str, decay: str, factors: tuple[float, ...]) -> None:
    weights = {"decayed": (True, 1.0), "scaled": (True, 0.5), "gain": (False, 1.0)}
    settings = Optim(name=name, lr=0.2, weight_decay=0.1, decay=decay)
    model = nn.ParameterDict({name: nn.Parameter(torch.ones(3, 3)) for name in (*weights, "other")})
    model.blocks = lambda: [nn.ParameterDict({name: model[name] for name in weights})]
    groups = {
        name: SimpleNamespace(decay=d, lr=lr, rows=False)
        for name, (d, lr) in (weights | {"other": (False, 1.0)}).items()
    }
    made = optim.make(model, groups, settings)
    for share in (0.25, 1.0):
        for parameter in model.values():
            parameter.grad = torch.zeros(3, 3)
        optim.set_factor(made, share)
        made.step()
    for path, factor in zip(weights, factors, strict=True):
        expected = (1 - 0.25 * factor * 0.1) * (1 - factor * 0.1)
        torch.testing.assert_close(model[path].detach(), torch.full((3, 3), expected), rtol=1e-6, atol=0)


@pytest.mark.parametrize("settings", RUNS.values(), ids=list(RUNS))
def test_stopping_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
    monkeypatch.setenv("BLOCKGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(speed, "PEAK_SECONDS", 0.0)
    run, overrides = write_case(tmp_path), [f"optim.{key}={value}" for key, value in settings.items()]
    assert train(run, tmp_path / "straight", *overrides) == 0
    real = Trainer.step

    def step(self: Trainer, number: int, *rest: Any) -> Any:
        if number == 7:
            raise KeyboardInterrupt
        return real(self, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        assert train(run, tmp_path / "stopped", *overrides) == 75
    assert train(run, tmp_path / "stopped", *overrides) == 0
    assert_same(tmp_path / "stopped", tmp_path / "straight")


def trained(model: nn.Module, settings: dict[str, Any]) -> tuple[dict[str, Tensor], int]:
    """The parameters after steps with given gradients, and how often a step spoke to other ranks."""
    made = optim.make(model, model.weights, Optim(**settings))
    for number, scale in enumerate((1.0, 1.0, 30.0, 0.1)):
        for name, parameter in model.named_parameters():
            draw = torch.Generator().manual_seed(zlib.crc32(f"{name} {number}".encode()))
            gradient = scale * torch.randn(parameter.shape, generator=draw)
            if hasattr(parameter, "device_mesh"):
                place = parameter.device_mesh, parameter.placements
                gradient = distribute_tensor(gradient, *place, src_data_rank=None)
            parameter.grad = gradient
        with CommDebugMode() as spoken:
            made.step()
    whole = {n: getattr(p, "full_tensor", lambda p=p: p)().detach().clone() for n, p in model.named_parameters()}
    return whole, spoken.get_total_counts()


def small() -> nn.Module:
    return bg.compile("gpt", block="sigma_reparam", n_layers=2, d_model=16, n_heads=2, vocab=61)


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    ratios.LEAST = 1  # in C++ where there is a compiler; the one process that they are compared with is in Python
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=120))
    found = {}
    for layout, sizes in LAYOUTS.items():
        mesh = init_device_mesh("cpu", tuple(sizes.values()), mesh_dim_names=tuple(sizes))
        for name, settings in RUNS.items():
            model = small()
            for module in (*model.blocks(), model):
                fully_shard(module, mesh=mesh)
            found[layout, name] = trained(model, settings)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    """What two processes found; nothing is left behind when they hang."""
    folder = tmp_path_factory.mktemp("ranks")
    context = mp.spawn(work, args=(str(folder),), nprocs=2, join=False)
    end = time.monotonic() + LIMIT
    try:
        while not context.join(timeout=1.0):
            assert time.monotonic() < end, f"the processes were not done after {LIMIT:g} s"
    finally:
        for process in context.processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.dist
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_step_as_one_process(ranks: list[dict[Any, Any]], name: str, layout: str) -> None:
    expected, silent = trained(small(), RUNS[name])
    for each in ranks:
        torch.testing.assert_close(each[layout, name][0], expected, rtol=0, atol=1e-6)
    assert silent == 0


@pytest.mark.dist
def test_update_clipping_takes_one_all_reduce_a_step(ranks: list[dict[Any, Any]]) -> None:
    assert {each["fsdp", "stable_adamw"][1] for each in ranks} == {1}
