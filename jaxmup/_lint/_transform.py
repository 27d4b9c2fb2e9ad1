"""Checks of an optimizer chain, by trying it on a model of tiny parameters."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxmup._families import Family
from jaxmup._finding import Finding
from jaxmup._lint._chain import Asked
from jaxmup._lint._clip import GLOBAL_CLIP
from jaxmup._lint._decay import DECAY
from jaxmup._lint._family import FAMILY
from jaxmup._lint._probe import Probe
from jaxmup._lint._steps import STEPS
from jaxmup._power import ONE
from jaxmup._scaling import Scaling
from jaxmup._spec import ParamSpec
from jaxmup._tree import PathName, Tree, Updates, leaves_by_path, path_name

if TYPE_CHECKING:
    import optax

_CHECKS = (FAMILY, STEPS, DECAY, GLOBAL_CLIP)


def check_transform(
    tx: "optax.GradientTransformation",
    tree: Tree,
    specs: Mapping[PathName, ParamSpec],
    scalings: Mapping[PathName, Scaling],
) -> Iterator[Finding]:
    """Runs the trials of all checks on a chain, and then what they find in the updates.

    Args:
      tx: Optax transform of the chain.
      tree: Tree of the structure of the parameters.
      specs: Spec of each parameter by name.
      scalings: Scaling of each parameter by name; those that could not be resolved are missing.
    """
    paths = tuple(leaves_by_path(tree))
    unknown = tuple(p for p in {**dict.fromkeys(paths), **specs} if not _known(p, specs, scalings))
    if unknown or set(paths) != set(specs):
        yield _not_tried("Parameters without a spec or a scaling", unknown or tuple(specs))
        return
    reason = _not_told(scalings)
    if reason is not None:
        yield _not_tried(*reason)
        return
    asked = Asked(
        paths,
        tuple(specs[path] for path in paths),
        tuple(scalings[path] for path in paths),
        scalings[paths[0]].family,
    )
    yield from _tried(tx, tree, asked)


def _known(
    path: PathName, specs: Mapping[PathName, ParamSpec], scalings: Mapping[PathName, Scaling]
) -> bool:
    return path in specs and path in scalings


def _tried(tx: "optax.GradientTransformation", tree: Tree, asked: Asked) -> Iterator[Finding]:
    trials = {
        (i, key): trial
        for i, check in enumerate(_CHECKS)
        for key, trial in check.trials(asked).items()
    }
    shapes = {path: spec.shape for path, spec in zip(asked.paths, asked.specs, strict=True)}
    try:
        ranks = {path: len(shape) for path, shape in shapes.items()}
        updates = Probe.of(tx, tree, ranks).run(trials)
    except Exception as error:  # whatever a transform of the user's raises
        yield _refused(tx, tree, shapes, error)
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
    for i, check in enumerate(_CHECKS):
        own = {key: both for (j, key), both in updates.items() if i == j}
        findings = list(check.findings(asked, own))
        yield from findings
        if check is FAMILY and findings:
            return  # all that follows would be compared with the wrong numbers


def _not_told(scalings: Mapping[PathName, Scaling]) -> tuple[str, tuple[PathName, ...]] | None:
    """The reason why steps on tiny parameters say nothing of large ones, and of which they do not.

    `None` if they do of all.
    """
    of: dict[Family, list[PathName]] = {}
    for path, scaling in scalings.items():
        of.setdefault(scaling.family, []).append(path)
    for family, paths in of.items():
        if family.unit != ONE:
            does = "depend on the shape of a matrix"
            return f"The steps of the family {family.name!r} {does}", tuple(paths)
        if family.gradient_degree not in (0, 1):
            does = f"grow as the gradient to the power of {family.gradient_degree:g}"
            return f"The steps of the family {family.name!r} {does}", tuple(paths)
    if len(of) > 1:
        names = " and ".join(sorted(repr(family.name) for family in of))
        return f"The scalings are for several families, {names}", ()
    return None


def _not_tried(reason: str, where: tuple[PathName, ...]) -> Finding:
    return Finding(
        "not-checked",
        f"{reason}, so the optimizer was not tried: its family, learning rates, eps, weight decay "
        "and clips were not checked.",
        where,
        "A mistake in them would not have been found.",
        "Train a few steps at several widths instead: `jaxmup.coord_check.coord_check`.",
    )


def _refused(
    tx: "optax.GradientTransformation",
    tree: Tree,
    shapes: Mapping[PathName, tuple[int, ...]],
    error: Exception,
) -> Finding:
    """The finding on a transform that raises an error on tiny parameters."""
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


def _one_update(
    tx: "optax.GradientTransformation", tree: Tree, shapes: Mapping[PathName, tuple[int, ...]]
) -> Updates:
    params = jax.tree_util.tree_map_with_path(
        lambda path, _: jnp.zeros(shapes[path_name(path)]), tree
    )
    return tx.update(params, tx.init(params), params)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
