"""Small models as plain functions of their parameters, written as people write them."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

TOKENS = jax.ShapeDtypeStruct((2, 6), jnp.int32)
WORDS = 50


class Program(NamedTuple):
    """A model: function of a size to its parameters' shapes, how to call it, and with what."""

    shapes: Callable[..., dict[str, tuple[int, ...]]]
    apply: Callable[..., Any]
    inputs: Any = TOKENS

    def make_model(self, **size: int) -> dict[str, Any]:
        return {name: jnp.zeros(shape) for name, shape in self.shapes(**size).items()}


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def integers(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def rms_norm(x, gain):
    x32 = x.astype(jnp.float32)
    return x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + 1e-6) * gain


def rotated(x):
    length, size = x.shape[1], x.shape[-1]
    angles = jnp.arange(length)[:, None] / 10000 ** (jnp.arange(0, size, 2) / size)
    cos, sin = jnp.cos(angles)[None, :, None], jnp.sin(angles)[None, :, None]
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def decoder(
    scale: str = "1/√d",
    *,
    tied: bool = False,
    embed_scale: bool = False,
    qk_norm: bool = False,
    one_plus: bool = False,
    softcap: bool = False,
    bias: bool = False,
    value_head: bool = False,
) -> Program:
    """A decoder with grouped queries, rotary embeddings, RMS norms and SwiGLU."""
    scales = {
        "1/√d": lambda d: 1 / math.sqrt(d),
        "d**-0.5": lambda d: d**-0.5,
        "1/d": lambda d: 1 / d,
        "fixed": lambda d: 0.1,
        "traced": lambda d: jax.lax.rsqrt(jnp.float32(d)),
    }

    def shapes(heads: int, size: int, inner: int) -> dict[str, tuple[int, ...]]:
        width = heads * size
        found = {"embed": (WORDS, width), "norm": (width,)}
        for layer in ("0", "1"):
            found |= {
                layer + "norm1": (width,),
                layer + "norm2": (width,),
                layer + "q": (width, heads, size),
                layer + "k": (width, heads // 2, size),
                layer + "v": (width, heads // 2, size),
                layer + "o": (heads, size, width),
                layer + "gate": (width, inner),
                layer + "up": (width, inner),
                layer + "down": (inner, width),
            }
            if qk_norm:
                found |= {layer + "q_norm": (size,), layer + "k_norm": (size,)}
            if bias:
                found |= {layer + "q_bias": (heads, size), layer + "k_bias": (heads // 2, size)}
        if value_head:
            found["value"] = (width, 1)
        return found if tied else found | {"head": (width, WORDS)}

    def apply(params, tokens):
        def norm(x, name):
            gain = params[name]
            return rms_norm(x, 1 + gain if one_plus else gain)

        x = params["embed"][tokens]
        if embed_scale:
            x = x * jnp.sqrt(x.shape[-1]).astype(x.dtype)
        for layer in ("0", "1"):
            own = {n[1:]: value for n, value in params.items() if n.startswith(layer)}
            y = norm(x, layer + "norm1")
            q, k, v = (jnp.einsum("btm,mhd->bthd", y, own[name]) for name in "qkv")
            if bias:
                q, k = q + own["q_bias"], k + own["k_bias"]
            if qk_norm:
                q, k = norm(q, layer + "q_norm"), norm(k, layer + "k_norm")
            q, k = rotated(q), rotated(k)
            q = q.reshape(*q.shape[:2], k.shape[2], 2, -1)
            logits = jnp.einsum("btkgd,bskd->bkgts", q, k) * scales[scale](q.shape[-1])
            if softcap:
                logits = 50 * jnp.tanh(logits / 50)
            mask = jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool))
            weights = jax.nn.softmax(jnp.where(mask, logits, -1e9))
            mixed = jnp.einsum("bkgts,bskd->btkgd", weights, v)
            mixed = mixed.reshape(*mixed.shape[:2], -1, mixed.shape[-1])
            x = x + jnp.einsum("bthd,hdm->btm", mixed, own["o"])
            y = norm(x, layer + "norm2")
            x = x + (jax.nn.silu(y @ own["gate"]) * (y @ own["up"])) @ own["down"]
        x = norm(x, "norm")
        logits = x @ params["embed"].T if tied else x @ params["head"]
        return (logits, x @ params["value"]) if value_head else logits

    return Program(shapes, apply)


def packed(layers: int, norm: bool) -> Program:
    """Attention with one kernel for queries, keys and values."""

    def shapes(heads: int, size: int) -> dict[str, tuple[int, ...]]:
        width = heads * size
        found: dict[str, tuple[int, ...]] = {"embed": (WORDS, width), "head": (width, WORDS)}
        for layer in range(layers):
            found |= {f"{layer}/qkv": (width, 3 * width), f"{layer}/o": (width, width)}
            found |= {f"{layer}/heads": (heads,)}
            found |= {f"{layer}/norm": (width,)} if norm else {}
        return found

    def apply(params, tokens):
        x = params["embed"][tokens]
        for layer in range(layers):
            y = rms_norm(x, params[f"{layer}/norm"]) if norm else x
            gain = params[f"{layer}/heads"]
            parts = jnp.split(y @ params[f"{layer}/qkv"], 3, -1)
            q, k, v = (part.reshape(*part.shape[:2], gain.shape[0], -1) for part in parts)
            mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
            mixed = mixed * gain[:, None]
            x = x + mixed.reshape(x.shape) @ params[f"{layer}/o"]
        return x @ params["head"]

    return Program(shapes, apply)


def mamba(scan: bool) -> Program:
    """A selective state space layer."""

    def shapes(width: int) -> dict[str, tuple[int, ...]]:
        inner, state, rank = 2 * width, 4, width // 4
        return {
            "embed": (WORDS, width),
            "in_proj": (width, 2 * inner),
            "conv": (3, inner),
            "conv_bias": (inner,),
            "b_c_proj": (inner, 2 * state),
            "dt_down": (inner, rank),
            "dt_up": (rank, inner),
            "dt_bias": (inner,),
            "A_log": (inner, state),
            "D": (inner,),
            "out_proj": (inner, width),
            "norm": (width,),
            "head": (width, WORDS),
        }

    def apply(params, tokens):
        h = params["embed"][tokens]
        x, z = jnp.split(rms_norm(h, params["norm"]) @ params["in_proj"], 2, -1)
        padded = jnp.pad(x, ((0, 0), (2, 0), (0, 0)))
        taps = [padded[:, i : i + x.shape[1]] * params["conv"][i] for i in range(3)]
        x = jax.nn.silu(sum(taps) + params["conv_bias"])
        b, c = jnp.split(x @ params["b_c_proj"], 2, -1)
        dt = jax.nn.softplus(x @ params["dt_down"] @ params["dt_up"] + params["dt_bias"])
        decay = jnp.exp(dt[..., None] * -jnp.exp(params["A_log"]))
        drive = dt[..., None] * b[:, :, None] * x[..., None]
        if scan:

            def step(state, now):
                state = now[0] * state + now[1]
                return state, state

            first = (decay.swapaxes(0, 1), drive.swapaxes(0, 1))
            _, states = jax.lax.scan(step, jnp.zeros_like(decay[:, 0]), first)
            states = states.swapaxes(0, 1)
        else:
            join = lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1])  # noqa: E731
            _, states = jax.lax.associative_scan(join, (decay, drive), axis=1)
        y = jnp.einsum("btdn,btn->btd", states, c) + params["D"] * x
        return (h + (y * jax.nn.silu(z)) @ params["out_proj"]) @ params["head"]

    return Program(shapes, apply)


