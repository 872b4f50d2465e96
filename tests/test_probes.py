"""Every quantity that a run records, against torch written by hand, and that recording changes nothing."""

import math
import re
from functools import partial

import oracle
import pytest
import torch
from oracle import METHODS, NORMED_QK, OracleGPT, SigmaReparamLinear
from test_numerics import HEADS, LAYERS, VOCAB, WIDTH, shaken, tokens
from torch._dynamo.utils import counters
from torch.nn import functional as F

import blockgraph as bg
from blockgraph.errors import SpecError
from blockgraph.kernels import probes as kernels
from blockgraph.probes import GROUPS, chosen, readings
from runners import optim
from runners.config import Optim
from runners.launch import Launch
from runners.loss import cross_entropy
from runners.overhead import Overhead
from runners.probing import Probing
from runners.world import World

SIZES = {"n_layers": LAYERS, "d_model": WIDTH, "n_heads": HEADS, "vocab": VOCAB}
ALONE = World(Launch(), torch.device("cpu"))
LINEARS = ("attn.qkv", "attn.proj", "ff.fc1", "ff.fc2")
VALUES, GRADIENTS = 1e-5, 1e-4  # bounds on the relative errors in fp32

FUSED = ("sdpa", "blockwise")

every_method = pytest.mark.parametrize("method", METHODS)


def model_of(method, words=("**",), compiled=False, again=False):
    """A model that records, with weights at which every method is felt, and the same by hand."""
    theirs = OracleGPT(method, VOCAB, LAYERS, WIDTH, HEADS)
    theirs.load_state_dict(shaken(theirs))
    ours = bg.compile("gpt", block=method, probes=words, recompute=bg.EVERYTHING if again else (), **SIZES)
    ours.load_state_dict(theirs.state_dict())
    for block in ours.blocks():
        if compiled:
            vars(block)["forward"] = torch.compile(block.forward, backend="aot_eager", fullgraph=True)
    return ours, theirs


def recorded(model, batch, micro=None, step=None):
    """The values of every series in one step over a batch of tokens; `step` is taken where it is given."""
    probing, micro = Probing(model, ALONE), micro or len(batch)
    probing.start()
    for part in batch.split(micro):
        logits, targets = model(part[:, :-1]), part[:, 1:]
        loss, _ = cross_entropy(logits, targets)
        probing.log_z(loss, logits, targets)
        (loss * len(part) / len(batch)).backward()
        probing.fold()
    probing.weights()
    if step:
        step.step()
        probing.updates(step)
    return probing.finish()


def sizes(x):
    x = x.detach().double()
    return {"l2": x.square().sum().sqrt(), "rms": x.square().mean().sqrt(), "max": x.abs().max()}


def spread(x):
    x = x.detach().double()
    return {"rms": x.square().mean().sqrt(), "max": x.abs().max(), "mean": x.mean(), "std": x.var(correction=0).sqrt()}


