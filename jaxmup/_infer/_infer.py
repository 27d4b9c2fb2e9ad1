"""The specs of an unmodified model, from the shapes of its parameters at three sizes."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxmup._check import listed
from jaxmup._infer._depth import counterparts
from jaxmup._infer._describe import describe
from jaxmup._infer._leaf import Leaf
from jaxmup._infer._read import Programs, Reader, programs_of
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
    rules: Rules | None = None,
) -> Specs:
    r"""The `ParamSpec` of every parameter of a model that knows nothing of parametrizations.

    Two questions are asked of every axis. *Does it grow?* It does if its size differs between
    `base` and `delta`; `target` says nothing about that. *What does it do?* The layers of Flax
    answer by their type. For other parameters, such as `self.param` or `nnx.Param` of a module of
    your own or any leaf of a plain tree, the axes are given in one of three ways:

    - a rule for a path, `rules={"blocks/*/kernel": ("input", "output")}`; `*` matches any text;
    - metadata: `nnx.Param(values, mup_axes=("input", "output"))`, or in Linen
      `nn.with_partitioning(init, ("input", "output"))`; `None` is for a batch axis;
    - a rule for the axis names that a sharded model has on its parameters already,
      `rules={("embed", "mlp"): ("input", "output")}`.

    A parameter for which none of these answers is an error, and so is a rule that contradicts the
    layer. jaxmup layers keep the specs that they declare. Axes that `scan` and `vmap` add are batch
    axes; a target may have another number of scanned layers, or of unrolled layers of one kind.

    A plain model applies no multipliers, so `resolve` takes the specs in gauges that ask for none:
    `jaxmup.parametrization("mup", "adam", gauge="table3")`. `jaxmup.rescale` makes the initial
    values that belong to them.

    **Attention.** Flax's attention divides its logits by :math:`\sqrt{d}`, muP by
    :math:`d / \sqrt{d_0}`. Where the head size grows from d₀ to d, the missing factor
    :math:`\sqrt{d_0 / d}` is the `forward_gain` of the query kernel and bias, or with
    `normalize_qk=True`, where a norm of the queries undoes what their kernel is multiplied by, of
    the scale of that norm. The initial values and learning rates carry it, so the unmodified model
    trains as muP does. Factors that commute with a dot product, such as rotary embeddings, change
    nothing about it. Attention of your own is not seen: divide its logits by :math:`d / \sqrt{d_0}`
    yourself, or grow the number of heads instead of their size.

    **Tied embeddings.** muP keeps the standard deviation of an embedding and divides its logits by
    r. One tensor in an unmodified forward pass cannot do both, so `Embed.attend` in a Linen module,
    and an embedding in a model with no readout, are errors: use jaxmup's `Embed`. If the embedding
    is not tied, or you divide the logits yourself, say so by a rule for it, `("batch", "output")`.

    Args:
      make_model: Function of a size that returns an NNX module, a Linen module, or any tree with
        arrays, such as the class itself, or a `jaxmup.Model`, which says how it is called. It is
        only evaluated abstractly.
      base: Size of the base model: a mapping of keyword arguments, or one positional argument.
      delta: Size at which every axis that belongs to the width differs from `base`, and no other;
        all larger or all smaller. Small numbers will do: `{"width": 128}` beside `{"width": 64}`.
      target: Size of the model to train, larger or smaller than `base`.
      inputs: Arguments of a call, as in `jaxmup.Model`. A Linen module needs them.
      apply: Function that calls the model, as in `jaxmup.Model`.
      wrt: Parameters that train, as in `jaxmup.Model`; the specs are theirs alone.
      rules: Kind of each axis, `"input"`, `"output"` or `"batch"`, by path or axis names.

    Returns:
      A tree like the parameters of the target, `nnx.state(model, nnx.Param)` or
      `module.init(...)["params"]`, with a `ParamSpec` at each leaf. In any other tree `None` stands
      in the place of what is no parameter.

    Raises:
      TypeError: if there are no `inputs` for a Linen module, or a rule is no rule.
      ValueError: naming the parameters: if the structures of the models differ, nothing grows, some
        axes grow and others shrink, an axis that does not grow has another size at the target
        though a layer sums over it, axes are unknown, a rule does not fit, a tensor is too large to
        address, or a tied embedding or unknown attention cannot be muP unmodified.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> def make_model(width, rngs):
      ...     hidden = nnx.Linear(width, width, rngs=rngs)
      ...     return nnx.Sequential(hidden, nnx.Linear(width, 10, rngs=rngs))
      >>> specs = jaxmup.infer(make_model, base=64, delta=128, target=1024)
      >>> specs["layers"][0]["kernel"].role, specs["layers"][1]["kernel"].role
      ('hidden', 'output')

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Appendix B (kinds of parameters) and
      Definition 4.1 (attention); the comparison of base and delta: Appendix H.
    """
    model = as_model(make_model, inputs=inputs, apply=apply, wrt=wrt)
    # What is frozen says of the model what it is, such as whether it has a readout.
    whole = dataclasses.replace(model, wrt=None)
    small, other, large = (
        describe(whole.at(size, what))
        for what, size in (("base", base), ("delta", delta), ("target", target))
    )
    _require_same_structure(small, other, "delta")
    like = {name: (leaf.shape, other[name].shape, leaf.placed) for name, leaf in small.items()}
    names = counterparts(like, large)
    _require_same_structure({name: small[names[name]] for name in names}, large, "target")
    programs = programs_of(whole, base, delta, target)
    leaves = {
        name: leaf.agreeing(small[names[name]]).agreeing(other[names[name]])
        for name, leaf in large.items()
    }
    if programs is not None:
        leaves = {name: leaf.without_type() for name, leaf in leaves.items()}
    leaves = with_rules(leaves, rules)
    trained = model.at(target, "target")
    if programs is not None:
        frozen = {names[name] for name in names if name not in trained.parameters}
        leaves = _read(programs, leaves, names, frozen)
    leaves = {
        name: leaf.with_fixed_axes(small[names[name]], other[names[name]])
        for name, leaf in leaves.items()
    }
    require_kinds({name: leaves[name] for name in trained.parameters})
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
    programs: Programs, leaves: Mapping[str, Leaf], names: Mapping[str, str], frozen: set[str]
) -> dict[str, Leaf]:
    """The leaves with what the program says of them, where no rule does."""
    given = {names[name]: leaf.kinds for name, leaf in leaves.items() if leaf.kinds is not None}
    declared = {names[name] for name, leaf in leaves.items() if leaf.spec is not None}
    reader = Reader(programs, given, frozen | declared, has_gains=not declared)
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