def experts(ragged: bool) -> Program:
    """A mixture of experts, all computed and mixed, or tokens sorted by expert."""

    def shapes(width: int, inner: int) -> dict[str, tuple[int, ...]]:
        return {
            "embed": (WORDS, width),
            "router": (width, 4),
            "w_in": (4, width, inner),
            "b_in": (4, inner),
            "w_out": (4, inner, width),
            "head": (width, WORDS),
        }

    def apply(params, tokens):
        x = params["embed"][tokens].reshape(12, -1)
        gates = jax.nn.softmax(x @ params["router"])
        gate, chosen = jax.lax.top_k(gates, 1 if ragged else 2)
        if ragged:
            order, sizes = jnp.argsort(chosen[:, 0]), jnp.bincount(chosen[:, 0], length=4)
            y = jax.lax.ragged_dot(x[order], params["w_in"], sizes)
            y = jax.nn.relu(y + params["b_in"][chosen[order, 0]])
            y = jax.lax.ragged_dot(y, params["w_out"], sizes)
            return (x + jnp.zeros_like(x).at[order].add(y) * gate) @ params["head"]
        gate = gate / gate.sum(-1, keepdims=True)
        combine = jnp.einsum("tk,tke->te", gate, jax.nn.one_hot(chosen, 4))
        y = jnp.einsum("td,edf->etf", x, params["w_in"]) + params["b_in"][:, None]
        y = jnp.einsum("etf,efd->etd", jax.nn.gelu(y), params["w_out"])
        return (x + jnp.einsum("te,etd->td", combine, y)) @ params["head"]

    return Program(shapes, apply)


