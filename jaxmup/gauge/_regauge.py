"""A model and its running optimizer, moved to another gauge."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from jax import Array

from jaxmup._check import listed
from jaxmup._opt_state import Description, Transform
from jaxmup._parametrization import Parametrization
from jaxmup._scaling import Scaling
from jaxmup._spec import ParamSpec
from jaxmup._tree import (
    OptState,
    Params,
    PathName,
    Scalings,
    Specs,
    Tree,
    leaves_by_path,
    require_leaves,
    resolve,
)
from jaxmup.functional import scale
from jaxmup.gauge._course import Course, has_own_rate, is_invariant
from jaxmup.gauge._equivalent import differences
from jaxmup.gauge._move import Factors, Shift, move
from jaxmup.gauge._parameters import (
    entries_of,
    map_parameters,
    parameters,
    require_parameters,
    thetas_of,
)
from jaxmup.nnx import regauged
from jaxmup.nnx import specs as specs_of_model
from jaxmup.nnx._layer import SPEC


@dataclasses.dataclass(frozen=True)
class Regauged:
    """A run in another gauge.

    Args:
      params: The parameters, or the model, that it goes on with.
      opt_state: The state of its optimizer.
      hyperparameters: The factor by which each hyper-parameter of the optimizer has yet to be
        multiplied for the run to go on as before: one number, or one for each parameter, by name,
        where they differ. Empty for the chains of `jaxmup.optim`, which take theirs from scalings.
        Those that `optax.inject_hyperparams` holds are moved in `opt_state`.
    """

    params: Params | nnx.Module
    opt_state: OptState
    hyperparameters: Factors


def regauge(
    params: Params,
    opt_state: OptState,
    theta: Tree,
    *,
    chain: Description | None = None,
    transforms: Mapping[str, Transform] | None = None,
) -> Regauged:
    r"""Moves stored parameters and the state of their running optimizer to another gauge.

    Every multiplier becomes :math:`\theta\, m`, every stored weight :math:`w / \theta`: the
    effective weight stays, and with the state and the hyper-parameters moved along, so does the
    rest of the run. The state is read by its structure: what each transform keeps, and where it
    stands in the chain. A trace before the learning rate holds gradients and is multiplied by
    `theta`, one after it holds steps and is divided by it.

    Where types do not tell two transforms apart, the state is read as that of the more common one:
    `ScaleByAdamState` as Adam's, not Adamax's or ADOPT's; `MuonState` as not adaptive. A transform
    without state is taken to leave the unit of the updates as it is, and the last one to be the
    learning rate. If that is not so, say what the optimizer is made of with `chain`.

    RAdam has moved exactly once its rectification is on; before, its learning rate goes with
    :math:`\theta^{-2}`.

    Args:
      params: Tree of arrays; leaves that are no floating-point arrays stay, with their state.
      opt_state: State of an optax optimizer for them, before or after any number of steps.
      theta: Positive number, or a tree of them with the paths of the parameters; dimensionless.
        With powers of two nothing is rounded.
      chain: Name of an optax optimizer, such as `"adamax"`, or of a transform, or a tuple of them
        in their order, such as `("clip", "adamax")`; under `optax.partition` one of these for each
        label.
      transforms: Movement of transforms that are not in `jaxmup.gauge.TRANSFORMS`, by the name of
        the type of their state.

    Returns:
      The moved parameters and state, and what is left to do: the factors on the hyper-parameters.

    Raises:
      TypeError: if a `theta` is no number.
      ValueError: if a `theta` is not finite and positive or has other paths than `params`; if the
        movement of a state is not known, or it is not that of `chain`; if the place of the learning
        rate decides how a state moves and is left open; if parameters share something that would
        have to move differently for each.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> params = {"w": jnp.ones(2)}
      >>> run = regauge(params, optax.adam(1e-2).init(params), 4.0)
      >>> run.params["w"]
      Array([0.25, 0.25], dtype=float32)
      >>> run.hyperparameters
      {'eps': 4.0, 'eps_root': 16.0, 'learning_rate': 0.25}

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Lemma J.1; Yang and Littwin, "Tensor
      Programs IVb", arXiv:2308.01814, Proposition 2.2.3.
    """
    wanted = parameters(params)
    thetas = entries_of("theta", thetas_of(theta, wanted), params)
    moves = {name: Shift(theta) for name, theta in thetas.items()}
    moved = move(opt_state, params, moves, chain, transforms)
    return Regauged(_divided(params, moves), moved.opt_state, moved.hyperparameters)


def regauge_run(
    model: nnx.Module | Params,
    opt_state: OptState,
    from_: Parametrization | Scalings,
    to: Parametrization | Scalings,
    *,
    specs: Specs | None = None,
    chain: Description | None = None,
    transforms: Mapping[str, Transform] | None = None,
) -> Regauged:
    """Moves a run from one parametrization to another of the same physics, at any step.

    For an NNX model the copy that is returned applies the multipliers of `to`; Linen parameters are
    for the module that was built with `to`. The run goes on with an optimizer built from the
    scalings of `to`; the base model's hyper-parameters stay what they are.

    Args:
      model: NNX module, or a tree of parameters, such as `variables["params"]`; leaves without a
        spec or scaling that are no floating-point arrays stay, with their state.
      opt_state: State of its optimizer, such as `optimizer.opt_state` of an `nnx.Optimizer`.
      from_: `Parametrization` that the run has had, or its tree of `Scaling`.
      to: `Parametrization` that the run goes on with, or its tree of `Scaling`.
      specs: Tree of the parameters' `ParamSpec`; `None` for those of an NNX model's layers. Not
        needed with trees of `Scaling`.
      chain: Description of the optimizer's transforms; see `regauge`.
      transforms: Movement of transforms that are not in the table; see `regauge`.

    Returns:
      The model or parameters, the state, and the factors on hyper-parameters that no scaling holds.

    Raises:
      TypeError: if `from_` and `to` are neither parametrizations nor trees of `Scaling`, or a
        parameter of theirs is no array of floating-point numbers.
      ValueError: if the two are not one physics, naming each parameter, what differs and by what
        factor; if specs or scalings have other paths or shapes than the parameters; and as
        `regauge`.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> table8, table3 = (jaxmup.parametrization("mup", gauge=g) for g in ("table8", "table3"))
      >>> model = jaxmup.nnx.Linear(8, 2, base_in_features=4, rngs=nnx.Rngs(0))
      >>> tx = jaxmup.optim.adam(1e-2, jaxmup.resolve(jaxmup.nnx.specs(model), table8))
      >>> optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
      >>> run = regauge_run(model, optimizer.opt_state, table8, table3)
      >>> tx = jaxmup.optim.adam(1e-2, jaxmup.resolve(jaxmup.nnx.specs(run.params), table3))
      >>> optimizer = nnx.Optimizer(run.params, tx, wrt=nnx.Param)
      >>> optimizer.opt_state = run.opt_state

    References:
      As `regauge`.
    """
    is_module = isinstance(model, nnx.Module)
    params = nnx.state(model, nnx.Param) if is_module else model
    if specs is None and is_module:
        specs = specs_of_model(model)
    scalings = {
        what: _scalings(what, given, specs) for what, given in (("from_", from_), ("to", to))
    }
    require_parameters([name for each in scalings.values() for name in each], params)
    old, new = (entries_of(what, each, params) for what, each in scalings.items())
    _require_one_physics(old, new)
    moves = {
        name: Shift(new[name].multiplier / old[name].multiplier, new[name].grad / old[name].grad)
        for name in old
    }
    moved = move(opt_state, params, moves, chain, transforms)
    _require_family(moved.courses, old, new)
    if not is_module:
        return Regauged(_divided(params, moves), moved.opt_state, moved.hyperparameters)
    _require_layers(specs, moves)
    model = regauged(model, to)
    state = _with_specs(moved.opt_state, specs, specs_of_model(model))
    return Regauged(model, state, moved.hyperparameters)


def _with_specs(state: OptState, old: Specs, new: Specs) -> OptState:
    """`state` with the specs of the moved model where its variables carry those of their parameter.

    Flax copies the metadata of a parameter to its moments, and JAX maps over two trees only if
    theirs are equal.
    """
    moved = dict(zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True))

    def respecified(x: Any) -> Any:
        spec = x.get_metadata().get(SPEC) if isinstance(x, nnx.Variable) else None
        if spec not in moved:
            return x
        x = x.copy()  # the state that was given goes on with the model that was given
        x.set_metadata(**{SPEC: moved[spec]})
        return x

    return jax.tree.map(respecified, state, is_leaf=lambda x: isinstance(x, nnx.Variable))


def _divided(params: Params, moves: Mapping[PathName, Shift]) -> Params:
    def divided(w: Array, its: Shift) -> Array:
        return scale(w, 1.0 / its.theta)

    return map_parameters(divided, params, moves)


def _scalings(
    what: str, given: Parametrization | Scalings, specs: Specs | None
) -> dict[PathName, Scaling]:
    if not isinstance(given, Parametrization):
        remedy = "Or pass a `Parametrization`, with `specs` where the model does not hold them."
        return require_leaves(what, given, Scaling, remedy)
    if specs is None:
        raise TypeError(
            f"`specs` must be given for a tree of parameters. Got `{what}` = {given} and no specs. "
            "Use `jaxmup.linen.specs(module, inputs)`, or pass trees of `Scaling`."
        )
    free = jax.tree.map(_without_applied, specs)
    return leaves_by_path(resolve(free, given))


def _without_applied(spec: ParamSpec) -> ParamSpec:
    """The spec of a layer that may change its gauge; a plain model's cannot."""
    if spec.applied is None or spec.applied.init_gain is None:
        return spec
    return dataclasses.replace(spec, applied=None)


