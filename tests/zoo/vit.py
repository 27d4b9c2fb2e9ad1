"""Vision transformer in the style of big_vision: learned positions, and a head that attends."""

import jax.numpy as jnp
from flax import linen as nn

from zoo.case import Case


class MLP(nn.Module):
    d_ff: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(x.shape[-1], name="down")(nn.gelu(nn.Dense(self.d_ff, name="up")(x)))


class Block(nn.Module):
    heads: int
    head_size: int
    d_ff: int

    @nn.compact
    def __call__(self, x):
        attention = nn.MultiHeadDotProductAttention(
            self.heads, qkv_features=self.heads * self.head_size, name="attention"
        )
        x = x + attention(nn.LayerNorm(name="norm1")(x))
        return x + MLP(self.d_ff, name="mlp")(nn.LayerNorm(name="norm2")(x))


class AttentionPool(nn.Module):
    """One learned query over all tokens."""

    heads: int
    head_size: int
    d_ff: int

    @nn.compact
    def __call__(self, x):
        batch, _, width = x.shape
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, width))
        probe = jnp.tile(probe, (batch, 1, 1))
        x = nn.MultiHeadDotProductAttention(
            self.heads, qkv_features=self.heads * self.head_size, name="attention"
        )(probe, x)
        x = x + MLP(self.d_ff, name="mlp")(nn.LayerNorm(name="norm")(x))
        return x[:, 0]


class ViT(nn.Module):
    width: int
    heads: int
    head_size: int
    d_ff: int

    @nn.compact
    def __call__(self, images):
        x = nn.Conv(self.width, (4, 4), strides=4, padding="VALID", name="stem")(images)
        x = x.reshape(x.shape[0], -1, self.width)
        x = x + self.param("positions", nn.initializers.normal(0.1), (1, *x.shape[1:]))
        for i in range(2):
            x = Block(self.heads, self.head_size, self.d_ff, name=f"block{i}")(x)
        x = nn.LayerNorm(name="norm")(x)
        x = AttentionPool(self.heads, self.head_size, self.d_ff, name="pool")(x)
        return nn.Dense(5, name="head")(x)


# Flax divides logits by √d: the queries, of which the bias is a part, carry (d0/d)^½. Of the pool
# the probe is upstream of the same queries.
ANSWER = """
stem/kernel                   - - in out*     1   7   1
stem/bias                     out*            1   7   1
positions                     - - out*        1   7   1
pool/probe                    - - out*        1   7   ?
pool/attention/query/kernel   in* out* out*   7   6   ?
*/query/kernel                in* out* out*   7   6   2^-1/2
*/query/bias                  out* out*       1   6   2^-1/2
*/key/kernel                  in* out* out*   7   6   1
*/key/bias                    out* out*       1   6   1
*/value/kernel                in* out* out*   7   6   1
*/value/bias                  out* out*       1   6   1
*/out/kernel                  in* in* out*    6   7   1
*/out/bias                    out*            1   7   1
*/up/kernel                   in* out*        7   5   1
*/up/bias                     out*            1   5   1
*/down/kernel                 in* out*        5   7   1
*/down/bias                   out*            1   7   1
*norm*/*                      out*            1   7   1
head/kernel                   in* -           7   1   1
head/bias                     -               1   1   1
"""
CASES = {
    "": Case(
        ViT,
        ANSWER,
        base={"width": 16, "heads": 2, "head_size": 4, "d_ff": 24},
        target={"width": 112, "heads": 6, "head_size": 8, "d_ff": 120},
        inputs=jnp.zeros((2, 8, 8, 3)),
        products={"pool/probe * pool/attention/query/kernel": "2^-1/2"},
    )
}
