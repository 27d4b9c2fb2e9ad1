"""Attention and stacks of Flax, Equinox and Haiku."""

import functools

import equinox as eqx
import haiku as hk
import jax
from flax import linen as nn
from flax import nnx

from zoo.small import FEATURES, LENGTH, TOKENS, VOCABULARY, attended, of


class Mha(nnx.Module):
    def __init__(self, n, h, d, normalize_qk=False, *, rngs):
        self.embed = nnx.Embed(VOCABULARY, n, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            h, n, h * d, decode=False, normalize_qk=normalize_qk, rngs=rngs
        )
        self.head = nnx.Linear(n, VOCABULARY, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        return self.head(x + self.attention(x))


class LinenMha(nn.Module):
    n: int
    h: int
    d: int
    tied: bool = False

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(VOCABULARY, self.n, name="embed")
        x = embed(tokens)
        layer = nn.MultiHeadDotProductAttention(
            self.h, qkv_features=self.h * self.d, name="attention"
        )
        x = x + layer(x, x)
        return (
            embed.attend(nn.LayerNorm(name="ln")(x)) if self.tied else nn.Dense(9, name="head")(x)
        )


class LinenScan(nn.Module):
    """Layers in a scan, each computed again for its gradient."""

    n: int
    h: int
    d: int
    f: int

    @nn.compact
    def __call__(self, tokens):
        class Block(nn.Module):
            h: int
            d: int
            f: int

            @nn.compact
            def __call__(self, x, _):
                h = nn.LayerNorm(name="ln1")(x)
                q, k, v = (nn.DenseGeneral((self.h, self.d), name=name)(h) for name in "qkv")
                y = attended(q, k, v, self.d**-0.5)
                x = x + nn.DenseGeneral(x.shape[-1], axis=(-2, -1), name="o")(y)
                h = nn.gelu(nn.Dense(self.f, name="up")(nn.LayerNorm(name="ln2")(x)))
                return x + nn.Dense(x.shape[-1], name="down")(h), None

        x = nn.Embed(VOCABULARY, self.n, name="embed")(tokens)
        x = x + self.param("positions", nn.initializers.normal(0.1), (LENGTH, self.n))
        stack = nn.scan(
            nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        x, _ = stack(self.h, self.d, self.f, name="blocks")(x, None)
        return nn.Dense(VOCABULARY, name="head")(nn.LayerNorm(name="ln")(x))


class LinenFlag(nn.Module):
    """A layer that is called with a flag."""

    n: int

    @nn.compact
    def __call__(self, tokens, train):
        x = nn.Embed(VOCABULARY, self.n, name="embed")(tokens)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        return nn.Dense(VOCABULARY, name="head")(nn.Dropout(0.1, deterministic=not train)(x))


class NnxStack(nnx.Module):
    """Layers that lie along axis 1 of their parameters."""

    def __init__(self, n, *, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(axis_size=3, in_axes=0, out_axes=nnx.StateAxes({nnx.Param: 1, ...: 0}))
        def layers(rngs):
            return nnx.Linear(n, n, rngs=rngs)

        self.embed = nnx.Embed(VOCABULARY, n, rngs=rngs)
        self.layers = layers(rngs)
        self.head = nnx.Linear(n, VOCABULARY, rngs=rngs)

    def __call__(self, tokens):
        @nnx.scan(in_axes=(nnx.StateAxes({nnx.Param: 1, ...: 0}), nnx.Carry), out_axes=nnx.Carry)
        def through(layer, x):
            return x + nnx.tanh(layer(x))

        return self.head(through(self.layers, self.embed(tokens)))


class EquinoxTransformer(eqx.Module):
    embed: eqx.nn.Embedding
    attention: eqx.nn.MultiheadAttention
    norm: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP
    head: eqx.nn.Linear

    def __init__(self, n, d, f, key):
        keys = jax.random.split(key, 4)
        self.embed = eqx.nn.Embedding(VOCABULARY, n, key=keys[0])
        self.attention = eqx.nn.MultiheadAttention(
            2, n, qk_size=d, vo_size=d, use_query_bias=True, key=keys[1]
        )
        self.norm = eqx.nn.LayerNorm(n)
        self.mlp = eqx.nn.MLP(n, n, f, 1, key=keys[2])
        self.head = eqx.nn.Linear(n, VOCABULARY, key=keys[3])

    def __call__(self, tokens):
        x = jax.vmap(self.embed)(tokens)
        h = jax.vmap(self.norm)(x)
        x = x + self.attention(h, h, h)
        x = x + jax.vmap(self.mlp)(x)
        return jax.vmap(self.head)(x)


def haiku_mlp(n, f, key):
    function = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([n, f, 3])(x)))
    return {"params": function.init(key, FEATURES), "apply": function.apply}


def mha(query, bias, out="attention/out", n="embed/embedding"):
    return f"""
    {n}                                    - out*          1   7   1
    attention/query/kernel                 in* out* out*   7   6   {query}
    attention/query/bias                   out* out*       1   6   {bias}
    attention/key/kernel                   in* out* out*   7   6   1
    attention/key/bias                     out* out*       1   6   1
    attention/value/kernel                 in* out* out*   7   6   1
    attention/value/bias                   out* out*       1   6   1
    {out}/kernel                           in* in* out*    6   7   1
    {out}/bias                             out*            1   7   1
    """


DENSE = "head/kernel   in* -   7   1   1\nhead/bias   -   1   1   1"
CASES = {
    "nnx.MultiHeadAttention": of(Mha, "nhd", mha("2^-1/2", "2^-1/2") + DENSE),
    "nnx.MultiHeadAttention, normalize_qk": of(
        functools.partial(Mha, normalize_qk=True),
        "nhd",
        mha("1", "1")
        + DENSE
        + """
        attention/query_ln/scale   out*   1   2   2^-1/2
        attention/key_ln/scale     out*   1   2   1
        """,
    ),
    "nn.MultiHeadDotProductAttention": of(LinenMha, "nhd", mha("2^-1/2", "2^-1/2") + DENSE),
    # The scale and the bias of the last norm carry what the tied logits are too large by.
    "nn.MultiHeadDotProductAttention, Embed.attend": of(
        functools.partial(LinenMha, tied=True),
        "nhd",
        mha("2^-1/2", "2^-1/2") + "ln/*   out*   1   7   7^-1",
    ),
    "nn.scan of nn.remat": of(
        LinenScan,
        "nhdf",
        """
        embed/embedding        - out*            1   7   1
        positions              - out*            1   7   1
        blocks/q/kernel        - in* out* out*   7   6   2^-1/2
        blocks/q/bias          - out* out*       1   6   2^-1/2
        blocks/[kv]/kernel     - in* out* out*   7   6   1
        blocks/[kv]/bias       - out* out*       1   6   1
        blocks/o/kernel        - in* in* out*    6   7   1
        blocks/o/bias          - out*            1   7   1
        blocks/up/kernel       - in* out*        7   5   1
        blocks/up/bias         - out*            1   5   1
        blocks/down/kernel     - in* out*        5   7   1
        blocks/down/bias       - out*            1   7   1
        blocks/ln?/*           - out*            1   7   1
        ln/*                   out*              1   7   1
        """
        + DENSE,
    ),
    "nn.Dropout, called for training": of(
        LinenFlag,
        "n",
        """
        embed/embedding   - out*   1   7   1
        norm/*            out*     1   7   1
        """
        + DENSE,
        inputs=(TOKENS, True),
    ),
    "nn.Dropout, called for evaluation": of(
        LinenFlag,
        "n",
        """
        embed/embedding   - out*   1   7   1
        norm/*            out*     1   7   1
        """
        + DENSE,
        inputs=(TOKENS, False),
    ),
    "nnx.scan along axis 1": of(
        NnxStack,
        "n",
        """
        embed/embedding   - out*       1   7   1
        layers/kernel     in* - out*   7   7   1
        layers/bias       out* -       1   7   1
        """
        + DENSE,
    ),
    "eqx.nn.MLP": of(
        lambda n, key: eqx.nn.MLP(5, 3, n, 2, key=key),
        "n",
        """
        layers/0/weight   out* in    1   7   1
        layers/1/weight   out* in*   7   7   1
        layers/2/weight   - in*      7   1   1
        layers/2/bias     -          1   1   1
        layers/?/bias     out*       1   7   1
        """,
        inputs=FEATURES,
        apply=lambda model, x: jax.vmap(model)(x),
    ),
    # Queries have a bias and keys have none, so the keys carry it with one tensor less.
    "eqx.nn.MultiheadAttention": of(
        EquinoxTransformer,
        "ndf",
        """
        embed/weight                    - out*      1   7   1
        attention/query_proj/weight     out* in*    7   2   ?
        attention/query_proj/bias       out*        1   2   ?
        attention/key_proj/weight       out* in*    7   2   ?
        attention/value_proj/weight     out* in*    7   2   1
        attention/output_proj/weight    out* in*    2   7   1
        norm/*                          out*        1   7   1
        mlp/layers/0/weight             out* in*    7   5   1
        mlp/layers/0/bias               out*        1   5   1
        mlp/layers/1/weight             out* in*    5   7   1
        mlp/layers/1/bias               out*        1   7   1
        head/weight                     - in*       7   1   1
        head/bias                       -           1   1   1
        """,
        apply=lambda model, x: jax.vmap(model)(x),
        products={
            "attention/query_proj/weight * attention/key_proj/weight": "2^-1/2",
            "attention/query_proj/bias * attention/key_proj/weight": "2^-1/2",
        },
    ),
    "hk.nets.MLP": of(
        haiku_mlp,
        "nf",
        """
        */linear_0/w   in out*    1   7   1
        */linear_0/b   out*       1   7   1
        */linear_1/w   in* out*   7   5   1
        */linear_1/b   out*       1   5   1
        */linear_2/w   in* -      5   1   1
        */linear_2/b   -          1   1   1
        """,
        inputs=FEATURES,
        apply=lambda model, x: model["apply"](model["params"], x),
    ),
}
