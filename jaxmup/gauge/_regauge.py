"""A model and its running optimizer, moved to another gauge."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from jaxmup._families import Family
from jaxmup._parametrization import Parametrization
from jaxmup._scaling import Scaling
from jaxmup._spec import ParamSpec
from jaxmup._tree import leaves_by_path, listed, map_named, require_leaves, resolve
from jaxmup.functional import scale
from jaxmup.gauge._equivalent import differences
from jaxmup.gauge._links import Description, Owners, read
from jaxmup.gauge._movement import (
    Course,
    course,
    has_own_rate,
    hyperparameters,
    is_invariant,
    moved_state,
)
from jaxmup.gauge._theta import theta_of_leaves
from jaxmup.gauge._transforms import Transform
from jaxmup.nnx import regauged
from jaxmup.nnx import specs as specs_of_model
from jaxmup.nnx._layer import SPEC


@dataclasses.dataclass(frozen=True)
class Regauged:
    """A run in another gauge.

    Args:
      params: the parameters, or the model, that it goes on with.
      opt_state: the state of its optimizer.
      hyperparameters: by what each hyper-parameter of the optimizer has yet to be multiplied for
        the run to go on as before: one number, or one for each parameter, by name, where they
        differ. Empty for the chains of `jaxmup.optim`, which take theirs from scalings; those that
        `optax.inject_hyperparams` holds are moved in `opt_state`.
    """

    params: Any
    opt_state: Any
    hyperparameters: dict[str, float | dict[str, float]]


def regauge(
    params: Any,
    opt_state: Any,
    theta: Any,
    *,
    optimizer: Description | None = None,
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
    learning rate. If that is not so, say what the optimizer is made of with `optimizer`.

    RAdam has moved exactly once its rectification is on; before, its learning rate goes with
    :math:`\theta^{-2}`.

    Args:
      params: a tree of arrays.
      opt_state: the state of an optax optimizer for them, before or after any number of steps.
      theta: a positive number, or a tree of them with the paths of the parameters; dimensionless.
        With powers of two nothing is rounded.
      optimizer: the name of an optax optimizer, such as `"adamax"`, or of a transform, or a tuple
        of them in their order, such as `("clip", "adamax")`; under `optax.partition` one of these
        for each label.
      transforms: how transforms move that are not in `jaxmup.gauge.TRANSFORMS`, by the name of the
        type of their state.

    Returns:
      The moved parameters and state, and what is left to do: the factors on the hyper-parameters.

    Raises:
      TypeError: if a `theta` is no number.
      ValueError: if a `theta` is not finite and positive or has other paths than `params`; if the
        movement of a state is not known, or it is not that of `optimizer`; if the place of the
        learning rate decides how a state moves and is left open; if parameters share something
        that would have to move differently for each.

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
    names = leaves_by_path(params)
    thetas = theta_of_leaves(theta, names)
    gradients = dict.fromkeys(names, 1.0)
    state, _, factors = _move(opt_state, thetas, gradients, optimizer, transforms)
    return Regauged(_divided(params, thetas), state, factors)


def regauge_run(
    model: Any,
    opt_state: Any,
    from_: Any,
    to: Any,
    *,
    specs: Any = None,
    family: Family | None = None,
    optimizer: Description | None = None,
    transforms: Mapping[str, Transform] | None = None,
) -> Regauged:
    """Moves a run from one parametrization to another of the same physics, at any step.

    For an NNX model the copy that is returned applies the multipliers of `to`; Linen parameters are
    for the module that was built with `to`. The run goes on with an optimizer built from the
    scalings of `to`; the base model's hyper-parameters stay what they are.

    Args:
      model: an NNX module, or a tree of parameters, such as `variables["params"]`.
      opt_state: the state of its optimizer, such as `optimizer.opt_state` of an `nnx.Optimizer`.
      from_: the `Parametrization` that the run has had; or its tree of `Scaling`.
      to: the one that it goes on with, or its tree of `Scaling`.
      specs: the tree of `ParamSpec` of the parameters; `None` for those of an NNX model's layers.
        Not needed with trees of `Scaling`.
      family: the family of the optimizer, if it is one of your own.
      optimizer: see `regauge`.
      transforms: see `regauge`.

    Returns:
      The model or parameters, the state, and the factors on hyper-parameters that no scaling holds.

    Raises:
      TypeError: if `from_` and `to` are neither parametrizations nor trees of `Scaling`.
      ValueError: if the two are not one physics, naming each parameter, what differs and by what
        factor; and as `regauge`.

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
    old, new = (_scalings(what, rule, specs) for what, rule in (("from_", from_), ("to", to)))
    _require_same_paths(params, old, new)
    _require_one_physics(old, new, family)
    thetas = {name: new[name].multiplier / old[name].multiplier for name in old}
    gradients = {name: new[name].grad / old[name].grad for name in old}
    state, courses, factors = _move(opt_state, thetas, gradients, optimizer, transforms)
    _require_family(courses, old, new)
    if not is_module:
        return Regauged(_divided(params, thetas), state, factors)
    _require_layers(specs, thetas)
    moved = regauged(model, to)
    return Regauged(moved, _with_specs(state, specs, specs_of_model(moved)), factors)