def clip(normalized: bool) -> Program:
    """Images against texts."""

    def shapes(width: int, joint: int) -> dict[str, tuple[int, ...]]:
        return {
            "image": (12, width),
            "image_proj": (width, joint),
            "text": (WORDS, width),
            "text_proj": (width, joint),
            "temperature": (),
        }

    def apply(params, images, tokens):
        i = jax.nn.relu(images @ params["image"]) @ params["image_proj"]
        t = params["text"][tokens].mean(1) @ params["text_proj"]
        if normalized:
            i, t = (x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-6) for x in (i, t))
        return jax.nn.log_softmax(jnp.exp(params["temperature"]) * i @ t.T)

    return Program(shapes, apply, (floats(2, 12), TOKENS))


def lstm() -> Program:
    """A recurrence."""

    def shapes(width: int) -> dict[str, tuple[int, ...]]:
        return {
            "x": (7, 4 * width),
            "h": (width, 4 * width),
            "bias": (4 * width,),
            "head": (width, 3),
        }

    def apply(params, x):
        def step(carry, now):
            h, c = carry
            gates = now @ params["x"] + h @ params["h"] + params["bias"]
            i, f, g, o = jnp.split(gates, 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), None

        zero = jnp.zeros((x.shape[0], params["h"].shape[0]))
        (h, _), _ = jax.lax.scan(step, (zero, zero), x.swapaxes(0, 1))
        return h @ params["head"]

    return Program(shapes, apply, floats(2, 6, 7))


def network(
    function: Callable[[dict[str, Any], Any], Any],
    shapes: Callable[[int], dict[str, tuple[int, ...]]],
    *inputs: Any,
    first: bool = True,
) -> Program:
    """A function of hidden features, between a first layer and a readout."""

    def every(width: int) -> dict[str, tuple[int, ...]]:
        return {"first": (7, width), **shapes(width), "head": (width, 3)}

    def apply(params, x, *more):
        h = jnp.tanh(x @ params["first"])
        return function(params, h, *more) @ params["head"]

    return Program(every, apply, (floats(5, 7), *inputs))


def of_tokens(function: Callable[..., Any], **shapes: Callable[[int], tuple[int, ...]]) -> Program:
    """A function of tokens."""
    return Program(lambda width: {name: of(width) for name, of in shapes.items()}, function)


def merged_experts(params, h):
    weights = jnp.einsum("be,eij->bij", jax.nn.softmax(h[:, :4]), params["w"])
    return jnp.einsum("bi,bij->bj", h, weights)


def hypernetwork(params, h):
    matrix = (h @ params["w"]).reshape(*h.shape, -1)
    return jnp.einsum("bi,bij->bj", h, matrix)


def block_diagonal(params, h):
    blocks = h.reshape(h.shape[0], -1, 8)
    y = jnp.einsum("bhd,hde->bhe", blocks, params["w"]) + params["bias"]
    return jnp.tanh(y).reshape(h.shape)


def routed(params, h):
    """Blocks that are averaged: each is an expert of its own."""
    blocks = h.reshape(h.shape[0], -1, 8)
    y = jnp.tanh(jnp.einsum("bhd,hde->bhe", blocks, params["w"]) + params["bias"])
    return h + y.mean(1) @ params["out"]


def drop_connect(params, h, key):
    kept = jax.random.bernoulli(key, 0.5, params["w"].shape)
    norm = jnp.linalg.norm(params["w"], axis=0)
    return jnp.tanh(h @ (jnp.where(kept, params["w"], 0) / norm) * params["gain"])


