"""The case table of the parity suite, and the numbers of each case as the papers print them.

Nothing here comes from jaxmup: the exponents are typed by hand from their sources, and the torch
side is built from them.
"""

from fractions import Fraction
from typing import NamedTuple

# --------------------------------------------------------------------------------------- cases


class Case(NamedTuple):
    """A network, a parametrization and an optimizer, trained on both sides."""

    optimizer: str
    rule: str  # muP in a gauge, "cellarium" or "standard"
    api: str
    depth: int  # hidden layers
    activation: str
    shape: str  # of the hidden layers: one width or several
    bias: bool
    alpha: float  # factor on the learning rates of a layer
    dtype: str = "float64"  # "bfloat16": computed in it, stored in float32

    def __str__(self) -> str:
        bias = "bias" if self.bias else "no-bias"
        words = f"{self.optimizer}-{self.rule}-{self.api}-{self.depth}-{self.activation}"
        return f"{words}-{self.shape}-{bias}-{self.alpha:g}"

    @property
    def family(self) -> str:
        """Whose learning rates it needs."""
        return "sgd" if self.optimizer in ("sgd", "momentum", "nesterov") else "adam"

    @property
    def sizes(self) -> list[int]:
        """Sizes of inputs, hidden layers and outputs."""
        return [INPUTS, *HIDDEN[self.shape][: self.depth], OUTPUTS]


def _case(row: str) -> Case:
    optimizer, rule, api, depth, activation, shape, bias, alpha = row.split()
    return Case(optimizer, rule, api, int(depth), activation, shape, bias == "bias", float(alpha))


# A covering selection: every value of a column stands beside every optimizer, and every two values
# of two columns stand together somewhere.
CASES = [
    _case(row)
    for row in """
sgd               table3    linen 1  relu unequal bias    2.5
sgd               table8    linen 2  tanh square  bias    2.5
sgd               table9    nnx   2  relu unequal bias    2.5
sgd               tp4b      nnx   3  relu unequal no-bias 1
sgd               unit      linen 4  relu square  no-bias 1
sgd               unit      nnx   3  tanh unequal no-bias 2.5
sgd               cellarium nnx   4  tanh square  bias    1
sgd               standard  linen 1  tanh square  no-bias 1
momentum          table3    linen 1  tanh unequal no-bias 1
momentum          table8    nnx   3  relu square  no-bias 1
momentum          table9    linen 2  relu square  bias    1
momentum          table9    linen 3  tanh square  no-bias 2.5
momentum          tp4b      nnx   1  tanh unequal bias    1
momentum          unit      nnx   4  relu unequal no-bias 2.5
momentum          cellarium nnx   2  relu square  bias    2.5
momentum          standard  linen 4  tanh unequal bias    2.5
nesterov          table3    linen 2  relu square  no-bias 2.5
nesterov          table8    linen 3  tanh square  no-bias 2.5
nesterov          table9    nnx   3  tanh square  no-bias 1
nesterov          tp4b      linen 2  tanh unequal bias    1
nesterov          tp4b      nnx   4  relu unequal no-bias 1
nesterov          unit      nnx   1  tanh unequal bias    2.5
nesterov          cellarium linen 1  relu square  bias    2.5
nesterov          standard  nnx   4  relu unequal bias    1
adam              table3    nnx   3  tanh square  no-bias 1
adam              table8    nnx   1  relu square  bias    2.5
adam              table9    linen 1  tanh unequal no-bias 2.5
adam              tp4b      nnx   2  tanh unequal no-bias 1
adam              unit      linen 2  tanh square  bias    2.5
adam              cellarium nnx   3  relu unequal bias    1
adam              cellarium linen 4  relu unequal bias    2.5
adam              standard  linen 4  relu square  no-bias 1
adamw             table3    nnx   3  relu unequal no-bias 2.5
adamw             table3    nnx   3  tanh square  bias    1
adamw             table8    nnx   4  relu unequal no-bias 2.5
adamw             table9    linen 4  tanh square  bias    1
adamw             tp4b      linen 2  relu square  bias    1
adamw             unit      linen 1  tanh square  bias    2.5
adamw             cellarium linen 1  tanh unequal no-bias 2.5
adamw             standard  nnx   2  relu unequal no-bias 1
adam_l2           table3    nnx   4  tanh unequal no-bias 2.5
adam_l2           table8    linen 2  relu unequal bias    1
adam_l2           table8    linen 4  relu unequal bias    2.5
adam_l2           table9    linen 1  tanh square  no-bias 1
adam_l2           tp4b      nnx   3  tanh square  bias    2.5
adam_l2           unit      linen 3  relu unequal bias    1
adam_l2           cellarium nnx   2  relu square  no-bias 2.5
adam_l2           standard  nnx   1  tanh square  no-bias 1
amsgrad           table3    linen 4  tanh unequal no-bias 2.5
amsgrad           table8    nnx   3  tanh unequal bias    2.5
amsgrad           table9    linen 4  relu square  no-bias 1
amsgrad           tp4b      nnx   1  relu square  no-bias 1
amsgrad           unit      nnx   2  relu square  bias    1
amsgrad           cellarium linen 1  relu unequal bias    2.5
amsgrad           standard  linen 2  tanh square  no-bias 2.5
amsgrad           standard  nnx   3  tanh unequal bias    1
amsgrad_decoupled table3    linen 4  relu square  no-bias 2.5
amsgrad_decoupled table8    nnx   1  relu unequal no-bias 1
amsgrad_decoupled table9    linen 2  relu unequal bias    1
amsgrad_decoupled tp4b      linen 3  relu unequal no-bias 2.5
amsgrad_decoupled unit      nnx   1  tanh square  bias    1
amsgrad_decoupled unit      linen 4  tanh square  bias    2.5
amsgrad_decoupled cellarium nnx   2  tanh unequal no-bias 1
amsgrad_decoupled standard  nnx   3  tanh square  bias    2.5
""".strip().splitlines()
]

