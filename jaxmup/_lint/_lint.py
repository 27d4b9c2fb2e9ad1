"""All checks, each on what it needs, where that was given."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxmup import _check, _scaling
from jaxmup._finding import Finding, together
from jaxmup._lint._initial import check_initial, check_kinds, check_values, trains
from jaxmup._lint._programs import check_programs
from jaxmup._lint._rounding import check_rounding
from jaxmup._lint._specs import check_specs
from jaxmup._lint._state import check_state, has_started
from jaxmup._lint._transform import check_transform
from jaxmup._parametrization import Parametrization
from jaxmup._scaling import Scaling
from jaxmup._spec import ParamSpec
from jaxmup._specs_of import specs_of
from jaxmup._tree import (
    OptState,
    Params,
    PathName,
    Scalings,
    Specs,
    leaves_by_path,
    named_leaves,
    require_leaves,
)

if TYPE_CHECKING:
    import optax

    from jaxmup._model import Instance


def lint(
    specs: Specs,
    parametrization: Parametrization | None = None,
    *,
    scalings: Scalings | None = None,
    tx: "optax.GradientTransformation | None" = None,
    params: Params | None = None,
    base: "Params | Instance | None" = None,
    opt_state: OptState | None = None,
    eps: float = 1e-8,
    b2: float = 0.999,
) -> list[Finding]:
    r"""The mistakes in a set-up that raise no error: what, where, why it matters, how to mend it.

    Pass what there is; each argument adds checks:

    - `specs`: what their program has shown `jaxmup.infer`, with the lines of your code: a factor
      that no parameter can carry, an axis whose parts grow apart, a parameter that does nothing, a
      rule that the program contradicts; nothing grows; an axis or a readout was forgotten; input
      and output axes were exchanged; one width has two bases.
    - `base`: the same of every axis, with certainty instead of by its size. Of a `jaxmup.Model` at
      two sizes the programs are compared, which show the same as for `jaxmup.infer`: attention or
      a tied readout by hand between jaxmup layers lacks the factors that the layers apply.
    - `params`: other shapes than the specs'; integers where a spec is; values that are NaN or
      infinite; initial values that are not as large as asked for.
    - `scalings` beside a `parametrization`: numbers that are not its own.
    - `tx`: another family's steps; learning-rate factors that are missing, doubled or undone; one
      eps or clip of entries for all; weight decay on the wrong side of the factor; a clip by global
      norm that changes with the width.
    - `opt_state`: eps above the root of the second moment; values that are NaN or infinite. Beside
      `tx` and `params`: updates that parameters in low precision round away.

    `tx` is not read but tried, on a tree with the paths of the model and one or two elements a
    parameter, so nothing of the size of the model is allocated. Steps that depend on the shape of a
    matrix, as those of Muon and Shampoo, cannot be told from so small ones. A check that could not
    be made is a finding too, `not-checked`, which says why.

    Args:
      specs: Tree with a `ParamSpec` at each leaf, such as `jaxmup.nnx.specs` returns, or a model of
        jaxmup layers: an NNX module, or a `jaxmup.Model` at a size.
      parametrization: Parametrization that is meant.
      scalings: Scalings that are used; `None` for `jaxmup.resolve(specs, parametrization)`. Leave
        out `parametrization` where some were replaced on purpose.
      tx: Optax transform that trains the model.
      params: Parameters: fresh ones, or those of the run where `opt_state` is given; abstract ones
        show their shapes alone. What has no spec and is no floating-point array is passed over.
      base: Parameters of the base model, abstract or not; or, beside a `jaxmup.Model` at a size
        with inputs, the same `Model` at the base size.
      opt_state: State of the running optimizer.
      eps: Constant eps of the base model, for `opt_state`; in units of the gradient.
      b2: Decay of the second moment, for `opt_state`; in [0, 1).

    Returns:
      The findings; `print(*findings, sep="\n")` shows them.

    Raises:
      TypeError: if a leaf of `specs` or `scalings` is of another type, `parametrization` is no
        `Parametrization`, `tx` no transform, or `eps` or `b2` no number.
      ValueError: if `eps` or `b2` is out of range, `tx` or `opt_state` comes with neither
        `parametrization` nor `scalings`, or `opt_state` is abstract.

    Example:
      >>> import jaxmup, optax
      >>> inwards, outwards = (jaxmup.Axis(kind, 256, base=64) for kind in ("input", "output"))
      >>> specs = {
      ...     "hidden": jaxmup.ParamSpec((inwards, outwards)),
      ...     "readout": jaxmup.ParamSpec((inwards, jaxmup.Axis("output", 10))),
      ... }
      >>> rule = jaxmup.parametrization("mup", "adam", gauge="tp4b")
      >>> scalings = jaxmup.resolve(specs, rule)
      >>> lint(specs, rule, tx=jaxmup.optim.adam(1e-3, scalings))
      []
      >>> tx = optax.chain(jaxmup.optim.scale_gradients(scalings), optax.adam(1e-3))
      >>> [(finding.check, finding.where) for finding in lint(specs, rule, tx=tx)]
      [('learning-rate', ('hidden',))]

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Tables 3, 8, 9 and Appendix B.3.
    """
    programs = _instances(specs, base)
    specs = specs_of(specs)
    by_path = require_leaves("specs", specs, ParamSpec, "Use `jaxmup.nnx.specs`.")
    _check.number("eps", eps, at_least=0, may_be_traced=False)
    _check.number("b2", b2, at_least=0, below=1, may_be_traced=False)
    if tx is not None:
        _check.transform("tx", tx)
    if parametrization is None and scalings is None and not (tx is None and opt_state is None):
        raise ValueError(
            "`tx` and `opt_state` are compared with what a parametrization asks for. Got neither "
            "`parametrization` nor `scalings`. Pass the one that is meant."
        )
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(opt_state)):
        raise ValueError(
            "`opt_state` must be that of a running optimizer: its numbers are looked at. Got "
            "shapes. Leave it out for an abstract model."
        )
    found: list[Finding] = []
    if programs is not None:
        target, smaller = programs
        base = smaller.params
        found += check_programs(smaller, target)
    if params is not None:
        found += check_kinds(by_path, leaves_by_path(params))
    params, base = (_trained(tree, by_path) for tree in (params, base))
    arrays = None if params is None else leaves_by_path(params)
    base_arrays = None if base is None else leaves_by_path(base)
    for spec in by_path.values():
        found += spec.findings
    found += check_specs(by_path, _shapes(arrays), _shapes(base_arrays))
    used = _resolved(by_path, parametrization, found)
    if scalings is not None:
        used = _given(scalings, used, by_path, found)
    if arrays is not None:
        found += check_values("The parameter", arrays)
    if arrays is not None and (opt_state is None or not has_started(opt_state)):
        found += check_initial(used, arrays, base_arrays)
    if opt_state is not None:
        found += check_state(used, opt_state, eps, b2)
        found += check_values("The optimizer's state", leaves_by_path(opt_state))
        if tx is not None and params is not None and has_started(opt_state):
            found += check_rounding(tx, params, opt_state)
    if tx is not None:
        found += check_transform(tx, specs if params is None else params, by_path, used)
    return list(together(found))


def _instances(model: Any, base: Any) -> "tuple[Instance, Instance] | None":
    """A model at two sizes that can be called, if that is what was given."""
    if base is None or all(isinstance(leaf, ParamSpec) for leaf in jax.tree.leaves(model)):
        return None  # without a second of loading Flax
    from jaxmup._model import Instance

    if not (isinstance(model, Instance) and isinstance(base, Instance)):
        return None
    return model, base


def _trained(params: Params | None, specs: Mapping[PathName, ParamSpec]) -> Params | None:
    """`params` with `None` in place of what has no spec and does not train, as integers."""
    if params is None:
        return None
    leaves = [x if name in specs or trains(x) else None for name, x in named_leaves(params)]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def _shapes(arrays: Mapping[PathName, Any] | None) -> dict[PathName, tuple[int, ...]] | None:
    return None if arrays is None else {path: np.shape(x) for path, x in arrays.items()}


def _resolved(
    specs: Mapping[PathName, ParamSpec],
    parametrization: Parametrization | None,
    found: list[Finding],
) -> dict[PathName, Scaling]:
    """The scalings that are asked for; leaves whose layer does something else are left out."""
    if parametrization is None:
        return {}
    if not isinstance(parametrization, Parametrization):
        raise TypeError(
            f"`parametrization` must be a `Parametrization`. Got {parametrization!r}. Use "
            "`jaxmup.parametrization(name, optimizer)`."
        )
    resolved = {}
    for path, spec in specs.items():
        try:
            resolved[path] = _scaling.resolve(spec, parametrization)
        except ValueError as error:
            found.append(
                Finding(
                    "layer-mismatch",
                    f"Its layer does not do what {parametrization} asks for.",
                    (path,),
                    str(error),
                    "Build the layers and resolve the specs with the same parametrization.",
                )
            )
    return resolved


def _given(
    scalings: Scalings,
    resolved: Mapping[PathName, Scaling],
    specs: Mapping[PathName, ParamSpec],
    found: list[Finding],
) -> dict[PathName, Scaling]:
    """The scalings in use, compared with those that the parametrization asks for."""
    remedy = "Use `jaxmup.resolve(specs, parametrization)`."
    given = require_leaves("scalings", scalings, Scaling, remedy)
    for path in specs:
        if path not in given:
            what = "It has no scaling."
        elif path in resolved and given[path] != resolved[path]:
            differences = _differences(given[path], resolved[path])
            what = f"Its scaling is not what the parametrization asks for: {differences}."
        else:
            continue
        why = "It starts and learns by another rule than its layer and the other parameters."
        found.append(Finding("scalings-mismatch", what, (path,), why, remedy))
    return {path: given[path] for path in specs if path in given}


def _differences(given: Scaling, asked: Scaling) -> str:
    names = (name for name in Scaling.__slots__ if getattr(given, name) != getattr(asked, name))
    return ", ".join(f"{name} {getattr(given, name)}, not {getattr(asked, name)}" for name in names)