class ByHand:
    """The quantities of a model written by hand, found by hooks on its modules."""

    def __init__(self, model, method):
        self.model, self.method = model, method
        self.found, self.edges, self.heads = {}, {}, []
        for name, module in model.named_modules():
            if isinstance(module, oracle.Linear):
                module.register_forward_pre_hook(partial(self.enter, name))
                module.register_forward_hook(partial(self.leave, name))
            if re.fullmatch(r"layers\.\d+", name):
                module.register_forward_hook(partial(self.layer, name))

    def put(self, name, quantities):
        self.found |= {f"{name}.{key}": float(value.detach()) for key, value in quantities.items()}

    def enter(self, name, module, given):
        x = given[0].view_as(given[0])  # an edge of its own
        self.edges[f"{name}.dx"] = x
        self.put(f"{name}.x", sizes(x))
        x.retain_grad()
        return (x,)

    def leave(self, name, module, given, y):
        y.retain_grad()
        self.edges[f"{name}.dy"] = y
        self.put(f"{name}.y", sizes(y))
        if isinstance(module, SigmaReparamLinear):
            sigma = module.u @ module.weight @ module.v
            self.put(f"{name}.effective", sizes(module.gamma / sigma * module.weight))

    def layer(self, name, module, given, y):
        self.put(f"{name}.x", spread(y))
        self.attention(f"{name}.attn", module.attn)

    def attention(self, name, attn):
        """What was seen in the heads of one layer, and is not seen in the next one."""
        raw = torch.stack([q @ k.mT / math.sqrt(q.shape[-1]) for q, k in self.heads]).detach()
        self.heads.clear()
        past = torch.ones(raw.shape[-2:], dtype=torch.bool).tril()
        self.put(f"{name}.bmm1", {"max": raw[..., past].max()})
        logits = raw * oracle.TEMPERATURE if self.method == "soft_temp" else raw
        if self.method in oracle.CAPPED:
            saturation = torch.tanh(logits / oracle.CAP).square()
            self.put(f"{name}.cap", {"saturation": saturation[..., past].mean()})
            logits = oracle.CAP * torch.tanh(logits / oracle.CAP)
        weights = torch.softmax(logits.masked_fill(~past, -math.inf), -1)
        logs = torch.where(weights > 0, weights.log(), 0.0)
        rows = {"entropy": -(weights * logs).sum(-1).mean(), "one_hot": (weights.max(-1).values > 0.9).double().mean()}
        self.put(f"{name}.softmax", rows)
        if self.method == "soft_clip":
            spread = oracle.CLIP_ZETA - oracle.CLIP_GAMMA
            clipped = (spread * weights + oracle.CLIP_GAMMA).clip(0.0, 1.0)[..., past]
            self.put(f"{name}.clip", {"clipped": ((clipped == 0) | (clipped == 1)).double().mean()})
        if self.method in NORMED_QK:
            gains = sizes(attn.ln_q.weight * attn.ln_k.weight)
            self.put(f"{name}.bmm1.gains", {key: gains[key] for key in ("rms", "max")})

    def measure(self, batch):
        logits = self.model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        self.put("logits", spread(logits) | {"log_z": torch.logsumexp(logits, -1).mean()})
        for name, edge in self.edges.items():
            self.put(name, sizes(edge.grad))
        for name, parameter in self.model.named_parameters():
            home, _, last = name.rpartition(".")
            self.put(name, sizes(parameter))
            self.put(f"{home}.d{last}", sizes(parameter.grad))
        return self.found


@every_method
def test_every_quantity_is_that_of_torch_written_by_hand(method, monkeypatch):
    ours, theirs = model_of(method)
    hand, real = ByHand(theirs, method), oracle.attention_weights
    monkeypatch.setattr(oracle, "attention_weights", lambda m, q, k: hand.heads.append((q, k)) or real(m, q, k))
    batch = tokens(batch=3, seq=13)
    expected, found = hand.measure(batch), recorded(ours, batch)
    assert {name for name in found if not name.endswith("update_rms")} == expected.keys()
    for name, value in expected.items():
        bound = GRADIENTS if re.search(r"\.d\w+\.\w+$", name) else VALUES
        assert found[name] == pytest.approx(value, rel=bound, abs=1e-7), name


@every_method
def test_recording_changes_no_bit_of_a_gradient(method):
    ours, _ = model_of(method)
    batch, found = tokens(), []
    for record in (False, True):
        ours.zero_grad()
        recorded(ours, batch) if record else cross_entropy(ours(batch[:, :-1]), batch[:, 1:])[0].backward()
        found.append({name: parameter.grad.clone() for name, parameter in ours.named_parameters()})
    torch.testing.assert_close(*found, rtol=0, atol=0)


@pytest.mark.parametrize("micro", [1, 2])
@pytest.mark.parametrize("method", ["qk_norm_cap", "sigma_reparam"])
def test_micro_batches_give_the_values_of_the_whole_batch(method, micro):
    ours, _ = model_of(method)
    batch = tokens(batch=4)
    whole = recorded(ours, batch)
    ours.zero_grad()
    same(recorded(ours, batch, micro), whole)


@pytest.mark.parametrize("method", ["qk_norm_cap", "sigma_reparam", "soft_clip"])
def test_layers_that_are_computed_again_record_the_same(method):
    batch = tokens()
    values = [recorded(model_of(method, again=again)[0], batch) for again in (False, True)]
    same(*values, bound=0.0)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(("method", "again"), [("qk_norm_cap", False), ("sigma_reparam", True)])
