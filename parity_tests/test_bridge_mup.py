"""Checkpoints straight into muP: plain Flax models, `infer`, and ten AdamW steps beside torch's.

torch's rates are typed from the papers, as one parameter group each: nothing of jaxmup makes them.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from jax import Array

import jaxmup
from jaxmup import bridge

STEPS, BATCH = 10, 6
LR, DECAY = 0.01, 0.1
BASE, WIDTH = 8, 32
R = WIDTH / BASE


def train_torch(
    module: torch.nn.Module,
    group_of: Callable[[str], dict[str, float]],
    batches: list[tuple[np.ndarray, np.ndarray]],
    forward: Callable[[Any, torch.Tensor], torch.Tensor],
) -> None:
    groups = [{"params": [p], **group_of(name)} for name, p in module.named_parameters()]
    optimizer = torch.optim.AdamW(groups)
    for inputs, labels in batches:
        optimizer.zero_grad()
        logits = forward(module, torch.tensor(inputs))
        torch.nn.functional.cross_entropy(
            logits.flatten(0, -2), torch.tensor(labels).flatten()
        ).backward()
        optimizer.step()


def train_here(
    model: nnx.Module,
    make_model: Callable[[int], nnx.Module],
    eps: float,
    batches: list[tuple[np.ndarray, np.ndarray]],
) -> nnx.Module:
    """Ten steps under the specs that `infer` reads off the plain model."""
    inputs = jnp.asarray(batches[0][0])
    specs = jaxmup.infer(make_model, base=BASE, delta=2 * BASE, target=WIDTH, inputs=inputs)
    scalings = jaxmup.resolve(specs, jaxmup.parametrization("mup", gauge="table3"))
    tx = jaxmup.optim.adamw(LR, scalings, eps=eps, weight_decay=DECAY)
    graph, params = nnx.split(model)

    @jax.jit
    def step(params: Any, state: Any, inputs: Array, labels: Array) -> Any:
        def loss(params: Any) -> Array:
            logits = nnx.merge(graph, params)(inputs)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for inputs, labels in batches:
        params, state = step(params, state, jnp.asarray(inputs), jnp.asarray(labels))
    return nnx.merge(graph, params)


def require_same(agree: Any, got: Mapping[str, np.ndarray], module: torch.nn.Module) -> None:
    for name, parameter in module.named_parameters():
        agree("whole model", got[name][None], parameter.detach().numpy()[None])


# --------------------------------------------------------------------------------- microsoft/mup


class MupMLP(torch.nn.Module):
    """A model of microsoft/mup: its `MuReadout` divides what it is given by the growth of it."""

    def __init__(self, width: int):
        super().__init__()
        self.fc_in = torch.nn.Linear(3, width)
        self.fc = torch.nn.Linear(width, width)
        self.readout = torch.nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.readout(torch.tanh(self.fc(torch.tanh(self.fc_in(x)))) / R)


BASE_SHAPES = {
    "fc_in.weight": (BASE, None),
    "fc_in.bias": (BASE,),
    "fc.weight": (BASE, BASE),
    "fc.bias": (BASE,),
    "readout.weight": (None, BASE),
    "readout.bias": (None,),
}


class PlainMLP(nnx.Module):
    """The same in plain Flax, which multiplies nothing."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.fc_in = nnx.Linear(3, width, rngs=rngs)
        self.fc = nnx.Linear(width, width, rngs=rngs)
        self.readout = nnx.Linear(width, 5, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.readout(jnp.tanh(self.fc(jnp.tanh(self.fc_in(x)))))


def mu_adam_w(name: str) -> dict[str, float]:
    """The group of `mup.optim.MuAdamW` 1.0.0.

    With two axes that grow, `lr` is over the growth of the inputs and `weight_decay` times it. Its
    eps stays, so that it must be too small to matter.
    """
    growth = R if name == "fc.weight" else 1.0
    return {"lr": LR / growth, "weight_decay": DECAY * growth, "eps": 1e-30}


def test_a_checkpoint_of_mup_trains_on_under_infer(agree: Any) -> None:
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    module = MupMLP(WIDTH).double()
    batches = [(rng.standard_normal((BATCH, 3)), rng.integers(0, 5, BATCH)) for _ in range(STEPS)]

    def make_model(width: int) -> nnx.Module:
        return PlainMLP(width, nnx.Rngs(0))

    start = {name: x.clone() for name, x in module.state_dict().items()}
    model = bridge.from_mup(start, BASE_SHAPES, make_model(WIDTH))
    train_torch(module, mu_adam_w, batches, lambda module, x: module(x))
    trained = train_here(model, make_model, 1e-30, batches)
    back = bridge.to_torch(trained, start, multipliers={"readout.weight": 1 / R})
    require_same(agree, back, module)


# ---------------------------------------------------------------------------------- Hugging Face

TOKENS, LENGTH, HEAD = 16, 5, 4


class PlainLlama(nnx.Module):
    """A block of Llama with heads of one size, whose number grows with the width."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        heads = (width // HEAD, HEAD)

        def norm() -> nnx.RMSNorm:
            return nnx.RMSNorm(width, epsilon=1e-6, rngs=rngs)

        def dense(*sizes: Any, **options: Any) -> nnx.LinearGeneral:
            return nnx.LinearGeneral(*sizes, use_bias=False, **options, rngs=rngs)

        self.embed = nnx.Embed(TOKENS, width, rngs=rngs)
        self.attention_norm, self.feed_forward_norm, self.norm = norm(), norm(), norm()
        self.query, self.key, self.value = (dense(width, heads) for _ in range(3))
        self.out = dense(heads, width, axis=(-2, -1))
        self.gate, self.up = dense(width, 2 * width), dense(width, 2 * width)
        self.down = dense(2 * width, width)
        self.readout = dense(width, TOKENS)

    def __call__(self, tokens: Array) -> Array:
        x = self.embed(tokens)
        h = self.attention_norm(x)
        q, k, v = rotated(self.query(h)), rotated(self.key(h)), self.value(h)
        scores = jnp.einsum("bthd,bshd->bhts", q, k) / HEAD**0.5
        seen = jnp.broadcast_to(jnp.tril(jnp.ones((LENGTH, LENGTH), bool)), scores.shape)
        shares = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
        x = x + self.out(jnp.einsum("bhts,bshd->bthd", shares, v))
        h = self.feed_forward_norm(x)
        x = x + self.down(jax.nn.silu(self.gate(h)) * self.up(h))
        return self.readout(self.norm(x))


def rotated(x: Array) -> Array:
    """Rotary positions over the halves of a head, with the base 10,000."""
    frequencies = 10000.0 ** (-np.arange(0, HEAD, 2) / HEAD)
    angles = np.outer(np.arange(LENGTH), frequencies)[None, :, None]
    cos, sin = (jnp.broadcast_to(f(angles), x[..., : HEAD // 2].shape) for f in (np.cos, np.sin))
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


EPS = 1e-3  # so large that it matters


def table3(name: str) -> dict[str, float]:
    """The rates of Table 3 for Adam, arXiv:2203.03466: 1 / r for what has inputs that grow.

    Weight decay is divided by that, so that its product with the rate stays. Gradients fall as
    1 / r but for the readout's, whose inputs and errors keep their size; eps falls as they do.
    """
    is_vector = "norm" in name or "embed" in name
    rate = 1.0 if is_vector else 1 / R
    eps = EPS if "lm_head" in name else EPS / R
    return {"lr": LR * rate, "weight_decay": DECAY / rate, "eps": eps}


@pytest.fixture
def llama() -> Iterator[Any]:
    hf = pytest.importorskip("transformers", reason="needs transformers")
    from parity_tests.published_run import computing_in

    config = hf.LlamaConfig(
        vocab_size=TOKENS,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=1,
        num_attention_heads=WIDTH // HEAD,
        max_position_embeddings=LENGTH,
        bos_token_id=1,
        eos_token_id=2,
    )
    hf.LlamaForCausalLM(config)  # its modules are imported while torch is as it should be
    with computing_in(torch.float64):
        torch.manual_seed(0)
        yield hf.LlamaForCausalLM(config)


def test_a_checkpoint_of_hugging_face_trains_under_mup(llama: Any, agree: Any) -> None:
    rng = np.random.default_rng(0)
    batches = [
        tuple(rng.integers(0, TOKENS, (BATCH, LENGTH)) for _ in range(2)) for _ in range(STEPS)
    ]

    def make_model(width: int) -> nnx.Module:
        return PlainLlama(width, nnx.Rngs(0))

    pairs = {"model.layers.0.post_attention_layernorm": "feed_forward_norm"}
    start = {name: x.clone() for name, x in llama.state_dict().items()}
    empty = nnx.eval_shape(lambda: make_model(WIDTH))
    model = bridge.from_torch(start, empty, pairs, settings=llama.config)
    model.embed.dtype = np.dtype("float64")  # it keeps that of its abstract values
    train_torch(llama, table3, batches, lambda module, x: module(input_ids=x).logits)
    trained = train_here(model, make_model, EPS, batches)
    require_same(agree, bridge.to_torch(trained, start, pairs), llama)
