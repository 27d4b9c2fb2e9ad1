"""Two towers whose outputs meet on the unit sphere, with a learned temperature."""

import functools

import jax
import jax.numpy as jnp

from zoo.case import Case

VOCABULARY, LENGTH, BATCH = 11, 6, 3


def make_model(image, text, joint, key):
    def normal(i, *shape):
        return jax.random.normal(jax.random.fold_in(key, i), shape)

    towers = {
        "image": {"in": normal(0, 12, image), "mid": normal(1, image, image)},
        "text": {"embed": normal(2, VOCABULARY, text), "mid": normal(3, text, text)},
        "temperature": jnp.zeros(()),
    }
    towers["image"]["out"] = normal(4, image, joint)
    towers["text"]["out"] = normal(5, text, joint)
    return towers


def apply(params, images, tokens, on_sphere=True):
    x = jax.nn.relu(jax.nn.relu(images @ params["image"]["in"]) @ params["image"]["mid"])
    y = jax.nn.relu(params["text"]["embed"][tokens].mean(1) @ params["text"]["mid"])
    x, y = x @ params["image"]["out"], y @ params["text"]["out"]
    if on_sphere:
        x, y = (a / jnp.linalg.norm(a, axis=-1, keepdims=True) for a in (x, y))
    return jax.nn.log_softmax(jnp.exp(params["temperature"]) * x @ y.T)


# Of length one, both have coordinates n^-½, so that their product is of order 0.
ANSWER = """
image/in      in out*    1   7   {gain}
image/mid     in* out*   7   7   {gain}
image/out     in* out*   7   3   {gain}
text/embed    - out*     1   5   {gain}
text/mid      in* out*   5   5   {gain}
text/out      in* out*   5   3   {gain}
temperature   ()         1   1   1
"""
TOWERS = ("image/in", "image/mid", "image/out", "text/embed", "text/mid", "text/out")
SIZES = {
    "base": {"image": 16, "text": 24, "joint": 8},
    "target": {"image": 112, "text": 120, "joint": 24},
    "inputs": (jnp.zeros((BATCH, 12)), jnp.zeros((BATCH, LENGTH), jnp.int32)),
}
CASES = {
    "": Case(make_model, ANSWER.format(gain=1), apply=apply, **SIZES),
    # Off the sphere it is a sum of as many terms as there are joint features. ReLUs let a factor
    # through, so any tensor of either tower can carry it.
    "off the sphere": Case(
        make_model,
        ANSWER.format(gain="?"),
        apply=functools.partial(apply, on_sphere=False),
        products={" * ".join(TOWERS): "3^-1"},
        **SIZES,
    ),
}
