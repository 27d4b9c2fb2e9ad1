"""An optax transform as a program, and the parts of it that update one stack, or all the rest.

The whole update is traced once, with stacks of a single layer. Without dead code, what is left for
some of its outputs shows what they need: an update that needs another parameter's gradient, which
is gone by then, is refused. Traced again with two layers, it shows whether it keeps them apart.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import optax
from jax import Array

from jaxmup._check import listed
from jaxmup._program import (
    ClosedJaxpr,
    Equation,
    as_function,
    aval_of,
    inlined,
    is_plain_call,
    part,
    signature,
    split,
    trace,
)
from jaxmup._tree import Gradients, OptState, Params, leaves_by_path
from jaxmup.fused._apart import MixesLayersError, Where, axes_of_layers
from jaxmup.fused._rows import for_rows, rows_of


class Optimized(NamedTuple):
    """The trees that an optimizer updates, and which of the parameters are stacked.

    Args:
      tx: The optimizer.
      params: Tree of parameters, or of their shapes and dtypes.
      state: Tree of the optimizer's state, or of its shapes and dtypes.
      stacks: Positions of the parameters of each stack among the leaves.
    """

    tx: optax.GradientTransformation
    params: Params
    state: OptState
    stacks: Sequence[Sequence[int]]

    @property
    def names(self) -> list[str]:
        """The paths of parameters, then of the state."""
        return [*leaves_by_path(self.params), *(f"state {x}" for x in leaves_by_path(self.state))]

    def with_length(self, length: int) -> Params:
        """The types of the parameters if stacks had this many layers."""
        leaves, structure = jax.tree.flatten(self.params)
        stacked = {i for stack in self.stacks for i in stack}
        shapes = [(length, *x.shape[1:]) if i in stacked else x.shape for i, x in enumerate(leaves)]
        types = [jax.ShapeDtypeStruct(s, x.dtype) for s, x in zip(shapes, leaves, strict=True)]
        return jax.tree.unflatten(structure, types)


class Share(NamedTuple):
    """The update of some parameters and of the state that is theirs.

    Args:
      params: Positions of the parameters.
      state: Positions of the leaves of the state.
      program: Program that makes the new parameters, then the new state.
      used: Keys of its inputs, as in `Update`.
    """

    params: list[int]
    state: list[int]
    program: ClosedJaxpr
    used: list[int]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first array that it makes."""
        return self.program.out_avals[0].shape  # type: ignore[union-attr]


class Part(NamedTuple):
    """A share, apart from the numbers that it needs and that are the same for all layers.

    The numbers are computed once, outside of the loop, as the plain step computes them for all
    parameters. Inside, XLA would see such a number computed for one parameter alone, as Adam's
    corrections for the first steps are, and multiply by its inverse where the plain step divides.

    Args:
      share: The share; its program takes the numbers after what it uses.
      numbers: Program that makes the numbers.
      shared: Keys of the inputs of `numbers`.
    """

    share: Share
    numbers: ClosedJaxpr
    shared: list[int]


class LayerUpdate(NamedTuple):
    """The update of one layer of a stack, with a leading axis of length 1.

    Args:
      by_rows: Parts that act on each number by itself; their programs are for some rows.
      whole: Part of all else.
    """

    by_rows: list[Part]
    whole: Part

    @property
    def shares(self) -> list[Share]:
        """All shares."""
        return [part.share for part in (*self.by_rows, self.whole)]


class Update(NamedTuple):
    """The update of all parameters and of the state, in parts that need nothing of each other.

    Arrays have keys: those of the gradients come first, then those of the leaves of the state, then
    those of the parameters.

    Args:
      num_params: Number of parameters.
      num_state: Number of leaves of the state.
      stacks: Update of a layer of each stack.
      rest: Update of all else, among it state that is no parameter's own, such as a count.
    """

    num_params: int
    num_state: int
    stacks: list[LayerUpdate]
    rest: Share

    def key(self, param: int) -> int:
        """The key of a parameter."""
        return self.num_params + self.num_state + param

    def keys(self, share: Share) -> list[int]:
        """The keys of the arrays that a share makes, in order."""
        return [*map(self.key, share.params), *(self.num_params + k for k in share.state)]

    @property
    def shared(self) -> set[int]:
        """The keys of the state that all layers share."""
        return {self.num_params + k for k in self.rest.state}

    def run(
        self, share: Share, arrays: Mapping[int, Array], numbers: Sequence[Array] = ()
    ) -> dict[int, Array]:
        """The new values of a share's own arrays.

        Args:
          share: The share.
          arrays: Everything that it uses, by key.
          numbers: Numbers that all layers share; see `Part`.
        """
        results = as_function(share.program)(*(arrays[key] for key in share.used), *numbers)
        return dict(zip(self.keys(share), results, strict=True))