def _require_one_physics(old: Mapping[PathName, Scaling], new: Mapping[PathName, Scaling]) -> None:
    # The initial scale decides nothing any more once a run has started.
    found = [d for d in differences(old, new) if d.quantity != "initial scale"]
    if found:
        raise ValueError(
            "A run can move between two gauges of one physics only. `to` differs from `from_` in"
            f"{listed(map(str, found))}\nSee `jaxmup.gauge.equivalent`."
        )


def _require_family(
    courses: Mapping[PathName, Course],
    old: Mapping[PathName, Scaling],
    new: Mapping[PathName, Scaling],
) -> None:
    """Raises a `ValueError` unless the scalings move the learning rate as the optimizer needs."""
    # A chain that takes its rates from scalings would take those of the wrong family in silence.
    # One that works on effective weights needs the rate of another gauge, which it is given.
    wrong = [
        f"{name}: {followed.rate:.6g}, the scalings give {new[name].lr / old[name].lr:.6g}"
        for name, followed in courses.items()
        if has_own_rate(followed)
        and not is_invariant(followed)
        and not math.isclose(followed.rate, new[name].lr / old[name].lr, rel_tol=1e-9)
    ]
    if wrong:
        raise ValueError(
            "The scalings must be for the family of the optimizer. The state is that of one whose "
            f"learning rates have to be multiplied by{listed(wrong)}\n"
            "Resolve the specs for the optimizer that is used."
        )


def _require_layers(specs: Specs, moves: Mapping[PathName, Shift]) -> None:
    """Raises a `ValueError` if a parameter would move that no jaxmup layer applies."""
    loose = [
        f"{name}: theta {moves[name].theta:.6g}"
        for name, spec in leaves_by_path(specs).items()
        if name in moves and spec.applied is None and moves[name].theta != 1.0
    ]
    if loose:
        raise ValueError(
            "A model can move to another gauge where jaxmup layers apply the multipliers. These "
            f"parameters belong to none:{listed(loose)}\n"
            "Choose a gauge with the same multiplier for them, or pass the parameters as a tree "
            "and apply the multipliers yourself."
        )
