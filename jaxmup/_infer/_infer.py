"""The specs of an unmodified model, from its program at three sizes."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxmup import _check
from jaxmup._check import listed
from jaxmup._infer._depth import counterparts
from jaxmup._infer._describe import describe
from jaxmup._infer._leaf import Leaf
from jaxmup._infer._meshes import off_mesh
from jaxmup._infer._programs import Programs, multipliers_of, programs_of
from jaxmup._infer._read import Reader
from jaxmup._infer._reading import Reading
from jaxmup._infer._rules import Rules, with_rules
from jaxmup._infer._sizes import (
    Sizes,
    contradictions,
    require_fixed_sizes,
    require_given,
    require_growth,
    require_read,
    warn_of_offsets,
)
from jaxmup._infer._words import joined
from jaxmup._model import MakeModel, Model, as_model
from jaxmup._tree import Size, Specs


def infer(
    make_model: MakeModel | Model,
    *,
    base: Size,
    delta: Size,
    target: Size,
    inputs: Any = None,
    apply: Callable[..., Any] | None = None,
    wrt: Any = None,
    corrected: bool | None = None,
    rules: Rules | None = None,
    input_scale: Callable[..., Any] | None = None,
) -> Specs:
    r"""The `ParamSpec` of every parameter of a model that knows nothing of parametrizations.

    **Sizes.** An axis grows if its size differs between `base` and `delta`; `target` says nothing
    about that. Every size grows at its own rate. A target may have another number of scanned
    layers, or of unrolled layers of one kind.

    **The program.** What an axis does is read off the program of a call, whatever it is written in.
    The model is called with `inputs`, abstractly, at the three sizes, and each parameter is
    followed to the places where it is multiplied, added or looked up. A parameter that is the same
    at all sizes needs no answer, and jaxmup layers keep the specs that they declare.

    **Rules** override the program; where it disagrees is a finding of `jaxmup.lint`:

    - for a path, `rules={"blocks/*/kernel": ("input", "output")}`, in which `*` matches any text,
      and which is for the matches with as many axes as it names;
    - for the axis names that a sharded model has on its parameters, as
      `rules={("embed", "mlp"): ("input", "output")}`;
    - as axis names themselves: `nnx.Param(values, mup_axes=("input", "output"))`, or in Linen
      `nn.with_partitioning(init, ("input", "output"))`, with `None` for a batch axis.

    Without `inputs` there is no program, and nothing is guessed: every parameter that grows needs
    one of these. That is for programs that cannot be traced.

    **Factors.** What muP asks for in the forward pass and the program lacks becomes the
    `forward_gain` of parameters, which initial values and learning rates carry, so that the
    unmodified model trains as muP does. The program says how each value grows once its parameters
    follow muP, as an exact power of every size by itself: logits of attention that are divided by
    :math:`\sqrt{d}` lack :math:`\sqrt{d_0 / d}`, those of a tied embedding lack
    :math:`n_0 / n`, an embedding that is multiplied by :math:`\sqrt{n}` lacks
    :math:`\sqrt{n_0 / n}`, and a norm undoes whatever it normalizes. Where the program adds values
    or applies what is not homogeneous, they must agree, and the gains are the fewest that make
    them. What no gain can do, as for the queries of a norm with the gain `1 + scale`, is an error
    that names the line and the factor. Sums are taken as aligned, inputs and state as of one size.
    What jaxmup layers apply themselves is part of the program; they carry nothing more.

    A plain model applies no multipliers, so `resolve` takes the specs in gauges that ask for none:
    `jaxmup.parametrization("mup", "adam", gauge="table3")`. `jaxmup.rescale` makes the initial
    values that belong to them.

    Args:
      make_model: Function of a size that returns an NNX module, a Linen module, or any tree with
        arrays, such as the class itself, or a `jaxmup.Model`, which says how it is called. It is
        only evaluated abstractly.
      base: Size of the base model: a mapping of keyword arguments, or one positional argument.
      delta: Size at which every axis that belongs to the width differs from `base`, and no other;
        all larger or all smaller. Small numbers will do: `{"width": 128}` beside `{"width": 64}`.
      target: Size of the model to train, larger or smaller than `base`.
      inputs: Arguments of a call, as in `jaxmup.Model`: shapes will do. `None` for those of the
        `Model`.
      apply: Function that calls the model, as in `jaxmup.Model`.
      wrt: Parameters that train, as in `jaxmup.Model`; the specs are theirs alone.
      corrected: True if the model is called through `jaxmup.corrected`, as in `jaxmup.Model`: what
        no parameter can carry is then part of the specs, not an error.
      rules: Kind of each axis, `"input"`, `"output"` or `"batch"`, by path or axis names.
      input_scale: Function of a size that returns the typical size of the coordinates of `inputs`:
        a number, or one for each array in a tree like `inputs`; only their ratios count. Such as
        `lambda width: width**0.5` for features that grow so. All of one size if left out.

    Returns:
      A tree like the parameters of the target, `nnx.state(model, nnx.Param)` or
      `module.init(...)["params"]`, with a `ParamSpec` at each leaf. In any other tree `None` stands
      in the place of what is no parameter.

    Raises:
      TypeError: if a model with `inputs` cannot be called, a Linen module has none, or a rule is no
        rule.
      ValueError: naming the parameters: if the structures of the models differ, nothing grows, some
        axes grow and others shrink, an axis that does not grow has another size at the target
        though it is summed over, axes are unknown, a rule does not fit, or a tensor is too large to
        address. Naming lines of the program: if it does other things at other sizes, has an
        operation of which nobody knows how it grows, makes a matrix itself, or lacks a factor that
        no parameter can carry.

    Warns:
      UserWarning: if the program contradicts a rule; if an axis grows by a line with an offset in a
        size of the model, as `4 * width + 1`, which is in no proportion to the others; if parts of
        one axis grow unlike each other, as in a projection whose columns are of fixed and of
        growing number: one number for the tensor cannot be right for both.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> import jaxmup
      >>> def make_model(width, rngs):
      ...     hidden = nnx.Linear(width, width, rngs=rngs)
      ...     return nnx.Sequential(hidden, nnx.Linear(width, 10, rngs=rngs))
      >>> sizes = {"base": 64, "delta": 128, "target": 1024}
      >>> inputs = lambda width: jax.ShapeDtypeStruct((1, width), "float32")
      >>> specs = jaxmup.infer(make_model, **sizes, inputs=inputs)
      >>> specs["layers"][0]["kernel"].role, specs["layers"][1]["kernel"].role
      ('hidden', 'output')

      Any function, here one with a tied readout beside a norm that can carry its factor:

      >>> import jax.numpy as jnp
      >>> def make_params(width):
      ...     return {"embed": jnp.zeros((50, width)), "scale": jnp.ones(width)}
      >>> def apply(params, tokens):
      ...     x = params["embed"][tokens]
      ...     x = x / jnp.sqrt((x**2).mean(-1, keepdims=True)) * params["scale"][None]
      ...     return x @ params["embed"].T
      >>> tokens = jax.ShapeDtypeStruct((8,), "int32")
      >>> specs = jaxmup.infer(make_params, **sizes, inputs=tokens, apply=apply)
      >>> specs["embed"].role, specs["scale"].forward_gain
      ('input', 0.0625)

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Appendix B (kinds of parameters) and
      Definition 4.1 (attention); the comparison of base and delta: Appendix H.
    """
    model = as_model(make_model, inputs=inputs, apply=apply, wrt=wrt, corrected=corrected)
    return off_mesh(lambda: _inferred(model, base, delta, target, rules, input_scale))


def _inferred(
    model: Model,
    base: Size,
    delta: Size,
    target: Size,
    rules: Rules | None,
    input_scale: Callable[..., Any] | None,
) -> Specs:
    # What is frozen says of the model what it is, such as whether it has a readout.
    whole = dataclasses.replace(model, wrt=None)
    at_base, at_delta, at_target = (
        whole.at(size, what)
        for size, what in ((base, "base"), (delta, "delta"), (target, "target"))
    )
    small, other, large = map(describe, (at_base, at_delta, at_target))
    _require_same_structure(small, other, "delta")
    like = {name: (leaf.shape, other[name].shape) for name, leaf in small.items()}
    names = counterparts(like, large)
    _require_same_structure({name: small[names[name]] for name in names}, large, "target")
    leaves = {
        name: Sizes(leaf, small[names[name]].shape, other[names[name]].shape)
        for name, leaf in with_rules(large, rules).items()
    }
    require_growth(leaves)
    warn_of_offsets(leaves, (base, delta, target))
    trained = at_target if model.wrt is None else model.at(target, "target")
    if whole.inputs is not None:
        programs = programs_of(
            at_base, at_delta, at_target, lambda size: whole.at(size, "target"), input_scale
        )
        frozen = {names[name] for name in names if name not in trained.parameters}
        last = large if programs.knows_target else other
        multipliers = multipliers_of(small, other, last, names)
        leaves = _read(programs, leaves, names, frozen, model.corrected, multipliers)
    leaves = {name: sizes.with_fixed_axes() for name, sizes in leaves.items()}
    asked = {name: leaves[name] for name in trained.parameters}
    if whole.inputs is None:
        require_given(asked, at_base)
    require_read(asked, at_base)
    known = {name: sizes for name, sizes in leaves.items() if sizes.leaf.kinds is not None}
    require_fixed_sizes(known)
    return trained.like_params({name: sizes.spec() for name, sizes in known.items()})


def _read(
    programs: Programs,
    leaves: Mapping[str, Sizes],
    names: Mapping[str, str],
    frozen: set[str],
    corrects: bool,
    multipliers: Mapping[str, tuple[float, ...]] | None,
) -> dict[str, Sizes]:
    """The parameters with what the program says of them, where no rule does."""
    kinds = {names[name]: sizes.leaf.kinds for name, sizes in leaves.items()}
    given = {name: found for name, found in kinds.items() if found is not None}
    reader = Reader(programs, given, frozen, corrects, multipliers)
    readings = {name: reader.read(names[name]) for name in leaves}
    for name, sizes in leaves.items():
        reading, shown = readings[name], reader.shown[names[name]]
        found = tuple(contradictions(name, sizes, shown, reading.uses))
        readings[name] = dataclasses.replace(reading, findings=(*reading.findings, *found))
    _warn_of_contradictions(readings)
    return {name: sizes.with_read(readings[name]) for name, sizes in leaves.items()}


def _warn_of_contradictions(readings: Mapping[str, Reading]) -> None:
    wrong = [
        f"`{name}`"
        for name, reading in readings.items()
        if any(finding.check == "rule-contradicted" for finding in reading.findings)
    ]
    if wrong:
        _check.warn(
            f"The program says otherwise than the rules for {joined(wrong)}; `jaxmup.lint(specs)` "
            "shows where. The rules win."
        )


def _require_same_structure(base: Mapping[str, Leaf], other: Mapping[str, Leaf], what: str) -> None:
    """Raises a `ValueError` unless both have the same parameters, with the same numbers of axes."""
    names = dict.fromkeys([*base, *other])
    differences = [
        f"{name}: {_shape(base.get(name))} in `base`, {_shape(other.get(name))} in `{what}`"
        for name in names
        if name not in base or name not in other or len(base[name].shape) != len(other[name].shape)
    ]
    if differences:
        raise ValueError(
            f"`base` and `{what}` must have the same parameters, with the same layers and numbers "
            f"of axes. They differ at{listed(differences)}\n"
            "Build them with the same options, at other sizes."
        )


def _shape(leaf: Leaf | None) -> str:
    return "missing" if leaf is None else str(leaf.shape)
