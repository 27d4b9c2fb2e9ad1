"""The stacks of a model: its loops that run over stacked parameters."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmup import _check
from jaxmup._check import listed
from jaxmup._program import (
    Atom,
    ClosedJaxpr,
    Literal,
    Loop,
    Var,
    as_function,
    aval_of,
    inlined,
    is_checkpoint,
    is_scan,
    number_of_uses,
)

Block = Callable[..., list[Any]]  # (*constants, *carry, *per-layer inputs) to (*carry, *outputs)


class StackedBlocks(NamedTuple):
    """A loop whose scanned inputs are in part parameters that it alone uses.

    Args:
      loop: The loop.
      parameters: Position in the parameters of each such input, by its position in `loop.scanned`.
      casts: Dtype that the loop sees such an input in, for those that are cast before the loop.
    """

    loop: Loop
    parameters: Mapping[int, int]
    casts: Mapping[int, Any]

    def block(self, change: Callable[[ClosedJaxpr], Block]) -> Callable[..., tuple[Any, Any]]:
        """One layer, `(constants, carry, parameters, others)` to `(carry, outputs)`, all lists."""
        body, carried = change(self.loop.body), self.loop.carry

        def run(
            constants: list[Any], carry: list[Any], layer: list[Array], others: list[Any]
        ) -> tuple[list[Any], list[Any]]:
            slices, rest = dict(zip(self.parameters, layer, strict=True)), iter(others)
            # Cast here, one layer at a time, the stack is never there in both dtypes.
            slices = {i: w.astype(self.casts.get(i, w.dtype)) for i, w in slices.items()}
            inputs = [slices[i] if i in slices else next(rest) for i in self._positions]
            results = body(*constants, *carry, *inputs)
            return results[:carried], results[carried:]

        return run

    @property
    def others(self) -> list[Atom]:
        """The scanned inputs that are no such parameters."""
        return [x for i, x in enumerate(self.loop.scanned) if i not in self.parameters]

    @property
    def _positions(self) -> range:
        return range(len(self.loop.scanned))


def as_written(body: ClosedJaxpr) -> Block:
    """The block as the model has it."""
    return as_function(body)


def stored(body: ClosedJaxpr) -> Block:
    """The block without any `jax.checkpoint` around what it does."""
    return as_function(inlined(body, is_checkpoint))


def rematerialized(body: ClosedJaxpr) -> Block:
    """The block inside one `jax.checkpoint` that stores nothing but its inputs."""
    # Forward and backward are loops of their own, whose equal parts XLA cannot unite; so nothing
    # has to keep it from doing so, which would cost time.
    return jax.checkpoint(stored(body), prevent_cse=False)  # type: ignore[return-value]


def find_stacks(program: ClosedJaxpr, names: Sequence[str]) -> list[StackedBlocks]:
    """The stacks of a traced loss whose inputs are parameters of these names.

    A parameter that is also used elsewhere is left out, with a warning: when the loop runs back,
    its gradient has not got the other part yet.

    Raises:
      ValueError: if no loop runs over a parameter.
    """
    position = {v: i for i, v in enumerate(program.jaxpr.invars)}
    casts = _casts(program, position)
    uses = number_of_uses(program)
    stacks, shared = [], []
    for loop in (Loop.of(eqn) for eqn in program.jaxpr.eqns if is_scan(eqn)):
        parameters, dtypes = {}, {}
        for i, atom in enumerate(loop.scanned):
            source = casts.get(atom, atom) if isinstance(atom, Var) else atom
            if isinstance(source, Literal) or source not in position:
                continue
            # A cast that only the loop reads counts as the loop's own use of the parameter.
            if uses[source] > 1 or uses[atom] > 1:
                shared.append(position[source])
                continue
            if not jnp.issubdtype(_dtype(source), jnp.floating):
                continue
            parameters[i] = position[source]
            if source is not atom:
                dtypes[i] = _dtype(atom)
        if parameters:
            stacks.append(StackedBlocks(loop, parameters, dtypes))
    shapes = [
        f"{name} {aval_of(v).shape}" for name, v in zip(names, program.jaxpr.invars, strict=True)
    ]
    _require_stacks(stacks, [shapes[i] for i in dict.fromkeys(shared)], shapes)
    return stacks


def _dtype(atom: Atom) -> np.dtype:
    return aval_of(atom).dtype


def _casts(program: ClosedJaxpr, position: Mapping[Var, int]) -> dict[Var, Var]:
    """The parameter behind each variable that is nothing but a parameter in another dtype."""
    return {
        eqn.outvars[0]: eqn.invars[0]
        for eqn in program.jaxpr.eqns
        if eqn.primitive.name == "convert_element_type"
        and not isinstance(eqn.invars[0], Literal)
        and eqn.invars[0] in position
    }


def _require_stacks(stacks: Sequence[StackedBlocks], shared: list[str], shapes: list[str]) -> None:
    if not stacks and not shared:
        raise ValueError(
            "The loss must run a block over stacked parameters: a `jax.lax.scan` (or `nnx.scan`, "
            "`nn.scan`, `jaxmup.nnx.Stack`) whose scanned inputs are parameters with a leading "
            f"axis of layers. Got none. The parameters are{listed(shapes)}\n"
            "Stack the parameters of equal blocks and scan over them. An unrolled model needs "
            "nothing: XLA applies each update as its gradient appears, which "
            "`jaxmup.fused.live_gradients` shows."
        )
    if not stacks:
        raise ValueError(_SHARED.format(listed(shared)))
    if shared:
        _check.warn(_SHARED.format(listed(shared)))


_SHARED = (
    "Stacked parameters must be used by one loop alone, once: a gradient that has other parts is "
    "not finished when the loop runs back. These are used elsewhere too, and their whole gradient "
    "is held:{}\nMove the other use into the block. A penalty on weights belongs into the "
    "optimizer, as weight decay."
)