INPUTS, OUTPUTS, BATCH, STEPS = 3, 2, 8, 100
BASE = 4  # of every hidden layer
HIDDEN = {"square": [8, 8, 8, 8], "unequal": [12, 16, 8, 12], "wide": [128, 96]}
KERNEL_STD, BIAS_STD = 0.5, 0.25  # of the effective weights at base width

# Of the base model. eps is of the size of the gradients, so that a wrong factor on it shows.
LR = {"sgd": 0.05, "momentum": 0.01, "nesterov": 0.01}
ADAM_LR, EPS, DECAY, MOMENTUM = 0.01, 1e-2, 0.1, 0.9
BETAS = (0.9, 0.99)

# --------------------------------------------------------------------------------------- rules

# Powers of the width ratios r = n / n0 as the papers print them, one column each:
#   input and biases: r_out | hidden: r_in, r_out, t | output: r_in | all: sigma
# where t = min(1, sqrt(r_out / r_in)) is 1 in square layers. A factor without a row is 1.
#
# The papers' tables have one width. Unequal widths are fan_in and fan_out where the tables name
# them; the rate of SGD, r_out / r_in, and t are those of Yang et al., A Spectral Condition for
# Feature Learning, arXiv:2310.17813, Section 4.1.
TABLES = {
    # Yang et al., Tensor Programs V, arXiv:2203.03466, Table 3. eps is of the size of the gradient.
    "table3": {
        "init":       "  0    -½  0   1    -1   1",
        "lr sgd":     "  1    -1  1   0    -1   0",
        "lr adam":    "  0    -1  0   0    -1   0",
        "eps adam":   " -1     0 -1   0     0   0",
    },
    # Table 8, the one of the package mup
    "table8": {
        "multiplier": "  0     0  0   0    -1   0",
        "init":       "  0    -½  0   1     0   1",
        "lr sgd":     "  1    -1  1   0     1   0",
        "lr adam":    "  0    -1  0   0     0   0",
        "eps adam":   " -1     0 -1   0    -1   0",
    },
    # Table 9; the multiplier of all layers is sqrt(fan_out / fan_in)
    "table9": {
        "multiplier": "  ½    -½  ½   0    -½   0",
        "init":       " -½     0 -½   1    -½   1",
        "lr adam":    " -½    -½ -½   0    -½   0",
        "eps adam":   " -½    -½ -½   0    -½   0",
    },
    # Yang and Littwin, Tensor Programs IVb, arXiv:2308.01814, Def. 2.5.1: d is minus the exponent
    # of the gradient, and one table serves every optimizer
    "tp4b": {
        "multiplier": "  0     0  0   0    -1   0",
        "init":       "  0    -½  0   1     0   1",
        "lr":         "  0    -1  0   0     0   0",
        "grad":       "  1     0  1   0     1   0",
    },
    # Blake et al., u-muP, arXiv:2407.17465: weights of variance 1, here with the rates of muP;
    # Tensor Programs V, Lemma J.1, moves the rates of Table 3 there
    "unit": {
        "multiplier": "  0    -½  0   1    -1   1",
        "init":       "  0     0  0   0     0   0",
        "lr sgd":     "  1     0  1  -2     1  -2",
        "lr adam":    "  0    -½  0  -1     0  -1",
        "eps adam":   " -1    -½ -1   1    -1   1",
    },
    # Standard practice: Tensor Programs IVb, Example 2.2.2
    "standard": {
        "init":       "  0    -½  0   0    -½   1",
    },
    # cellarium-ml, MuLinear: one width a layer, fan_out of input layers and fan_in of the others
    "cellarium": {
        "multiplier sgd":  "  ½     0  0   0    -½   0",
        "multiplier adam": "  0    -1  0   0    -1   0",
        "init sgd":        " -½    -½  0   0    -½   1",
        "init adam":       "  0     ½  0   0     0   1",
        "grad adam":       "  1     2  0   0     1   0",
    },
}  # fmt: skip


