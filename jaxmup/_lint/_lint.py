"""All rules, each on what it needs, where that was given."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxmup import _scaling
from jaxmup._families import FAMILIES, Family
from jaxmup._lint._chain import Asked
from jaxmup._lint._clip import GLOBAL_CLIP
from jaxmup._lint._decay import DECAY
from jaxmup._lint._family import FAMILY
from jaxmup._lint._finding import Finding, together
from jaxmup._lint._initial import check_initial
from jaxmup._lint._probe import Probe
from jaxmup._lint._specs import check_specs
from jaxmup._lint._state import check_state, has_started
from jaxmup._lint._steps import STEPS
from jaxmup._parametrization import Parametrization
from jaxmup._power import ONE
from jaxmup._scaling import Scaling
from jaxmup._spec import ParamSpec
from jaxmup._specs_of import specs_of
from jaxmup._tree import leaves_by_path, path_name, require_leaves

if TYPE_CHECKING:
    import optax


def lint(
    specs: Any,
    parametrization: Parametrization | None = None,
    *,
    scalings: Any = None,
    tx: "optax.GradientTransformation | None" = None,
    params: Any = None,
    base: Any = None,
    opt_state: Any = None,
    eps: float = 1e-8,
    b2: float = 0.999,
) -> list[Finding]:
    r"""The mistakes in a set-up that raise no error: what, where, why it matters, how to mend it.

    Pass what there is; each argument adds rules:

    - `specs`: nothing grows; an axis or a readout was forgotten; input and output axes were
      exchanged; one width has two bases.
    - `base`: the same of every axis, with certainty instead of by its size.
    - `params`: other shapes than the specs'; initial values that are not as large as asked for.
    - `scalings` beside a `parametrization`: numbers that are not its own.
    - `tx`: another family's steps; learning-rate factors that are missing, doubled or undone; one
      eps or clip of entries for all; weight decay on the wrong side of the factor; a clip by global
      norm that changes with the width.
    - `opt_state`: eps above the root of the second moment.

    `tx` is not read but tried, on a tree with the paths of the model and one or two elements a
    parameter, so nothing of the size of the model is allocated. The steps of `muon`, `shampoo` and
    of a `Family` of one's own depend on the shape of a matrix or in ways unknown here; their chains
    are not tried.

    Args:
      specs: A tree with a `ParamSpec` at each leaf, such as `jaxmup.nnx.specs` returns, or a model
        of jaxmup layers: an NNX module, or a `jaxmup.Model` at a size.
      parametrization: the rule that is meant.
      scalings: those that are used; `None` for `jaxmup.resolve(specs, parametrization)`. Leave
        out `parametrization` where some were replaced on purpose.
      tx: the optax transform that trains the model.
      params: the parameters: fresh ones, or those of the run where `opt_state` is given; abstract
        ones show their shapes alone.
      base: the parameters of the base model, abstract or not.
      opt_state: state of the running optimizer.
      eps: the base model's, for `opt_state`; in units of the gradient.
      b2: decay of the second moment, for `opt_state`.

    Returns:
      The findings; `print(*findings, sep="\n")` shows them.

    Raises:
      TypeError: if a leaf of `specs` or `scalings` is of another type, or `parametrization` is no
        `Parametrization`.
      ValueError: if `tx` or `opt_state` comes with neither `parametrization` nor `scalings`, or
        `opt_state` is abstract.

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
    specs = specs_of(specs)
    by_path = require_leaves("specs", specs, ParamSpec, "Use `jaxmup.nnx.specs`.")
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
    arrays = None if params is None else leaves_by_path(params)
    base_arrays = None if base is None else leaves_by_path(base)
    found += check_specs(by_path, _shapes(arrays), _shapes(base_arrays))
    used = _resolved(by_path, parametrization, found)
    if scalings is not None:
        used = _given(scalings, used, by_path, found)
    if arrays is not None and (opt_state is None or not has_started(opt_state)):
        found += check_initial(used, arrays, base_arrays)
    if opt_state is not None:
        found += check_state(used, opt_state, eps, b2)
    if tx is not None and set(used) == set(by_path):
        found += _check_transform(tx, specs if params is None else params, by_path, used)
    return list(together(found))


