"""Small whole models that know nothing of parametrizations, and the roles of their parameters.

Each returns its logits and the features that its readout reads. The readouts start at zero, so that
the logits of all widths start alike.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

import jaxmup

ZEROS = nnx.initializers.zeros
CLASSES = 5


class Plain(NamedTuple):
    """A model of any width.

    Args:
      make_model: as `infer` takes it.
      batch: what the model is called with.
      roles: the role of every parameter, by hand: `role: names`, kernel and bias of a layer as one.
      apply: the model as a function, where it has none of its own.
    """

    make_model: Callable[..., Any]
    batch: Any
    roles: Mapping[str, str]
    apply: Callable[[Any, Any], Any] | None = None

    @property
    def model(self) -> jaxmup.Model:
        """The model, and how it is called."""
        return jaxmup.Model(self.make_model, inputs=self.batch, apply=self.apply)

    @property
    def linen(self) -> bool:
        """Whether a Linen module."""
        return isinstance(self.make_model, type) and issubclass(self.make_model, nn.Module)

    def make(self, width: int, key: Any) -> Any:
        """What a plain script would train."""
        if self.linen:
            return self.make_model(width).init(key, self.batch)
        return self.make_model(width, key)

    def arrays(self, model: Any) -> Any:
        """The parameters of a model."""
        if isinstance(model, nnx.Module):
            return nnx.state(model, nnx.Param)
        return model["params"] if self.linen else model

    def split(self, model: Any, width: int) -> tuple[Any, Callable[[Any], Any]]:
        """The parameters, and the model's outputs on its batch as a function of them."""
        if self.apply is not None:
            return model, lambda params: self.apply(params, self.batch)  # type: ignore[misc]
        if self.linen:
            module = self.make_model(width)
            return self.arrays(model), lambda params: module.apply({"params": params}, self.batch)
        graph, params, rest = nnx.split(model, nnx.Param, ...)
        return params, lambda params: nnx.merge(graph, params, rest, copy=True)(self.batch)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


TOKENS = np.random.default_rng(4).integers(0, 11, (16, 6)).astype(np.int32)


class MLP(nnx.Module):
    def __init__(self, width: int, key: Any):
        rngs = nnx.Rngs(key)
        self.first = nnx.Linear(8, width, rngs=rngs)
        self.hidden = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(2)])
        self.readout = nnx.Linear(width, CLASSES, kernel_init=ZEROS, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.first(x))
        for layer in self.hidden:
            x = nnx.relu(layer(x))
        return self.readout(x), x


class CNN(nnx.Module):
    def __init__(self, width: int, key: Any):
        rngs = nnx.Rngs(key)
        self.stem = nnx.Conv(3, width, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.conv = nnx.Conv(width, 2 * width, (2, 2), strides=2, rngs=rngs)
        self.groups = nnx.GroupNorm(2 * width, num_groups=4, rngs=rngs)
        self.readout = nnx.Linear(2 * width, CLASSES, kernel_init=ZEROS, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.stem(x)))
        x = self.groups(self.conv(x))
        x = nnx.relu(x).mean((1, 2))
        return self.readout(x), x


class Block(nnx.Module):
    def __init__(self, width: int, pre_norm: bool, normalize_qk: bool, rngs: nnx.Rngs):
        self.pre_norm = pre_norm
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(
            2, width, decode=False, normalize_qk=normalize_qk, rngs=rngs
        )
        self.up = nnx.Linear(width, 3 * width, rngs=rngs)
        self.down = nnx.Linear(3 * width, width, rngs=rngs)

    def __call__(self, x):
        for norm, layer in zip(self.norms, (self.attention, self.feed_forward), strict=True):
            x = x + layer(norm(x)) if self.pre_norm else norm(x + layer(x))
        return x

    def feed_forward(self, x):
        return self.down(nnx.gelu(self.up(x)))


class Transformer(nnx.Module):
    pre_norm, normalize_qk = True, False

    def __init__(self, width: int, key: Any):
        rngs = nnx.Rngs(key)
        self.embed = nnx.Embed(11, width, rngs=rngs)
        self.positions = nnx.Param(nnx.initializers.normal(0.1)(rngs.params(), (6, width)))
        self.block = Block(width, self.pre_norm, self.normalize_qk, rngs)
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.readout = nnx.Linear(width, CLASSES, kernel_init=ZEROS, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens) + self.positions[...][None]
        x = self.norm(self.block(x)).mean(1)
        return self.readout(x), x


class PostNorm(Transformer):
    pre_norm = False


class NormalizedQueries(Transformer):
    normalize_qk = True


class LSTM(nnx.Module):
    def __init__(self, width: int, key: Any):
        rngs = nnx.Rngs(key)
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(8, width, rngs=rngs))
        self.readout = nnx.Linear(width, CLASSES, kernel_init=ZEROS, rngs=rngs)

    def __call__(self, x):
        x = self.rnn(x)[:, -1]
        return self.readout(x), x


