"""What `blockgraph plan` says, against what torch's allocator, optimisers and checkpoints really took."""

import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.profiler import ProfilerActivity, profile

import blockgraph as bg
from blockgraph.apart import Rows
from blockgraph.ledger import BACKWARD
from blockgraph.memory import Setting, rehearse, timeline
from blockgraph.recompute import EVERYTHING, NOTHING
from runners import runfile, sharding
from runners.devices import DEVICES, USABLE, Device, Machines
from runners.launch import Launch
from runners.loss import loss_for
from runners.lowering import lowered
from runners.objective import objective
from runners.plan import command
from runners.planning import holdings, plan
from runners.trainer import DTYPES, Trainer
from runners.world import World
from tests.train_case import train, write_case

SPECS = Path(__file__).parent / "specs"
DEMO = Path(__file__).parents[1] / "specs" / "runs" / "demo.yaml"
BLOCKS = [path.stem for path in sorted((Path(__file__).parents[1] / "specs" / "blocks").glob("*.yaml"))]
SIZE = {"n_layers": 3, "d_model": 64, "n_heads": 4, "vocab": 500}
SEQ, MICRO, RANKS = 64, 4, 4
TOLERANCE = 0.05  # a tenth is promised
LOSS = loss_for(0.0, compiled=False)


def graph_of(block, **sizes):
    return bg.load("gpt", block=block, **SIZE | sizes)


def total(moment):
    return sum(moment.values())


def peak(*arguments, **named):
    return max(map(total, rehearse(*arguments, **named)))