def _shapes(arrays: Mapping[str, Any] | None) -> dict[str, tuple[int, ...]] | None:
    return None if arrays is None else {path: tuple(x.shape) for path, x in arrays.items()}


def _resolved(
    specs: Mapping[str, ParamSpec], parametrization: Parametrization | None, found: list[Finding]
) -> dict[str, Scaling]:
    """What the parametrization asks for; leaves whose layer does something else are left out."""
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
    scalings: Any,
    resolved: Mapping[str, Scaling],
    specs: Mapping[str, ParamSpec],
    found: list[Finding],
) -> dict[str, Scaling]:
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


_RULES = (FAMILY, STEPS, DECAY, GLOBAL_CLIP)


def _check_transform(
    tx: Any, tree: Any, specs: Mapping[str, ParamSpec], scalings: Mapping[str, Scaling]
) -> Iterator[Finding]:
    """Runs the trials of all rules on a chain, and then what they find in the updates."""
    family, paths = _one_family(scalings), tuple(leaves_by_path(tree))
    if family is None or set(paths) != set(specs):
        return
    asked = Asked(
        paths,
        tuple(specs[path] for path in paths),
        tuple(scalings[path] for path in paths),
        family,
    )
    trials = {
        (i, key): trial
        for i, rule in enumerate(_RULES)
        for key, trial in rule.trials(asked).items()
    }
    try:
        updates = Probe.of(tx, tree, {path: len(spec.axes) for path, spec in specs.items()}).run(
            trials
        )
    except Exception as error:  # whatever a transform of the user's raises
        yield _refused(tx, tree, specs, error)
        return
    if updates is None:
        yield Finding(
            "not-checked",
            "The optimizer updates nothing within 256 calls.",
            (),
            "So it could not be compared with what the parametrization asks for.",
            "Pass it without its long warm-up or accumulation.",
        )
        return
    for i, rule in enumerate(_RULES):
        own = {key: both for (j, key), both in updates.items() if i == j}
        findings = list(rule.findings(asked, own))
        yield from findings
        if rule is FAMILY and findings:
            return  # all that follows would be compared with the wrong numbers


def _one_family(scalings: Mapping[str, Scaling]) -> Family | None:
    """The family of all scalings, if steps on tiny parameters say anything about large ones."""
    families = {scaling.family for scaling in scalings.values()}
    family = families.pop() if len(families) == 1 else None
    if (
        family not in FAMILIES.values()
        or family.unit != ONE
        or family.gradient_degree not in (0, 1)
    ):
        return None
    return family


def _refused(tx: Any, tree: Any, specs: Mapping[str, ParamSpec], error: Exception) -> Finding:
    """What a transform that raises an error on tiny parameters says of those of the model."""
    shapes = {path: spec.shape for path, spec in specs.items()}
    try:
        jax.eval_shape(lambda: _one_update(tx, tree, shapes))
    except Exception as on_model:  # the same, on shapes alone
        return Finding(
            "optimizer-error",
            f"The optimizer refuses the parameters: {_line(on_model)}",
            (),
            "Training will stop with this error.",
            "Make the scalings, masks and labels from the parameters that are trained.",
        )
    return Finding(
        "not-checked",
        f"The optimizer does not take parameters of one or two elements: {_line(error)}",
        (),
        "So it could not be compared with what the parametrization asks for.",
        "Pass the part of the chain that does, without the transform that needs whole matrices.",
    )


def _one_update(tx: Any, tree: Any, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    params = jax.tree_util.tree_map_with_path(
        lambda path, _: jnp.zeros(shapes[path_name(path)]), tree
    )
    return tx.update(params, tx.init(params), params)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