def divide(model: Optimized, size: int) -> Update:
    """Divides the update of a model among its stacks and the rest.

    Args:
      model: Parameters and state, and which are stacked.
      size: Largest number of elements of a parameter to update at a time, where each is updated
        from what is its own; 0 for whole layers.

    Raises:
      ValueError: if the state is not that of the transform, a leaf of it is laid out in a way that
        is not known, the update of a stack needs what belongs to others, or it mixes the layers of
        a stack.
    """
    layered = _layered_state(model)
    program = _program(model, 1)
    P, K = len(jax.tree.leaves(model.params)), len(jax.tree.leaves(model.state))
    owners = _owners(model, program, layered, P)
    shares, taken = [], set()
    for s, params in enumerate(model.stacks):
        state = [k for k in layered if owners[k] == s]
        taken |= {*params, *(P + k for k in state)}
        shares.append(_share(program, list(params), state, P))
    rest = _share(
        program,
        [j for j in range(P) if j not in taken],
        [k for k in range(K) if P + k not in taken],
        P,
    )
    update = Update(P, K, [], rest)
    _require_independent(model, update, shares)
    _require_layers_apart(model, update, shares)
    return update._replace(stacks=[_divided(update, program, share, size) for share in shares])


def _share(program: ClosedJaxpr, params: list[int], state: list[int], P: int) -> Share:
    return Share(params, state, *part(program, [*params, *(P + k for k in state)]))


def _divided(update: Update, program: ClosedJaxpr, share: Share, size: int) -> LayerUpdate:
    """The update of a layer, with what can be done to some rows at a time apart."""
    P = update.num_params
    found, params, state = [], list(share.params), list(share.state)
    for keys in _groups(update, program, share) if size else []:
        one = _share(
            program,
            [j for j in share.params if update.key(j) in keys],
            [k for k in share.state if P + k in keys],
            P,
        )
        rows = rows_of(one.shape, size)
        own = [i in keys or update.key(i) in keys for i in one.used]
        fitted = for_rows(one.program, own, rows) if rows and one.params else None
        if fitted is not None:
            found.append(_part(update, one._replace(program=fitted)))
            params = [j for j in params if j not in one.params]
            state = [k for k in state if k not in one.state]
    return LayerUpdate(found, _part(update, _share(program, params, state, P)))


def _part(update: Update, share: Share) -> Part:
    is_shared = [i in update.shared for i in share.used]
    # What optax computes in a `jax.jit` of its own is among the numbers too, once it is inlined.
    first, program = split(inlined(share.program, is_plain_call), is_shared, _makes_scalars)
    used = list(zip(share.used, is_shared, strict=True))
    own = [i for i, shared in used if not shared]
    return Part(share._replace(program=program, used=own), first, [i for i, s in used if s])


def _makes_scalars(equation: Equation) -> bool:
    return not any(aval_of(v).shape for v in equation.outvars)


def _groups(update: Update, program: ClosedJaxpr, share: Share) -> list[set[int]]:
    """The keys of a stack's arrays, together where the new value of one follows from another."""
    P, keys = update.num_params, update.keys(share)
    groups: list[set[int]] = []
    outputs = [*share.params, *(P + k for k in share.state)]
    for key, output in zip(keys, outputs, strict=True):
        _, used = part(program, [output])
        own = {key, *(i if i >= P else update.key(i) for i in used)} & {*keys}
        joined = [group for group in groups if group & own]
        groups = [group for group in groups if not group & own] + [own.union(*joined)]
    return groups


def _program(model: Optimized, length: int) -> ClosedJaxpr:
    """The whole update, if stacks had this many layers."""

    def apply(gradients: Gradients, state: OptState, params: Params) -> tuple[Params, OptState]:
        updates, state = model.tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    params = model.with_length(length)
    state = jax.eval_shape(model.tx.init, params)
    traced = trace(apply, params, state, params)
    types = jax.tree.leaves((params, state))
    for name, old, new in zip(model.names, types, jax.tree.leaves(traced.result), strict=True):
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise ValueError(
                f"A step must leave shapes and dtypes as they are. {name} goes from "
                f"{old.dtype}{list(old.shape)} to {new.dtype}{list(new.shape)} for a stack of "
                f"{length}. Give the transform one value for all layers, or the dtype of its state."
            )
    return traced.program


def _layered_state(model: Optimized) -> list[int]:
    """Positions of the leaves of the state that have a leading axis of layers."""
    # What has layers is not seen by its shape, which may be as long by chance, but by what `init`
    # makes of stacks of one layer and of two.
    types = [jax.eval_shape(model.tx.init, model.with_length(n)) for n in (1, 2)]
    expected, got = (jax.tree.structure(tree) for tree in (types[0], model.state))
    if expected != got:
        raise ValueError(
            "The state must be that of the optimizer, `tx.init(params)`.\n"
            f"Expected {expected}\nGot {got}"
        )
    lengths = {jax.tree.leaves(model.params)[stack[0]].shape[0] for stack in model.stacks}
    names, layered, unknown = leaves_by_path(model.state), [], []
    rows = zip(names.items(), *(jax.tree.leaves(tree) for tree in types), strict=True)
    for k, ((name, leaf), one, two) in enumerate(rows):
        if one.shape == two.shape == leaf.shape:
            continue
        grows = one.shape == (1, *leaf.shape[1:]) and two.shape == (2, *leaf.shape[1:])
        if leaf.shape and grows and leaf.shape[0] in lengths:
            layered.append(k)
        else:
            unknown.append(f"{name} {leaf.shape}, and {one.shape} for one layer")
    if unknown:
        raise ValueError(
            "The state of a stacked parameter must have a leading axis of layers, as it has, and "
            "be for one layer what it is for all but for that axis. "
            f"Got{listed(unknown)}\n{_PER_LAYER}"
        )
    return layered