def looked_up(params, h, expert):
    return jnp.tanh(jnp.einsum("bi,bij->bj", h, params["w"][expert]))


def graph(params, h, senders, receivers):
    messages = jnp.tanh(h[senders] @ params["w"])
    return h + jax.ops.segment_sum(messages, receivers, h.shape[0])


def standardized(params, h):
    w = params["w"]
    w = (w - w.mean(0)) / jnp.sqrt(w.var(0) + 1e-6) / jnp.sqrt(w.shape[0])
    return jnp.tanh(h @ w)


def low_rank(params, h):
    h = jnp.tanh(h @ (params["w"] + params["a"] @ params["b"]))
    latents = params["latent"] @ params["q"]
    weights = jax.nn.softmax(latents @ (h @ params["k"]).T / latents.shape[-1])
    return (weights @ h).mean(0, keepdims=True)


def linear_attention(params, h):
    q, k, v = (jnp.einsum("ti,ihd->thd", h, params[name]) for name in "qkv")
    q, k = jax.nn.softmax(q, -1), jax.nn.softmax(k, 0)
    state = jnp.einsum("thd,the->hde", k, v)
    return jnp.einsum("thd,hdm->tm", jnp.einsum("thd,hde->the", q, state), params["o"])


def stacked_on_axis_1(params, h):
    layers = jnp.moveaxis(params["w"], 1, 0)
    h, _ = jax.lax.scan(lambda h, w: (h + jnp.tanh(h @ w), None), h, layers)
    return jax.lax.fori_loop(0, 3, lambda i, h: h + jnp.tanh(h @ layers[i]), h)


def members(params, h):
    one = lambda w, b: jnp.tanh(h @ w) * b  # noqa: E731
    return jax.vmap(one, (2, 0))(params["w"], params["b"]).mean(0)


def convolved(params, h):
    x = h[:, None, None]
    numbers = ("NHWC", "HWIO", "NHWC")
    pairs = (("depthwise", h.shape[-1]), ("grouped", 4))
    for name, groups in pairs:
        x = jax.nn.relu(
            jax.lax.conv_general_dilated(
                x,
                params[name],
                (1, 1),
                "SAME",
                dimension_numbers=numbers,
                feature_group_count=groups,
            )
        )
    return x[:, 0, 0]


def uneven_parts(params, h):
    width = h.shape[-1]
    a, b, _ = jnp.split(h @ params["w"], [width, width + 4], -1)
    return a * b.mean(-1, keepdims=True)


def python_loop(params, h):
    return jnp.stack([h[:, i] for i in range(h.shape[-1])], -1) * params["gain"]


def quantized(params, h):
    """Weights of three values, as of BitNet."""
    w = params["w"]
    scale = jnp.abs(w).mean() + 1e-6
    return jnp.tanh(h @ (jnp.clip(jnp.round(w / scale), -1, 1) * scale))


def adapted_queries(params, h):
    """Attention whose query kernel has an adapter of low rank."""
    q = h @ (params["a"] @ params["b"] + params["q"])
    k = h @ params["k"]
    return jax.nn.softmax(q @ k.T / jnp.sqrt(q.shape[-1])) @ h


def linear_loop(params, h):
    step = lambda h, _: (h @ params["w"] / jnp.sqrt(h.shape[-1]), None)  # noqa: E731
    return jax.lax.scan(step, h, length=3)[0]


def running_sum(params, h):
    """A norm undoes what all that is summed up has in common."""

    def step(total, now):
        return total + now * jnp.sqrt(now.shape[-1]), total

    total, _ = jax.lax.scan(step, jnp.zeros_like(h[0]), h)
    return rms_norm(total, params["gain"])[None]


def multi_query(params, h):
    """Many heads of queries, one of keys and values."""
    q = jnp.einsum("tm,mhd->thd", h, params["q"])
    k, v = h @ params["k"], h @ params["v"]
    weights = jax.nn.softmax(jnp.einsum("thd,sd->hts", q, k) / k.shape[-1])
    return jnp.einsum("hts,sd->thd", weights, v).reshape(h.shape[0], -1) @ params["o"]