class Mixer(nnx.Module):
    def __init__(self, width: int, key: Any):
        rngs = nnx.Rngs(key)
        self.patches = nnx.Linear(8, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.tokens = nnx.Linear(6, 6, rngs=rngs)
        self.up, self.down = (
            nnx.Linear(n, m, rngs=rngs) for n, m in ((width, 2 * width), (2 * width, width))
        )
        self.readout = nnx.Linear(width, CLASSES, kernel_init=ZEROS, rngs=rngs)

    def __call__(self, x):
        x = self.patches(x)
        x = x + self.tokens(self.norm(x).swapaxes(1, 2)).swapaxes(1, 2)
        x = (x + self.down(nnx.gelu(self.up(x)))).mean(1)
        return self.readout(x), x


class ScannedBlock(nn.Module):
    """Called as `nn.scan` wants it."""

    width: int

    @nn.compact
    def __call__(self, x, _):
        attention = nn.MultiHeadDotProductAttention(2, name="attention")
        x = x + attention(nn.LayerNorm(name="first_norm")(x))
        y = nn.Dense(2 * self.width, name="up")(nn.LayerNorm(name="second_norm")(x))
        return x + nn.Dense(self.width, name="down")(nn.gelu(y)), None


class Scanned(nn.Module):
    width: int
    depth: int = 2

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(11, self.width, name="embed")(tokens)
        blocks = nn.scan(
            nn.remat(ScannedBlock),
            length=self.depth,
            variable_axes={"params": 0},
            split_rngs={"params": True},
        )
        x, _ = blocks(self.width, name="blocks")(x, None)
        x = nn.LayerNorm(name="norm")(x).mean(1)
        return nn.Dense(CLASSES, kernel_init=ZEROS, name="readout")(x), x


def nested_dict(width: int, key: Any) -> dict[str, Any]:
    """The parameters of a Hugging-Face-style model: more heads, not larger ones, as it grows."""
    keys = iter(jax.random.split(key, 8))

    def dense(n: int, m: int, scale: float = 1.0) -> dict[str, Any]:
        kernel = jax.random.normal(next(keys), (n, m)) * scale * n**-0.5
        return {"kernel": kernel, "bias": jnp.zeros(m)}

    return {
        "transformer": {
            "wte": {"embedding": 0.5 * jax.random.normal(next(keys), (11, width))},
            "h": {"0": {"attn": dense(width, 3 * width), "proj": dense(width, width)}},
            "ln_f": {"scale": jnp.ones(width), "bias": jnp.zeros(width)},
        },
        "score": dense(width, CLASSES, scale=0.0),
    }


def apply_nested(params: Any, tokens: Any) -> Any:
    transformer, head_size = params["transformer"], 8
    x = transformer["wte"]["embedding"][tokens]
    layer = transformer["h"]["0"]
    qkv = x @ layer["attn"]["kernel"] + layer["attn"]["bias"][None, None]
    q, k, v = (y.reshape(*y.shape[:2], -1, head_size) for y in jnp.split(qkv, 3, -1))
    x = x + (
        jax.nn.dot_product_attention(q, k, v).reshape(x.shape) @ layer["proj"]["kernel"]
        + layer["proj"]["bias"][None, None]
    )
    x = jax.nn.standardize(x) * transformer["ln_f"]["scale"][None, None]
    x = (x + transformer["ln_f"]["bias"][None, None]).mean(1)
    return x @ params["score"]["kernel"] + params["score"]["bias"][None], x


ATTENTION = " ".join(f"attention/{name}" for name in ("query", "key", "value", "out"))


def transformer_roles(prefix: str, norms: str) -> dict[str, str]:
    def within(names: str) -> str:
        return " ".join(f"{prefix}/{name}" for name in names.split())

    return {
        "input": f"embed {within(norms)} norm {{bias}}",
        "hidden": within(f"{ATTENTION} up down"),
        "output": "readout",
    }


TRANSFORMER = transformer_roles("block", "norms/0 norms/1")
TRANSFORMER["input"] += " positions"
QK_NORM = {"input": TRANSFORMER["input"] + " block/attention/query_ln block/attention/key_ln"}

MODELS = {
    "MLP": Plain(
        MLP, normal(16, 8), {"input": "first", "hidden": "hidden/0 hidden/1", "output": "readout"}
    ),
    "CNN": Plain(
        CNN,
        normal(16, 4, 4, 3),
        {"input": "stem norm groups", "hidden": "conv", "output": "readout"},
    ),
    "pre-norm transformer": Plain(Transformer, TOKENS, TRANSFORMER),
    "post-norm transformer": Plain(PostNorm, TOKENS, TRANSFORMER),
    "QK-norm transformer": Plain(NormalizedQueries, TOKENS, TRANSFORMER | QK_NORM),
    "LSTM": Plain(
        LSTM,
        normal(16, 5, 8),
        {"input": "rnn/cell/dense_i", "hidden": "rnn/cell/dense_h", "output": "readout"},
    ),
    "mixer": Plain(
        Mixer,
        normal(16, 6, 8),
        {"input": "patches norm", "fixed": "tokens", "hidden": "up down", "output": "readout"},
    ),
    "scanned Linen transformer": Plain(
        Scanned, TOKENS, transformer_roles("blocks", "first_norm second_norm")
    ),
    "nested dict": Plain(
        nested_dict,
        TOKENS,
        {
            "input": "transformer/wte transformer/ln_f",
            "hidden": "transformer/h/0/attn transformer/h/0/proj",
            "output": "score",
        },
        apply_nested,
    ),
}