def test_compiled_blocks_record_the_same_in_one_graph_more_than_they_have(method, again):
    torch._dynamo.reset()
    counters.clear()
    batch, (compiled, _) = tokens(), model_of(method, compiled=True, again=again)
    for _ in range(2):
        compiled(batch[:, :-1]).sum().backward()
        compiled.zero_grad()
        found = recorded(compiled, batch)
        compiled.zero_grad()
    assert counters["stats"]["unique_graphs"] == 2
    same(found, recorded(model_of(method)[0], batch))
    torch._dynamo.reset()


def same(found, expected, bound=1e-5):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=bound, abs=bound / 1000, nan_ok=True), name


@pytest.mark.parametrize(
    ("method", "lowering"),
    [("qk_norm", "sdpa"), ("soft_temp", "sdpa"), ("soft_clip", "blockwise"), ("qk_norm_cap", "blockwise")],
)
@pytest.mark.parametrize("seq", [13, 300])
def test_values_that_a_fused_kernel_does_not_give_are_those_of_the_nodes(method, lowering, seq):
    given = {name: tokens(batch=2, seq=seq + 1) for name in ("explicit", lowering)}
    found = [
        recorded(bg.compile("gpt", block=method, lowering=name, probes=["**"], **SIZES), x) for name, x in given.items()
    ]
    same(*found, bound=1e-4)


def test_values_inside_a_fused_kernel_take_no_part_in_the_gradient():
    model = bg.compile("gpt", block="qk_norm", lowering="sdpa", probes=["attention"], **SIZES)
    text = model.source
    before, after = (text.index(word, text.index("def probed")) for word in ("with torch.no_grad():", "attn_merge ="))
    assert before < text.index("softmax(attn_mask)", before) < after


def test_scores_are_made_again_where_the_kernel_does_not_give_their_largest():
    made = {name: bg.compile("gpt", block="qk_norm", lowering=name, probes=["**"], **SIZES) for name in FUSED}
    assert [name for name, model in made.items() if "in query_parts(" in model.source] == ["sdpa"]
    alone = bg.compile("gpt", block="qk_norm", lowering="blockwise", probes=["**.bmm1.max"], **SIZES)
    assert "no_grad" not in alone.source[alone.source.index("def probed") :]
    assert recorded(alone, tokens()).keys() == {f"layers.{layer}.attn.bmm1.max" for layer in range(LAYERS)}


ATTENTION = {
    "keys": "linear, in: x, out: 8", "heads": "split_heads, in: keys, heads: 2",
    "queries": "matmul, in: [heads, heads], transpose: b", "cap": "soft_cap, cap: 3", "softmax": "softmax",
    "mix": "matmul, in: [softmax, heads]", "merge": "merge_heads", "sum": "add, in: [merge, keys]",
}  # fmt: skip


def attention_of(path, **options):
    """An encoder's layers, of nodes called as lines of the text that records call other things."""
    lines = "".join(f"      {name}: {{op: {op}}}\n" for name, op in ATTENTION.items())
    path.write_text(
        "block: layers\ncausal: false\ninputs: {x: [batch, seq, 8]}\n"
        "nodes:\n  layers: {op: stack, of: one, repeat: 3}\noutputs: {x: layers}\nblocks:\n"
        "  one:\n    block: one\n    causal: false\n    inputs: {x: [batch, seq, 8]}\n"
        f"    nodes:\n{lines}    outputs: {{x: sum}}\n"
    )
    return bg.compile(path, **options)


