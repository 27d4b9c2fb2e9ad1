"""Linear attention in the style of Gated DeltaNet: a state that each token corrects."""

import jax
import jax.numpy as jnp
from flax import nnx

from zoo.case import Case

VOCABULARY, LENGTH, TAPS = 11, 6, 3


def unit(x):
    return x / jnp.sqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-6)


def delta_rule(q, k, v, write, keep):
    """Output of `S' = keep · S (1 − write k kᵀ) + write v kᵀ`, read by the queries."""

    def step(state, now):
        q, k, v, write, keep = now
        state = keep[..., None, None] * state
        error = v - jnp.einsum("bhvk,bhk->bhv", state, k)
        state = state + jnp.einsum("bh,bhv,bhk->bhvk", write, error, k)
        return state, jnp.einsum("bhvk,bhk->bhv", state, q)

    start = jnp.zeros((*v.shape[:1], *v.shape[2:], k.shape[-1]))
    inputs = jax.tree.map(lambda a: a.swapaxes(0, 1), (q, k, v, write, keep))
    return jax.lax.scan(step, start, inputs)[1].swapaxes(0, 1)


class Mixer(nnx.Module):
    def __init__(self, width, heads, head_size, *, rngs):
        def linear(outputs):
            return nnx.Linear(width, outputs, use_bias=False, rngs=rngs)

        def conv():
            return nnx.Param(jax.random.normal(rngs.params(), (TAPS, inner)))

        self.shape, inner = (heads, head_size), heads * head_size
        self.q, self.k, self.v, self.gate = (linear(inner) for _ in range(4))
        self.q_conv, self.k_conv, self.v_conv = conv(), conv(), conv()
        self.write, self.forget = linear(heads), linear(heads)
        self.A_log = nnx.Param(jnp.zeros(heads))
        self.dt_bias = nnx.Param(jnp.zeros(heads))
        self.norm = nnx.RMSNorm(head_size, rngs=rngs)
        self.out = nnx.Linear(inner, width, use_bias=False, rngs=rngs)

    def __call__(self, x):
        def heads_of(projected, conv):
            padded = jnp.pad(projected, ((0, 0), (TAPS - 1, 0), (0, 0)))
            taps = [padded[:, i : i + x.shape[1]] * conv[i] for i in range(TAPS)]
            return nnx.silu(sum(taps)).reshape(*x.shape[:2], *self.shape)

        q = unit(heads_of(self.q(x), self.q_conv)) * self.shape[1] ** -0.5
        k = unit(heads_of(self.k(x), self.k_conv))
        v = heads_of(self.v(x), self.v_conv)
        steps = nnx.softplus(self.forget(x) + self.dt_bias[...])
        keep = jnp.exp(-jnp.exp(self.A_log[...]) * steps)
        y = self.norm(delta_rule(q, k, v, nnx.sigmoid(self.write(x)), keep))
        y = y.reshape(*x.shape[:2], -1) * nnx.silu(self.gate(x))
        return self.out(y)


class DeltaNet(nnx.Module):
    def __init__(self, width, heads, head_size, *, rngs):
        self.embed = nnx.Embed(VOCABULARY, width, rngs=rngs)
        self.norm1 = nnx.RMSNorm(width, rngs=rngs)
        self.mixer = Mixer(width, heads, head_size, rngs=rngs)
        self.norm2 = nnx.RMSNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, VOCABULARY, use_bias=False, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        x = x + self.mixer(self.norm1(x))
        return self.head(self.norm2(x))


# Keys of length one have coordinates d^-½, and so has the state, a sum of v kᵀ: S k is of order 0,
# as v is. What the queries read is normalized, so their 1/√d asks for nothing.
ANSWER = """
embed/embedding        - out*     1   7   1
norm?/scale            out*       1   7   1
mixer/[qkv]/kernel     in* out*   7   6   1
mixer/gate/kernel      in* out*   7   6   1
mixer/?_conv           - out*     1   6   1
mixer/write/kernel     in* out*   7   3   1
mixer/forget/kernel    in* out*   7   3   1
mixer/A_log            out*       1   3   1
mixer/dt_bias          out*       1   3   1
mixer/norm/scale       out*       1   2   1
mixer/out/kernel       in* out*   6   7   1
head/kernel            in* -      7   1   1
"""
CASES = {
    "": Case(
        DeltaNet,
        ANSWER,
        base={"width": 16, "heads": 2, "head_size": 8},
        target={"width": 112, "heads": 6, "head_size": 16},
        inputs=jnp.zeros((2, LENGTH), jnp.int32),
    )
}