def _owners(model: Optimized, program: ClosedJaxpr, layered: list[int], P: int) -> dict[int, int]:
    """The stack that each layered leaf of the state belongs to: that which it follows, or moves."""
    stack_of = {j: s for s, stack in enumerate(model.stacks) for j in stack}
    K = len(jax.tree.leaves(model.state))
    found: dict[int, set[int]] = {k: set() for k in layered}
    for k in layered:
        _, used = part(program, [P + k])
        positions = [i if i < P else i - P - K for i in used if i < P or i >= P + K]
        found[k] |= {stack_of[j] for j in positions if j in stack_of}
    # State that follows no parameter, such as a random key of each layer, belongs where it is read.
    for s, stack in enumerate(model.stacks):
        _, used = part(program, stack)
        for i in used:
            if i - P in found:
                found[i - P].add(s)
    leaves = list(leaves_by_path(model.state).items())
    shared = [leaves[k][0] for k, stacks in found.items() if len(stacks) > 1]
    if shared:
        raise ValueError(
            "A leaf of the state that has an axis of layers must belong to one stack. Got of "
            f"several{listed(shared)}\n{_COUPLED}"
        )
    lengths = [jax.tree.leaves(model.params)[stack[0]].shape[0] for stack in model.stacks]
    # What no parameter reads or moves, as placeholders, goes with any stack of its length.
    return {
        k: stacks.pop() if stacks else lengths.index(leaves[k][1].shape[0])
        for k, stacks in found.items()
    }


def _require_independent(model: Optimized, update: Update, shares: list[Share]) -> None:
    P, K, names = update.num_params, update.num_state, model.names
    for share in (*shares, update.rest):
        own = {*share.params, *(P + k for k in share.state), *(P + K + j for j in share.params)}
        own |= update.shared
        foreign = [
            f"the gradient of {names[i]}" if i < P else names[i if i < P + K else i - P - K]
            for i in share.used
            if i not in own
        ]
        if foreign:
            what = [names[j] for j in share.params] or [names[P + k] for k in share.state]
            raise ValueError(
                "The optimizer must update each layer from what is its own: the gradients of the "
                f"others do not exist at the same time. The update of{listed(what[:3])}\n"
                f"needs{listed(dict.fromkeys(foreign))}\n{_COUPLED}"
            )


def _require_layers_apart(model: Optimized, update: Update, shares: list[Share]) -> None:
    # At two layers, a mean over layers is another thing than at one, where it is none.
    program = _program(model, 2)
    P, K = update.num_params, update.num_state
    for stack in shares:
        names = [model.names[j] for j in stack.params]
        layered = {*stack.params, *(P + k for k in stack.state), *(P + K + j for j in stack.params)}
        piece, used = part(program, [*stack.params, *(P + k for k in stack.state)])
        known: list[Where] = [0 if i in layered else frozenset() for i in used]
        try:
            found = axes_of_layers(piece, known)
        except MixesLayersError as error:
            raise ValueError(
                "The optimizer must update each layer of a stack on its own. In its update of"
                f"{listed(names[:3])}\n{error}.\n{_PER_LAYER} {_COUPLED}"
            ) from None
        if not all(w == 0 or (isinstance(w, frozenset) and 0 in w) for w in found):
            raise ValueError(
                "The optimizer must leave the axis of layers in front, and what it makes of "
                f"nothing that a layer has must be the same for all layers. {_PER_LAYER}"
            )
        # Both keep layers apart and still differ where Python has used the number of layers.
        if signature(piece) != signature(stack.program):
            raise ValueError(
                "The optimizer must do the same to a layer, however many there are: alone it sees "
                "a stack of one. A number in its update of"
                f"{listed(names[:3])}\nfollows from the number of layers. {_PER_LAYER}"
            )


_PER_LAYER = (
    "For an optimizer that treats each layer as a parameter of its own, as that of an unrolled "
    "model does, use `jaxmup.fused.per_layer(tx, path)`."
)
_COUPLED = (
    "For clipping by a global norm, take it out of the chain and pass "
    "`clip=jaxmup.fused.global_norm_clip(max_norm)`: a first backward pass then measures the "
    "norm. For anything else that couples parameters, use `jax.value_and_grad` and the plain step."
)