class Numbers(NamedTuple):
    """What a rule gives one parameter; an initial standard deviation and factors."""

    multiplier: float
    init_std: float
    lr: float
    grad: float
    eps: float
    weight_decay: float


class Shift(NamedTuple):
    """One mistake: `factor` of one role is multiplied by r^`power` and by `times`."""

    factor: str
    role: str
    power: float = 0.0
    times: float = 1.0


def role(case: Case, layer: int, name: str) -> str:
    """Which axes of a parameter grow; a bias is like an input kernel, or `fixed`."""
    if layer == case.depth:
        return "output" if name == "kernel" else "fixed"
    return "input" if layer == 0 or name == "bias" else "hidden"


def numbers(case: Case, shift: Shift | None = None) -> dict[str, Numbers]:
    """The numbers of every parameter, by `"layer/kernel"` and `"layer/bias"`."""
    names = ("kernel", "bias") if case.bias else ("kernel",)
    return {
        f"{layer}/{name}": _numbers(case, layer, name, shift)
        for layer in range(case.depth + 1)
        for name in names
    }


def _numbers(case: Case, layer: int, name: str, shift: Shift | None) -> Numbers:
    where = role(case, layer, name)
    fan_in, fan_out = case.sizes[layer] / BASE, case.sizes[layer + 1] / BASE
    sigma = KERNEL_STD if name == "kernel" else BIAS_STD
    root = case.alpha**0.5 if case.rule == "cellarium" else 1.0  # there alpha is in the layer
    values = {"multiplier": root, "init": 1.0 / root, "lr": 1.0, "grad": 1.0, "eps": 1.0}
    for factor in values:
        values[factor] *= _power(case, factor, where, fan_in, fan_out, sigma)
        if shift is not None and (shift.factor, shift.role) == (factor, where):
            width = fan_out if where == "input" else fan_in
            values[factor] *= shift.times * width**shift.power
    if case.rule != "cellarium":
        values["lr"] *= case.alpha
    # Decoupled decay takes lr times its coefficient off: that is the same at every width, as it is
    # in the package mup.
    values["weight_decay"] = 1.0 / values["lr"]
    if shift is not None and (shift.factor, shift.role) == ("weight_decay", where):
        values["weight_decay"] *= shift.times
    return Numbers(*values.values())


def _power(
    case: Case, factor: str, where: str, fan_in: float, fan_out: float, sigma: float
) -> float:
    table = TABLES[case.rule]
    row = table.get(f"{factor} {case.family}", table.get(factor, ""))
    default = "0 0 0 0 0 0"
    out, hidden_in, hidden_out, taper, into, of_sigma = (
        float(Fraction(power.replace("½", "1/2"))) for power in (row or default).split()
    )
    by_role = {
        "input": fan_out**out,
        "hidden": fan_in**hidden_in
        * fan_out**hidden_out
        * min(1.0, (fan_out / fan_in) ** 0.5) ** taper,
        "output": fan_in**into,
        "fixed": 1.0,
    }
    return by_role[where] * sigma**of_sigma