def measured(run):
    """The most bytes that `run` had from torch's allocator at a time beyond those before it, and those it kept."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        kept = run()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    del kept
    return most, now


def forward(model):
    tokens = torch.zeros(MICRO, SEQ + 1, dtype=torch.int64)
    return LOSS(model(tokens[:, :-1]), tokens[:, 1:])[0]


@pytest.mark.parametrize("recompute", [NOTHING, EVERYTHING, ("attn", "ff.act")])
@pytest.mark.parametrize("block", BLOCKS)
def test_a_step_takes_the_bytes_that_are_planned(block, recompute):
    planned = rehearse(graph_of(block), LOSS, Setting(SEQ, torch.bfloat16, None, recompute), MICRO)
    model = bg.compile(graph_of(block), recompute=recompute)
    model.compute_dtype = torch.bfloat16
    forward(model).backward()
    model.zero_grad()
    _, kept = measured(lambda: forward(model))
    most, _ = measured(lambda: forward(model).backward())
    turn = next(moment for moment in planned if moment.get(BACKWARD))
    assert total(turn) - turn[BACKWARD] == pytest.approx(kept, rel=TOLERANCE)
    assert max(map(total, planned)) == pytest.approx(most, rel=TOLERANCE)


@pytest.fixture
def mesh():
    """One rank of several, whose collectives do nothing but take their memory."""
    dist.init_process_group("fake", rank=0, world_size=RANKS)
    yield init_device_mesh("cpu", (RANKS,))
    dist.destroy_process_group()


def run_of(tmp_path, *overrides):
    """A run without data, so that only the keys matter."""
    (tmp_path / "run.yaml").write_text(f"data: {{seq: {SEQ}}}\ntrain: {{batch: 16, micro_batch: {MICRO}}}\n")
    return runfile.load(tmp_path / "run.yaml", overrides)


def machines(gpus=1, device=DEVICES["h100"]):
    return Machines("h100", device, 1, gpus, gpus, 0.4)


class NoData:
    """Sequences that run through many tokens, so that many experts are chosen."""

    def __init__(self):
        self.train = self.validation = self

    def shuffled(self, seed):
        return self

    def batch(self, first, count):
        return torch.arange(count * (SEQ + 1)).view(count, -1) % 256


def trainer(run, graph, mesh=None, loss=None):
    world = World(Launch(size=RANKS if mesh else 1), torch.device("cpu"), mesh)
    with torch.device("meta"):
        model = bg.compile(
            lowered(run, graph, "cpu", compiled=False, native=False), recompute=run.config.train.recompute
        )
    sharding.place(model, run.config.train, world, compiled=False)
    return Trainer(model, run.config, NoData(), world, compiled=False, loss=loss)


def held_by(real):
    """Bytes of the state that the optimiser moves, of shards those of this rank."""
    tensors = (value for group in real.tensors().values() for value in group.values())
    return sum(getattr(value, "_local_tensor", value).nbytes for value in tensors)


@pytest.mark.parametrize(
    ("optimizer", "micro", "checkpointing", "lowering"),
    [
        ("adamw", 4, "none", "explicit"),
        ("adamw", 4, "none", "sdpa"),
        ("stable_adamw", 16, "block", "explicit"),
        ("muon", 8, "[ff]", "explicit"),
    ],
)
def test_a_trainer_takes_the_bytes_that_are_planned(tmp_path, optimizer, micro, checkpointing, lowering):
    keys = f"optim.name={optimizer}", f"train.micro_batch={micro}", f"train.checkpointing={checkpointing}"
    takes_the_planned(run_of(tmp_path, "optim.z_loss=1e-4", f"train.lowering={lowering}", *keys), graph_of("qk_norm"))


@pytest.mark.parametrize("name", ["olmoe", "deepseek_v2"])
def test_a_trainer_of_experts_takes_the_bytes_that_are_planned(tmp_path, name):
    run = run_of(tmp_path, "train.lowering=explicit", "train.micro_batch=16")
    takes_the_planned(run, bg.load(name, size="tiny", n_experts=32))


def takes_the_planned(run, graph):
    real = trainer(run, graph)
    real.step(1)
    most, _ = measured(lambda: real.step(2))
    planned = plan(run, graph, machines()).modes[run.config.train.checkpoints]
    assert total(planned.parts) == pytest.approx(held_by(real) + most, rel=TOLERANCE)


@pytest.mark.parametrize("micro", [2, 4])
@pytest.mark.parametrize(
    ("block", "precision", "checkpointing"),
    [
        ("qk_norm", "bf16", "none"),
        ("qk_norm", "bf16", "block"),
        ("sigma_reparam", "bf16", "block"),
        ("baseline", "fp32", "none"),
        ("qk_norm", "bf16", "[attn]"),
    ],
)
def test_a_rank_of_many_takes_the_bytes_that_are_planned(tmp_path, mesh, block, precision, checkpointing, micro):
    keys = f"train.precision={precision}", f"train.micro_batch={micro}", f"train.checkpointing={checkpointing}"
    run, graph = run_of(tmp_path, *keys), graph_of(block)
    real = trainer(run, graph, mesh)
    real._backward(1)
    real.optimizer.zero_grad()
    most, _ = measured(lambda: real._backward(2))
    setting = Setting(SEQ, DTYPES[precision], RANKS, run.config.train.recompute, again=micro < MICRO, cpu=True)
    assert peak(graph, LOSS, setting, micro) == pytest.approx(most, rel=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "precision", "checkpointing"),
    [("mixtral", "bf16", "none"), ("gpt_oss", "fp32", "block"), ("deepseek_v3", "bf16", "block")],
)
def test_experts_that_outweigh_the_rest_take_what_is_planned(tmp_path, mesh, name, precision, checkpointing):
    keys = f"train.precision={precision}", f"train.checkpointing={checkpointing}", "train.lowering=explicit"
    wide = {"d_expert" if name == "deepseek_v3" else "d_ff": 512}
    run, graph = run_of(tmp_path, *keys), bg.load(name, size="tiny", n_experts=32, **wide)
    real = trainer(run, graph, mesh)
    real._backward(1)
    real.optimizer.zero_grad()
    most, _ = measured(lambda: real._backward(2))
    setting = Setting(SEQ, DTYPES[precision], RANKS, run.config.train.recompute, cpu=True)
    assert peak(graph, LOSS, setting, MICRO) == pytest.approx(most, rel=TOLERANCE)


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")  # an open head puts out a view of its weight
@pytest.mark.parametrize(
    ("micro", "precision", "loss"), [(4, "bf16", "chunked"), (2, "bf16", "plain"), (4, "fp32", "plain")]
)
def test_embedding_and_head_larger_than_a_layer_are_whole_one_at_a_time(tmp_path, mesh, micro, precision, loss):
    keys = f"train.precision={precision}", f"train.micro_batch={micro}", f"train.loss={loss}"
    run, graph = run_of(tmp_path, *keys), graph_of("baseline", vocab=8001)  # rows that do not divide among the ranks
    made = objective(run, graph)
    real = trainer(run, made.graph, mesh, made.loss(0.0, compiled=False))
    real._backward(1)
    real.optimizer.zero_grad()
    most, _ = measured(lambda: real._backward(2))
    setting = Setting(SEQ, DTYPES[precision], RANKS, NOTHING, again=micro < MICRO, cpu=True)
    moment = max(rehearse(made.graph, made.loss(0.0, compiled=False), setting, micro), key=total)
    assert total(moment) == pytest.approx(most, rel=TOLERANCE)
    size, small = 8001 * SIZE["d_model"] * DTYPES[precision].itemsize, 2**18
    assert moment.get("gathered", 0) < size + small
    assert moment.get("reduced", 0) < 1.6 * size + small


def test_no_rank_ever_holds_more_than_one_large_parameter_whole(tmp_path, mesh, monkeypatch):
    run, graph = run_of(tmp_path, "train.micro_batch=2"), graph_of("baseline", vocab=8001)
    large = {f"{name}.weight": (8001, SIZE["d_model"]) for name in ("embed", "head")}
    real, alive, made, gather = trainer(run, graph, mesh), [], [], Rows.gather

    def watched(self, shard):
        assert [ref() for ref in alive] == [None] * len(alive)
        whole = gather(self, shard)
        alive.append(weakref.ref(whole))
        made.append(whole.shape)
        return whole

    monkeypatch.setattr(Rows, "gather", watched)
    real.step(1)
    assert made == [*large.values()] * 2  # in each of two micro-batches
    held = {name: tuple(weight.shape) for name, weight in real.parameters.items() if weight.shape[0] == 8001}
    assert held == large
    assert all(weight.to_local().shape[0] == 2001 for name, weight in real.parameters.items() if name in large)
    root = real.model._get_fsdp_state()._fsdp_param_group.fsdp_params
    assert [tuple(each.sharded_param.shape) for each in root] == [(SIZE["d_model"],)]  # the last norm


@pytest.mark.parametrize("optimizer", ["adamw", "stable_adamw", "muon"])
def test_what_is_held_between_steps_is_planned_to_the_byte(tmp_path, optimizer):
    run, graph = run_of(tmp_path, f"optim.name={optimizer}"), graph_of("sigma_reparam")
    held, real = holdings(graph, run.config, 1), trainer(run, graph)
    real.step(1)
    tensors = real.tensors()
    bytes_of = {name: sum(value.nbytes for value in group.values()) for name, group in tensors.items()}
    assert held.weights == sum(value.nbytes for value in (*real.parameters.values(), *real.model.buffers()))
    assert (held.optimiser, held.gradients) == (bytes_of["optim"], 4 * real.count)
    assert held.checkpoint == sum(bytes_of.values())


def test_shards_are_planned_to_the_byte(tmp_path, mesh):
    graph, run = graph_of("sigma_reparam", vocab=501), run_of(tmp_path)  # rows that do not divide among the ranks
    real, held = trainer(run, graph, mesh), holdings(graph, run.config, RANKS)
    real._backward(1)
    real.optimizer.step()
    local = [weight.to_local() for weight in real.parameters.values()]
    state = [value for values in real.optimizer.state.values() for value in values.values()]
    assert held.gradients == sum(weight.grad.to_local().nbytes for weight in real.parameters.values())
    assert held.weights == sum(value.nbytes for value in (*local, *real.model.buffers()))
    assert held.optimiser == sum(getattr(value, "_local_tensor", value).nbytes for value in state)


def test_a_checkpoint_is_as_large_as_planned(tmp_path):
    (tmp_path / "case").mkdir()
    file = write_case(tmp_path / "case")
    run = runfile.load(file, ["set.d_model=64"])
    assert train(file, tmp_path / "out", "set.d_model=64", "train.steps=4") == 0
    saved = tmp_path / "out" / "checkpoints" / "step-00000004"
    graph = bg.load("gpt", block="qk_norm", n_layers=2, d_model=64, n_heads=2, vocab=300)
    planned = holdings(graph, run.config, 1).checkpoint
    assert planned == pytest.approx(sum(file.stat().st_size for file in saved.iterdir()), rel=TOLERANCE)


@pytest.mark.parametrize(("ranks", "recompute"), [(None, NOTHING), (RANKS, NOTHING), (RANKS, EVERYTHING)])
@pytest.mark.parametrize("name", ["gpt", "value_residual", "streams", "shared"])
def test_a_layer_that_is_stood_in_for_takes_what_it_would_take(name, ranks, recompute):
    graph = bg.load(name, **SIZE | {"n_layers": 7}) if name == "gpt" else bg.load(SPECS / f"{name}.yaml", n_layers=7)

    def loss(outputs, targets):
        return LOSS(outputs if torch.is_tensor(outputs) else outputs[0], targets)

    setting = Setting(32, torch.bfloat16, ranks, recompute)
    assert peak(graph, loss, setting, 2) == peak(graph, loss, setting, 2, first=graph.dims.sizes["n_layers"].known)


@pytest.mark.parametrize("micro", [1, 2, 40])
def test_two_sizes_of_the_micro_batch_tell_all_others(micro):
    graph, setting = graph_of("qk_norm_cap"), Setting(SEQ, torch.bfloat16)
    told = total(timeline(graph, LOSS, setting, 3).peak(micro))
    assert told == pytest.approx(peak(graph, LOSS, setting, micro), rel=0 if micro > 1 else 0.1, abs=100)


def test_the_largest_micro_batch_fits_and_the_next_one_does_not(tmp_path):
    graph = graph_of("baseline")
    size = total(plan(run_of(tmp_path, "train.batch=12", "train.micro_batch=4"), graph, machines()).modes["none"].parts)
    tight = machines(device=Device(memory=round(size / USABLE) + 8, bandwidth=1.0, rates={"bf16": 1.0}))
    needs = plan(run_of(tmp_path, "train.batch=12", "train.micro_batch=6"), graph, tight).modes["none"]
    assert (needs.fits, needs.largest) == (False, 4)


def test_arithmetic_is_that_of_the_papers_formula(tmp_path):
    run = run_of(tmp_path)
    layers, d, vocab = SIZE["n_layers"], SIZE["d_model"], SIZE["vocab"]
    block = 2 * 12 * d**2 + 4 * SEQ * d
    modes = plan(run, graph_of("baseline"), machines(4)).modes
    tokens = 16 * SEQ
    assert modes["none"].flops == 3 * tokens * (layers * block + 2 * d * vocab)
    assert modes["block"].flops == modes["none"].flops + tokens * layers * block
    assert modes["none"].seconds == pytest.approx(modes["none"].flops / (4 * 0.4 * 989.5e12))


OWN = """
from typing import ClassVar
from torch import Tensor
from blockgraph.op import Pointwise, Style