@pytest.mark.parametrize(("lowering", "cap"), [("explicit", "soft_cap, cap: 3"), ("sdpa", "scale, by: 0.5")])
def test_layers_of_an_encoder_record_the_same_and_what_their_nodes_are_called_means_nothing(
    lowering, cap, tmp_path, monkeypatch
):
    monkeypatch.setitem(ATTENTION, "cap", cap)
    model = attention_of(tmp_path / "layers.yaml", lowering=lowering, probes=["attention"])
    names = [reading.name.split(".", 2) for reading in model.probes.series]
    words = [[word for _, layer, word in names if layer == str(index)] for index in range(3)]
    assert words[0] == words[1] == words[2]
    assert "queries.max" in words[0]
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    plain, probing = model(x), Probing(model, ALONE)
    probing.start()
    assert torch.equal(model(x), plain)
    probing.fold()
    found = probing.finish()
    for index, layer in enumerate(model.layers):
        heads = F.linear(x, layer.keys.weight).unflatten(-1, (2, 4)).transpose(1, 2)
        torch.testing.assert_close(found[f"layers.{index}.queries.max"], (heads @ heads.mT).max().item())
        x = layer(x)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_blocks_record_what_a_fused_kernel_gives():
    found = []
    for compiled in (False, True):
        model = bg.compile("gpt", block="soft_clip", lowering="blockwise", probes=["**"], **SIZES)
        for block in model.blocks() if compiled else ():
            vars(block)["forward"] = torch.compile(block.forward, backend="aot_eager", fullgraph=True)
        found.append(recorded(model, tokens()))
    same(*found)
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["adamw", "stable_adamw", "muon"])
@pytest.mark.parametrize("rate", [1e-2, 1e-3])
def test_an_update_times_the_learning_rate_is_what_a_parameter_moves_by(name, rate):
    config = Optim(name=name, lr=rate, weight_decay=0.0, eps=1e-6)
    ours, _ = model_of("qk_norm")
    optimizer = optim.make(ours, ours.weights, config)
    # Scaled by the share that update clipping leaves; without it a parameter moves by the whole rate.
    for number in range(3):
        before = {key: value.detach().clone() for key, value in ours.named_parameters()}
        ours.zero_grad()
        found = recorded(ours, tokens(seed=number), step=optimizer)
        for key, value in ours.named_parameters():
            moved = (value.detach() - before[key]).double().square().mean().sqrt() / rate
            told = found[f"{key}.update_rms"]
            if name == "stable_adamw":
                assert moved <= told * (1 + 1e-2), key
            else:
                assert told == pytest.approx(float(moved), rel=1e-2), key


def test_a_small_epsilon_and_a_large_one_are_told_apart_by_the_update():
    found = []
    for eps in (1e-12, 1.0):
        ours, _ = model_of("baseline", ["updates"])
        config = Optim(lr=1e-3, eps=eps)
        found.append(recorded(ours, tokens(), step=optim.make(ours, ours.weights, config)))
    assert found[0]["head.weight.update_rms"] == pytest.approx(1.0, rel=0.05)
    assert found[1]["head.weight.update_rms"] < 0.05


def test_rows_of_attention_are_those_of_the_last_queries_and_a_maximum_runs_over_all():
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 3, 100, 100, generator=draw)
    scores[0, 0, 5, 2], scores[1, 1, 5, 7] = 50.0, 60.0
    past = torch.ones(100, 100, dtype=torch.bool).tril()
    weights = torch.softmax(scores.masked_fill(~past, -math.inf), -1)
    assert kernels.largest_pair(scores, True)[2] == 50.0
    assert kernels.largest_pair(scores, False)[2] == 60.0
    last, seen = weights[..., -32:, :], past[-32:]
    entropy = torch.special.entr(last).sum(-1).mean()
    total, _, _, count = kernels.row_entropy(kernels.last_rows(weights))
    torch.testing.assert_close(total / count, entropy)
    total, _, _, count = kernels.saturation(kernels.last_rows(torch.tanh(scores)), 1.0, True)
    assert count == 2 * 3 * seen.sum()
    torch.testing.assert_close(total / count, torch.tanh(scores[..., -32:, :]).square()[..., seen].mean())


def test_a_row_that_one_key_has_has_no_entropy_and_a_uniform_one_the_logarithm_of_its_keys():
    for weights, entropy, share in ((torch.eye(8), 0.0, 1.0), (torch.full((8, 8), 1 / 8), math.log(8), 0.0)):
        total, _, _, count = kernels.row_entropy(weights)
        assert float(total / count) == pytest.approx(entropy, abs=1e-6)
        total, _, _, count = kernels.one_hot(weights)
        assert float(total / count) == share


def test_what_is_not_finite_is_told():
    x = torch.tensor([1.0, math.inf, -2.0])
    assert kernels.moments(x)[2] == math.inf
    assert kernels.moments(torch.tensor([1.0, math.nan]))[:3].isnan().all()


