"""Graph network in Haiku: messages along edges, summed by `segment_sum`."""

import haiku as hk
import jax
import jax.numpy as jnp

from zoo.case import Case

NODES, EDGES = 5, 8


def network(nodes, edges, senders, receivers, *, width, d_ff):
    nodes = hk.Linear(width, name="nodes")(nodes)
    edges = hk.Linear(width, name="edges")(edges)
    for i in range(2):
        seen = jnp.concatenate([edges, nodes[senders], nodes[receivers]], -1)
        edges = hk.nets.MLP([d_ff, width], name=f"message{i}")(seen)
        received = jax.ops.segment_sum(edges, receivers, NODES)
        update = hk.nets.MLP([d_ff, width], name=f"update{i}")(
            jnp.concatenate([nodes, received], -1)
        )
        nodes = hk.LayerNorm(-1, True, True, name=f"norm{i}")(nodes + update)
    return hk.Linear(3, name="head")(nodes.sum(0))


INPUTS = (
    jnp.zeros((NODES, 4)),
    jnp.zeros((EDGES, 2)),
    jnp.zeros(EDGES, jnp.int32),
    jnp.zeros(EDGES, jnp.int32),
)


def make_model(width, d_ff, key):
    """Haiku's function, which knows the sizes, beside its parameters."""
    function = hk.without_apply_rng(
        hk.transform(lambda *inputs: network(*inputs, width=width, d_ff=d_ff))
    )
    return {"params": function.init(key, *INPUTS), "apply": function.apply}


# Edges and both of their ends are beside each other on one axis, which all grows as the width.
ANSWER = """
params/nodes/w                 in out*     1   7   1
params/edges/w                 in out*     1   7   1
params/nodes/b                 out*        1   7   1
params/edges/b                 out*        1   7   1
params/*/~/linear_0/w          in* out*    7   5   1
params/*/~/linear_0/b          out*        1   5   1
params/*/~/linear_1/w          in* out*    5   7   1
params/*/~/linear_1/b          out*        1   7   1
params/norm?/*                 out*        1   7   1
params/head/w                  in* -       7   1   1
params/head/b                  -           1   1   1
"""
CASES = {
    "": Case(
        make_model,
        ANSWER,
        base={"width": 16, "d_ff": 24},
        target={"width": 112, "d_ff": 120},
        inputs=INPUTS,
        apply=lambda model, *inputs: model["apply"](model["params"], *inputs),
    )
}