class Halves(Pointwise):
    name: ClassVar = "halves"
    style: ClassVar = Style("activation")
    example: ClassVar = "act: {op: halves, in: x}"

    def lower(self, site, x):
        return f"halves({x})"

def halves(x: Tensor) -> Tensor:
    return BODY
"""


def own_case(tmp_path, body):
    (tmp_path / "own.py").write_text(OWN.replace("BODY", body))
    block = (Path(__file__).parents[1] / "specs" / "blocks" / "baseline.yaml").read_text()
    (tmp_path / "own.yaml").write_text(block.replace("op: squared_relu", "op: halves"))
    sizes = ", ".join(f"{name}: {size}" for name, size in SIZE.items())
    text = f"set: {{block: ./own.yaml, {sizes}}}\ndata: {{seq: 64}}\ntrain: {{batch: 4}}\n"
    (tmp_path / "run.yaml").write_text(text)
    return [str(tmp_path / "run.yaml"), "--ops", str(tmp_path / "own.py"), "--device", "cpu"]


def test_ops_of_the_user_count(tmp_path, capsys):
    assert command([*own_case(tmp_path, "x.float().exp().cosh().to(x.dtype)"), "--json"]) == 0
    more = json.loads(capsys.readouterr().out)["modes"]["none"]["parts"]["layers"]
    assert command([*own_case(tmp_path, "x / 2"), "--json"]) == 0
    less = json.loads(capsys.readouterr().out)["modes"]["none"]["parts"]["layers"]
    entries = SIZE["n_layers"] * 4 * SEQ * 4 * SIZE["d_model"]
    assert more - less == 4 * entries  # exp's result in fp32, which exp and cosh both keep


def test_an_op_that_asks_for_data_is_told(tmp_path, capsys):
    assert command(own_case(tmp_path, "x * x.sum().item()")) == 1
    told = "error: a plan runs the model without data, and aten._local_scalar_dense.default asks for them"
    assert told in capsys.readouterr().err


def test_the_table_has_a_unit_for_every_figure(capsys):
    overrides = ["train.batch=512", "train.micro_batch=8", "train.steps=1000"]
    assert command([str(DEMO), *overrides, "--nodes", "4", "--gpus", "8"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[1] == "4 x 8 h100: 80.0 GiB, 3.35 TB/s and 990 TFLOP/s in bf16 each; weights shared by 32"
    assert told[2] == "a step: 512 sequences of 256 tokens; each device takes 16 of them, 8 at a time"
    rows = [line for line in told[4:-3] if line]
    assert len({len(row) for row in rows}) == 1
    units = ("GiB", "MiB", "KiB", " B", "GFLOP", "TFLOP", "MFLOP", " s", "million", "billion", "trillion")
    assert all(
        row.endswith(units) for row in rows if not row.startswith(("activation c", "fits", "largest", "time of 1"))
    )


MISTAKES = {
    "train.batch=20": "train.batch: 20 sequences do not divide among 8 processes",
    "train.shard=3": "train.shard: 8 processes do not divide into groups of 3",
    "set.block=qk_nrm": "no spec is called 'qk_nrm'; did you mean 'qk_norm'?",
    "optim.lr=fast": "optim.lr must be a number, found 'fast'",
}


@pytest.mark.parametrize(("override", "told"), MISTAKES.items())
def test_mistakes_are_told_in_a_line(capsys, override, told):
    assert command([str(DEMO), override, "train.micro_batch=2", "--gpus", "8"]) == 1
    assert capsys.readouterr().err == f"<command line>: error: {told}\n"


@pytest.mark.parametrize(
    "words", [[], ["r.yaml", "--gpus", "0"], ["r.yaml", "--device", "h1"], ["r.yaml", "--shard", "no"],
              ["r.yaml", "--utilisation", "40"], ["r.yaml", "lr"]]
)  # fmt: skip
def test_wrong_usage_exits_2(words):
    with pytest.raises(SystemExit) as error:
        command(words)
    assert error.value.code == 2


def test_a_mistake_is_told_before_torch_is_imported():
    program = """import sys
from runners.plan import command
assert command(sys.argv[1:]) == 1
assert "torch" not in sys.modules"""
    subprocess.run([sys.executable, "-c", program, str(DEMO), "--gpus", "3"], check=True, capture_output=True)


def test_the_help_shows_an_example_that_works(capsys):
    with pytest.raises(SystemExit):
        command(["--help"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  blockgraph plan")]
    assert len(lines) == 2
    assert command([str(DEMO), *lines[0][3:]]) == 0
