"""Depthwise CNN in the style of MobileNet: batch normalization and squeeze-and-excitation."""

import jax.numpy as jnp
from flax import linen as nn

from zoo.case import Case


class Block(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x):
        def norm(name):
            return nn.BatchNorm(use_running_average=False, name=name)

        h = nn.relu(norm("norm1")(nn.Conv(self.hidden, (1, 1), use_bias=False, name="expand")(x)))
        depthwise = nn.Conv(
            self.hidden, (3, 3), feature_group_count=self.hidden, use_bias=False, name="depthwise"
        )
        h = nn.relu(norm("norm2")(depthwise(h)))
        pooled = h.mean((1, 2), keepdims=True)
        gate = nn.Dense(self.hidden, name="excite")(
            nn.relu(nn.Dense(self.hidden // 4, name="squeeze")(pooled))
        )
        h = h * nn.sigmoid(gate)
        return x + norm("norm3")(nn.Conv(x.shape[-1], (1, 1), use_bias=False, name="project")(h))


class Net(nn.Module):
    width: int
    hidden: int

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (3, 3), strides=2, name="stem")(x)
        for i in range(2):
            x = Block(self.hidden, name=f"block{i}")(x)
        x = nn.Conv(self.width, (3, 3), feature_group_count=2, name="grouped")(x)
        return nn.Dense(5, name="head")(nn.relu(x).mean((1, 2)))


# A depthwise kernel sums over places alone, so it is no matrix: no growing input axis. A grouped
# one sums over half of the channels at any width.
ANSWER = """
stem/kernel               - - in out*    1     7     1
stem/bias                 out*           1     7     1
block?/expand/kernel      - - in* out*   7     5     1
block?/depthwise/kernel   - - in out*    1     5     1
block?/squeeze/kernel     in* out*       5     5     1
block?/squeeze/bias       out*           1     5     1
block?/excite/kernel      in* out*       5     5     1
block?/excite/bias        out*           1     5     1
block?/project/kernel     - - in* out*   5     7     1
block?/norm[12]/*         out*           1     5     1
block?/norm3/*            out*           1     7     1
grouped/kernel            - - in* out*   7     7     1
grouped/bias              out*           1     7     1
head/kernel               in* -          7     1     1
head/bias                 -              1     1     1
"""
CASES = {
    "": Case(
        Net,
        ANSWER,
        base={"width": 8, "hidden": 16},
        target={"width": 56, "hidden": 80},
        inputs=jnp.zeros((2, 8, 8, 3)),
    )
}
