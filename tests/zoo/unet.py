"""U-Net of a diffusion model: concatenated skips, a time embedding, attention over pixels."""

import jax.numpy as jnp
from flax import nnx

from zoo.case import Case


class Residual(nnx.Module):
    def __init__(self, inputs, outputs, embedding, *, rngs):
        self.norm1 = nnx.GroupNorm(inputs, num_groups=4, rngs=rngs)
        self.conv1 = nnx.Conv(inputs, outputs, (3, 3), rngs=rngs)
        self.time = nnx.Linear(embedding, outputs, rngs=rngs)
        self.norm2 = nnx.GroupNorm(outputs, num_groups=4, rngs=rngs)
        self.conv2 = nnx.Conv(outputs, outputs, (3, 3), rngs=rngs)
        self.skip = nnx.Conv(inputs, outputs, (1, 1), use_bias=False, rngs=rngs)

    def __call__(self, x, time):
        h = self.conv1(nnx.silu(self.norm1(x))) + self.time(nnx.silu(time))[:, None, None]
        return self.skip(x) + self.conv2(nnx.silu(self.norm2(h)))


class Attention(nnx.Module):
    """One head as large as there are channels."""

    def __init__(self, channels, *, rngs):
        self.query = nnx.Conv(channels, channels, (1, 1), rngs=rngs)
        self.key = nnx.Conv(channels, channels, (1, 1), rngs=rngs)
        self.value = nnx.Conv(channels, channels, (1, 1), rngs=rngs)
        self.out = nnx.Conv(channels, channels, (1, 1), rngs=rngs)

    def __call__(self, x):
        flat = (x.shape[0], -1, x.shape[-1])
        q, k, v = (f(x).reshape(flat) for f in (self.query, self.key, self.value))
        weights = nnx.softmax(q @ k.swapaxes(1, 2) * x.shape[-1] ** -0.5)
        return x + self.out((weights @ v).reshape(x.shape))


class UNet(nnx.Module):
    def __init__(self, width, embedding, *, rngs):
        self.time1 = nnx.Linear(8, embedding, rngs=rngs)
        self.time2 = nnx.Linear(embedding, embedding, rngs=rngs)
        self.stem = nnx.Conv(3, width, (3, 3), rngs=rngs)
        self.block1 = Residual(width, width, embedding, rngs=rngs)
        self.down = nnx.Conv(width, 2 * width, (3, 3), strides=2, rngs=rngs)
        self.block2 = Residual(2 * width, 2 * width, embedding, rngs=rngs)
        self.attention = Attention(2 * width, rngs=rngs)
        self.up = nnx.ConvTranspose(2 * width, width, (2, 2), strides=2, rngs=rngs)
        self.block3 = Residual(2 * width, width, embedding, rngs=rngs)
        self.norm = nnx.GroupNorm(width, num_groups=4, rngs=rngs)
        self.out = nnx.Conv(width, 3, (3, 3), rngs=rngs)

    def __call__(self, x, time):
        time = self.time2(nnx.silu(self.time1(time)))
        x = skip = self.block1(self.stem(x), time)
        x = self.attention(self.block2(self.down(x), time))
        x = self.block3(jnp.concatenate([self.up(x), skip], -1), time)
        return self.out(nnx.silu(self.norm(x)))


# A kernel is a matrix of channels at each place; the attention's head size is the width.
ANSWER = """
time1/kernel             in out*        1   5   1
time2/kernel             in* out*       5   5   1
time?/bias               out*           1   5   1
block?/time/kernel       in* out*       5   7   1
stem/kernel              - - in out*    1   7   1
attention/query/kernel   - - in* out*   7   7   7^-1/2
attention/query/bias     out*           1   7   7^-1/2
out/kernel               - - in* -      7   1   1
out/bias                 -              1   1   1
*/kernel                 - - in* out*   7   7   1
*/bias                   out*           1   7   1
*/scale                  out*           1   7   1
"""
CASES = {
    "": Case(
        UNet,
        ANSWER,
        base={"width": 8, "embedding": 16},
        target={"width": 56, "embedding": 80},
        inputs=(jnp.zeros((2, 8, 8, 3)), jnp.zeros((2, 8))),
    )
}