def _with_specs(state: Any, old: Any, new: Any) -> Any:
    """`state` with the specs of the moved model where its variables carry those of their parameter.

    Flax copies the metadata of a parameter to its moments, and JAX maps over two trees only if
    theirs are equal.
    """
    moved = dict(zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True))

    def respecified(x: Any) -> Any:
        spec = x.get_metadata().get(SPEC) if isinstance(x, nnx.Variable) else None
        if spec not in moved:
            return x
        x = x.copy()
        x.set_metadata(**{SPEC: moved[spec]})
        return x

    return jax.tree.map(respecified, state, is_leaf=lambda x: isinstance(x, nnx.Variable))


def _divided(params: Any, thetas: Mapping[str, float]) -> Any:
    return map_named(lambda w, theta: scale(w, 1.0 / theta), params, thetas)


def _move(
    opt_state: Any,
    thetas: Mapping[str, float],
    gradients: Mapping[str, float],
    optimizer: Description | None,
    transforms: Mapping[str, Transform] | None,
) -> tuple[Any, dict[str, Course], dict[str, float | dict[str, float]]]:
    """The moved state, what happens to each parameter's updates, and the factors that are left."""
    owners, chain = Owners(list(thetas)), read(opt_state, optimizer, transforms)
    courses = {
        name: course(chain, name, owners, theta, gradients[name]) for name, theta in thetas.items()
    }
    factors = hyperparameters(courses)
    state, injected = moved_state(opt_state, chain, courses, owners, optimizer is not None)
    left = {
        name: _one_if_same(by_leaf) for name, by_leaf in factors.items() if name not in injected
    }
    return state, courses, left


def _one_if_same(by_leaf: dict[str, float]) -> float | dict[str, float]:
    values = set(by_leaf.values())
    return values.pop() if len(values) == 1 else by_leaf


def _scalings(what: str, rule: Any, specs: Any) -> dict[str, Scaling]:
    if not isinstance(rule, Parametrization):
        remedy = "Or pass a `Parametrization`, with `specs` where the model does not hold them."
        return require_leaves(what, rule, Scaling, remedy)
    if specs is None:
        raise TypeError(
            f"`specs` must be given for a tree of parameters. Got `{what}` = {rule} and no specs. "
            "Use `jaxmup.linen.specs(module, inputs)`, or pass trees of `Scaling`."
        )
    free = jax.tree.map(_without_applied, specs)
    return leaves_by_path(resolve(free, rule))


def _without_applied(spec: ParamSpec) -> ParamSpec:
    """The spec of a layer that may change its gauge; a plain model's cannot."""
    if spec.applied is None or spec.applied.init_gain is None:
        return spec
    return dataclasses.replace(spec, applied=None)


def _require_same_paths(params: Any, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    names = leaves_by_path(params)
    for what, scalings in (("from_", old), ("to", new)):
        other = [name for name in {*names, *scalings} if name not in names or name not in scalings]
        if other:
            raise ValueError(
                f"`{what}` must have the paths of the parameters. Only one of the two has"
                f"{listed(sorted(other))}\nMake the specs from the model that is trained."
            )


def _require_one_physics(
    old: Mapping[str, Scaling], new: Mapping[str, Scaling], family: Family | None
) -> None:
    # How the weights started is past.
    found = [d for d in differences(old, new, family) if d.quantity != "initial scale"]
    if found:
        raise ValueError(
            "A run can move between two gauges of one physics only. `to` differs from `from_` in"
            f"{listed(map(str, found))}\nSee `jaxmup.gauge.equivalent`."
        )


def _require_family(
    courses: Mapping[str, Course], old: Mapping[str, Scaling], new: Mapping[str, Scaling]
) -> None:
    """Raises a `ValueError` unless the scalings move the learning rate as the optimizer needs."""
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


def _require_layers(specs: Any, thetas: Mapping[str, float]) -> None:
    """Raises a `ValueError` if a parameter would move that no jaxmup layer applies."""
    loose = [
        f"{name}: theta {thetas[name]:.6g}"
        for name, spec in leaves_by_path(specs).items()
        if spec.applied is None and thetas[name] != 1.0
    ]
    if loose:
        raise ValueError(
            "A model can move to another gauge where jaxmup layers apply the multipliers. These "
            f"parameters belong to none:{listed(loose)}\n"
            "Choose a gauge with the same multiplier for them, or pass the parameters as a tree "
            "and apply the multipliers yourself."
        )
