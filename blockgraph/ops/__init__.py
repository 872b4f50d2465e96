"""The table of ops, in the order of the documentation."""

from blockgraph.op import Op, table
from blockgraph.ops.add import Add
from blockgraph.ops.balance_loss import BalanceLoss
from blockgraph.ops.causal_mask import CausalMask
from blockgraph.ops.clamp import Clamp
from blockgraph.ops.concat import Concat
from blockgraph.ops.dynamic_tanh import DynamicTanh
from blockgraph.ops.embedding import Embedding
from blockgraph.ops.expert_linear import ExpertLinear
from blockgraph.ops.gelu import Gelu
from blockgraph.ops.hold_norm import HoldNorm
from blockgraph.ops.l2_norm import L2Norm
from blockgraph.ops.layer_norm import LayerNorm
from blockgraph.ops.layer_scale import LayerScale
from blockgraph.ops.learned_positions import LearnedPositions
from blockgraph.ops.linear import Linear
from blockgraph.ops.matmul import Matmul
from blockgraph.ops.merge_heads import MergeHeads
from blockgraph.ops.mix_streams import MixStreams
from blockgraph.ops.multiply import Multiply
from blockgraph.ops.parameter import Parameter
from blockgraph.ops.patches import Patches
from blockgraph.ops.prepend import Prepend
from blockgraph.ops.qk_clip import QkClip
from blockgraph.ops.relative_bias import RelativeBias
from blockgraph.ops.relu import Relu
from blockgraph.ops.repeat_heads import RepeatHeads
from blockgraph.ops.rms_norm import RmsNorm
from blockgraph.ops.rope import Rope
from blockgraph.ops.route import Route
from blockgraph.ops.scale import Scale
from blockgraph.ops.select import Select
from blockgraph.ops.shift import Shift
from blockgraph.ops.sigma_reparam import SigmaReparam
from blockgraph.ops.sigmoid import Sigmoid
from blockgraph.ops.silu import Silu
from blockgraph.ops.sink_softmax import SinkSoftmax
from blockgraph.ops.soft_cap import SoftCap
from blockgraph.ops.soft_clip import SoftClip
from blockgraph.ops.soft_temp import SoftTemp
from blockgraph.ops.softmax import Softmax
from blockgraph.ops.split import Split
from blockgraph.ops.split_heads import SplitHeads
from blockgraph.ops.spread_streams import SpreadStreams
from blockgraph.ops.squared_relu import SquaredRelu
from blockgraph.ops.stack import Stack
from blockgraph.ops.sum_streams import SumStreams
from blockgraph.ops.weighted_sum import WeightedSum
from blockgraph.ops.z_loss import ZLoss

OPS = table(
    (
        Embedding,
        Patches,
        Prepend,
        LearnedPositions,
        Select,
        Linear,
        Parameter,
        LayerNorm,
        RmsNorm,
        L2Norm,
        DynamicTanh,
        HoldNorm,
        SplitHeads,
        RepeatHeads,
        MergeHeads,
        Rope,
        Split,
        Concat,
        Matmul,
        Scale,
        SoftTemp,
        SoftCap,
        RelativeBias,
        CausalMask,
        QkClip,
        Softmax,
        SinkSoftmax,
        SoftClip,
        LayerScale,
        SquaredRelu,
        Relu,
        Gelu,
        Silu,
        Sigmoid,
        Clamp,
        Shift,
        Add,
        Multiply,
        Route,
        ExpertLinear,
        WeightedSum,
        BalanceLoss,
        ZLoss,
        SpreadStreams,
        MixStreams,
        SumStreams,
        SigmaReparam,
        Stack,
    )
)

__all__ = ["OPS", "Op"]