def test_values_in_bf16_are_summed_in_fp32():
    x = torch.full((70_000,), 0.1, dtype=torch.bfloat16)
    total, norm, largest, count = kernels.moments(x)
    exact = x.double()
    torch.testing.assert_close(total.double(), exact.sum(), rtol=1e-5, atol=0)
    torch.testing.assert_close(norm.double(), exact.norm(), rtol=1e-5, atol=0)
    assert (float(largest), float(count)) == (float(x[0]), 70_000.0)


def test_a_group_is_all_that_says_it_belongs_to_it_and_a_pattern_what_it_matches():
    graph = bg.load("gpt", block="qk_norm_cap", **SIZES)
    known = {reading.name: reading for reading in readings(graph)}
    for group in GROUPS:
        assert chosen(graph, [group]) == [name for name in known if group in known[name].quantity.groups]
    assert chosen(graph, ["layers.*.attn.qkv.x.l2"]) == [f"layers.{layer}.attn.qkv.x.l2" for layer in range(LAYERS)]
    assert chosen(graph, ["**"]) == list(known)
    assert set(known) == set(chosen(graph, list(GROUPS)))


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("layers.*.attn.qvk.x.l2", "did you mean 'layers.*.attn.qkv.x.l2'?"),
        ("attension", "did you mean 'attention'?"),
        ("q", "known are norms, attention, outputs, linears, weights, updates, experts and patterns such as '**.l2'"),
    ],
)
def test_a_word_that_stands_for_nothing_is_told_with_the_near_miss(word, hint):
    with pytest.raises(SpecError) as told:
        bg.compile("gpt", probes=["outputs", word], **SIZES)
    assert str(told.value) == f"probes: error: no series is called '{word}'; {hint}"


def test_only_what_is_asked_for_is_written_into_the_module():
    plain = bg.compile("gpt", block="qk_norm", **SIZES).source
    some = bg.compile("gpt", block="qk_norm", probes=["layers.0.attn.softmax.entropy"], **SIZES).source
    assert "records" not in plain
    assert re.findall(r"self\.records\[\d+\] = (\w+)\(", some) == ["row_entropy"]
    assert len(re.findall("def probed", some)) == 1


def test_a_module_of_which_nothing_is_recorded_runs_the_text_it_ran_before():
    texts = [bg.compile("gpt", block="qk_norm", probes=words, **SIZES).source for words in ([], ["**"])]
    bodies = [re.search(r"class QkNorm.*?def forward.*?\n(.*?)return add_ff", text, re.S)[1] for text in texts]
    asked = "        if self.records is not None:\n            return self.probed(x)\n"
    assert bodies[1].removeprefix(asked) == bodies[0]
    assert bodies[1] != bodies[0]


def test_parameters_that_layers_share_have_one_name():
    names = [reading.name for reading in readings(bg.load("tests/specs/shared.yaml"))]
    module = bg.compile("tests/specs/shared.yaml")
    parameters = {f"{name}.l2" for name, _ in module.named_parameters()}
    assert len(names) == len(set(names))
    assert {name for name in names if name.removesuffix(".l2") + ".l2" in parameters} >= parameters
    assert {n.removesuffix(".update_rms") for n in names if n.endswith("update_rms")} == {
        name for name, _ in module.named_parameters()
    }


def test_the_cost_that_a_run_tells_is_that_of_its_medians_without_the_first_steps():
    cost = Overhead()
    for seconds, probed in [(9.0, False), (9.0, True)] + [(2.0, False)] * 16 + [(4.0, True)] * 3:
        cost.add(seconds, probed)
    assert cost.text == "probes: 16.0% of the run, 50% of a probed step (median of 3)"


def test_a_machine_that_slows_down_changes_nothing_of_the_cost_that_a_run_tells():
    cost = Overhead()
    for slower in (1.0, 1.0, 1.0, 7.0, 1.0, 3.0):
        for _ in range(20):
            cost.add(2.0 * slower, False)
        cost.add(2.5 * slower, True)
    assert cost.text.endswith(", 20% of a probed step (median of 5)")


def test_too_few_steps_say_nothing_of_their_cost():
    cost = Overhead()
    for _ in range(3):
        cost.add(1.0, True)
        cost.add(1.0, False)
    assert cost.text == ""
