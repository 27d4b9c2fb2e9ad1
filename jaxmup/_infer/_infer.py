"""The specs of an unmodified model, from its program or its layers at three sizes."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxmup._check import listed
from jaxmup._infer._depth import counterparts
from jaxmup._infer._describe import describe
from jaxmup._infer._leaf import Leaf
from jaxmup._infer._programs import Programs, multipliers_of, programs_of
from jaxmup._infer._read import Reader
from jaxmup._infer._rules import Rules, require_kinds, with_rules
from jaxmup._infer._sizes import (
    Sizes,
    require_fixed_sizes,
    require_growth,
    require_known_attention,
    require_readout,
)
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
) -> Specs:
    r"""The `ParamSpec` of every parameter of a model that knows nothing of parametrizations.

    Two questions are asked of every axis. *Does it grow?* It does if its size differs between
    `base` and `delta`; `target` says nothing about that. *What does it do?* With `inputs`, the
    program of a call answers, whatever it is written in: at `base`, `delta` and `target` it is
    traced abstractly, and each parameter is followed to the places where it is multiplied, added or
    looked up. No rules are needed. Without `inputs` nothing can be traced: the layers of Flax
    answer by their type, and for all other parameters you do.

    The answers can be given, and such an answer wins over the program, in one of three ways:

    - a rule for a path, `rules={"blocks/*/kernel": ("input", "output")}`; `*` matches any text;
    - metadata: `nnx.Param(values, mup_axes=("input", "output"))`, or in Linen
      `nn.with_partitioning(init, ("input", "output"))`; `None` is for a batch axis;
    - a rule for the axis names that a sharded model has on its parameters already,
      `rules={("embed", "mlp"): ("input", "output")}`.

    jaxmup layers keep the specs that they declare. A target may have another number of scanned
    layers, or of unrolled layers of one kind. A parameter that is the same at all sizes needs no
    answer.

    A plain model applies no multipliers, so `resolve` takes the specs in gauges that ask for none:
    `jaxmup.parametrization("mup", "adam", gauge="table3")`. `jaxmup.rescale` makes the initial
    values that belong to them.

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

    Without `inputs`, Flax's attention alone is known to lack its factor; attention of your own and
    a tied embedding are not seen, unless the model has no readout, which is an error.

    Args:
      make_model: Function of a size that returns an NNX module, a Linen module, or any tree with
        arrays, such as the class itself, or a `jaxmup.Model`, which says how it is called. It is
        only evaluated abstractly.
      base: Size of the base model: a mapping of keyword arguments, or one positional argument.
      delta: Size at which every axis that belongs to the width differs from `base`, and no other;
        all larger or all smaller. Small numbers will do: `{"width": 128}` beside `{"width": 64}`.
      target: Size of the model to train, larger or smaller than `base`.
      inputs: Arguments of a call, as in `jaxmup.Model`: shapes will do. A Linen module needs them;
        an NNX module without is read by the types of its layers, any other tree by rules alone.
      apply: Function that calls the model, as in `jaxmup.Model`.
      wrt: Parameters that train, as in `jaxmup.Model`; the specs are theirs alone.
      corrected: True if the model is called through `jaxmup.corrected`, as in `jaxmup.Model`: what
        no parameter can carry is then part of the specs, not an error.
      rules: Kind of each axis, `"input"`, `"output"` or `"batch"`, by path or axis names.

    Returns:
      A tree like the parameters of the target, `nnx.state(model, nnx.Param)` or
      `module.init(...)["params"]`, with a `ParamSpec` at each leaf. In any other tree `None` stands
      in the place of what is no parameter.

    Raises:
      TypeError: if there are no `inputs` for a Linen module, or a rule is no rule.
      ValueError: naming the parameters: if the structures of the models differ, nothing grows, some
        axes grow and others shrink, an axis that does not grow has another size at the target
        though a layer sums over it, axes are unknown, a rule does not fit, or a tensor is too large
        to address. Naming lines of the program: if it does other things at other sizes, has an
        operation of which nobody knows how it grows, makes a matrix itself, or lacks a factor that
        no parameter can carry. Without `inputs`: if a tied embedding or unknown attention cannot be
        muP unmodified.

    Warns:
      UserWarning: if parts of one axis grow unlike each other, as in a projection whose columns are
        of fixed and of growing number: one number for the tensor cannot be right for both.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> def make_model(width, rngs):
      ...     hidden = nnx.Linear(width, width, rngs=rngs)
      ...     return nnx.Sequential(hidden, nnx.Linear(width, 10, rngs=rngs))
      >>> specs = jaxmup.infer(make_model, base=64, delta=128, target=1024)
      >>> specs["layers"][0]["kernel"].role, specs["layers"][1]["kernel"].role
      ('hidden', 'output')

      Read off the program of any function, a tied readout beside a norm that can carry its factor:

      >>> import jax
      >>> import jax.numpy as jnp
      >>> def make_params(width):
      ...     return {"embed": jnp.zeros((50, width)), "scale": jnp.ones(width)}
      >>> def apply(params, tokens):
      ...     x = params["embed"][tokens]
      ...     x = x / jnp.sqrt((x**2).mean(-1, keepdims=True)) * params["scale"][None]
      ...     return x @ params["embed"].T
      >>> tokens = jax.ShapeDtypeStruct((8,), "int32")
      >>> sizes = {"base": 64, "delta": 128, "target": 1024}
      >>> specs = jaxmup.infer(make_params, **sizes, inputs=tokens, apply=apply)
      >>> specs["embed"].role, specs["scale"].forward_gain
      ('input', 0.0625)

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Appendix B (kinds of parameters) and
      Definition 4.1 (attention); the comparison of base and delta: Appendix H.
    """
    model = as_model(make_model, inputs=inputs, apply=apply, wrt=wrt, corrected=corrected)
    # What is frozen says of the model what it is, such as whether it has a readout.
    whole = dataclasses.replace(model, wrt=None)
    at_base, at_delta, at_target = (
        whole.at(size, what)
        for size, what in ((base, "base"), (delta, "delta"), (target, "target"))
    )
    small, other, large = map(describe, (at_base, at_delta, at_target))
    _require_same_structure(small, other, "delta")
    like = {name: (leaf.shape, other[name].shape, leaf.placed) for name, leaf in small.items()}
    names = counterparts(like, large)
    _require_same_structure({name: small[names[name]] for name in names}, large, "target")
    programs = programs_of(at_base, at_delta, at_target, lambda size: whole.at(size, "target"))
    leaves = {
        name: leaf.agreeing(small[names[name]]).agreeing(other[names[name]])
        for name, leaf in large.items()
    }
    if programs is not None:
        leaves = {name: leaf.without_type() for name, leaf in leaves.items()}
    leaves = with_rules(leaves, rules)
    trained = at_target if model.wrt is None else model.at(target, "target")
    if programs is not None:
        frozen = {names[name] for name in names if name not in trained.parameters}
        multipliers = multipliers_of(small, other, large if programs.knows_target else other, names)
        leaves = _read(programs, leaves, names, frozen, model.corrected, multipliers)
    leaves = {
        name: leaf.with_fixed_axes(small[names[name]], other[names[name]])
        for name, leaf in leaves.items()
    }
    require_kinds({name: leaves[name] for name in trained.parameters}, programs is not None)
    sizes = {
        name: Sizes(leaf, small[names[name]].shape, other[names[name]].shape)
        for name, leaf in leaves.items()
        if leaf.kinds is not None
    }
    require_growth(sizes)
    require_fixed_sizes(sizes)
    if programs is None:
        require_known_attention(sizes)
    specs = {name: of_three.spec() for name, of_three in sizes.items()}
    if programs is None:
        require_readout({name: leaves[name] for name in specs}, specs)
    return trained.like_params(specs)


def _read(
    programs: Programs,
    leaves: Mapping[str, Leaf],
    names: Mapping[str, str],
    frozen: set[str],
    corrects: bool,
    multipliers: Mapping[str, Sequence[float]] | None,
) -> dict[str, Leaf]:
    """The leaves with what the program says of them, where no rule does."""
    given = {names[name]: leaf.kinds for name, leaf in leaves.items() if leaf.kinds is not None}
    reader = Reader(programs, given, frozen, corrects, multipliers)
    return {name: leaf.with_read(reader.read(names[name])) for name, leaf in leaves.items()}


def _require_same_structure(base: Mapping[str, Leaf], other: Mapping[str, Leaf], what: str) -> None:
    """Raises a `ValueError` unless both have the same parameters, with the same numbers of axes."""
    names = dict.fromkeys([*base, *other])
    differences = [
        f"{name}: {_shape(base.get(name))} in `base`, {_shape(other.get(name))} in `{what}`"
        for name in names
        if name not in base or name not in other or not base[name].is_like(other[name])
    ]
    if differences:
        raise ValueError(
            f"`base` and `{what}` must have the same parameters, with the same layers and numbers "
            f"of axes. They differ at{listed(differences)}\n"
            "Build them with the same options, at other sizes."
        )


def _shape(leaf: Leaf | None) -> str:
    return "missing" if leaf is None else str(leaf.shape)
