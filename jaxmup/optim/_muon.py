"""Muon on the hidden matrices of a model, Adam on everything else."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike, DTypeLike
from optax import contrib

from jaxmup import _check
from jaxmup._families import FAMILIES
from jaxmup._spec import AxisKind, ParamSpec
from jaxmup._tree import (
    Params,
    PathName,
    Scalings,
    Specs,
    Tree,
    map_named,
    named_leaves,
    require_leaves,
)
from jaxmup.functional import scale
from jaxmup.optim._checks import (
    CheckedScalings,
    Mask,
    checked_mask,
    require_decay_rate,
    require_dtype,
    require_names,
)
from jaxmup.optim._direction import chain_at_base
from jaxmup.optim._weight_decay import WeightDecay, WeightDecayMode

Preconditioning = Literal["frobenius", "spectral", "aol", "schatten"]

_SPECS = "Use `jaxmup.nnx.specs`, `jaxmup.linen.specs` or `jaxmup.infer`."


def muon(
    learning_rate: optax.ScalarOrSchedule,
    scalings: Scalings,
    specs: Specs,
    ns_coeffs: Sequence[ArrayLike | Sequence[ArrayLike]] = (3.4445, -4.7750, 2.0315),
    ns_steps: int = 5,
    beta: ArrayLike = 0.95,
    eps: ArrayLike = 1e-8,
    weight_decay: optax.ScalarOrSchedule | None = None,
    weight_decay_mask: Mask | None = None,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = True,
    preconditioning: Preconditioning = "frobenius",
    adam_b1: ArrayLike = 0.9,
    adam_b2: ArrayLike = 0.999,
    adam_eps_root: ArrayLike = 0.0,
    consistent_rms: float | None = None,
    adam_lr_scale: ArrayLike = 1.0,
    weight_decay_mode: WeightDecayMode = "decoupled",
    peak_learning_rate: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Muon under a parametrization; at base width it is `optax.contrib.muon`.

    Hidden matrices, both of whose sides grow, take orthogonalized steps; all other parameters train
    with Adam (NAdam where `nesterov`, as in optax). A hidden matrix of base fans `fan_in` and
    `fan_out` moves by

    .. math::
      \eta\, \sqrt{\max(1, fan_{out} / fan_{in})}\, \sqrt{r_{out} / r_{in}}\; U V^T .

    `optax.contrib.muon` takes the fans of the target instead, in which case a matrix whose input
    grows faster than its output learns ever faster with width.

    The arguments are those of `optax.contrib.muon` after `specs`, with these differences: `specs`
    say which matrices are Muon's; `adam_lr_scale` is the ratio of the two learning rates, so that
    one schedule serves both; `weight_decay` is for all parameters, those of Adam included;
    `adaptive`, whose step has another degree, and the names of coefficients are left out.

    Args:
      learning_rate: Learning rate of the base model; a number or a schedule.
      scalings: Tree of `Scaling` for the family `muon`.
      specs: Tree of `ParamSpec` that the scalings were resolved from: it says which axes of a
        kernel are inputs and which are outputs, and the fans at base width.
      ns_coeffs: Coefficients of the Newton-Schulz iteration, three or three for each of its steps;
        see `optax.contrib.scale_by_muon`.
      ns_steps: Number of Newton-Schulz iterations.
      beta: Decay of the momentum, in [0, 1).
      eps: Constant of the base model beside the norm of a matrix in Muon, and beside an entry of
        the root in Adam; in units of the gradient.
      weight_decay: Coefficient λ at base width, as in `adamw`; `None` for no decay.
      weight_decay_mask: Leaves that decay, as the `mask` of `adamw`.
      mu_dtype: Dtype of the first moments; `None` for that of the parameter.
      nesterov: Whether the momentum is Nesterov's, in Muon and in Adam.
      preconditioning: Scaling of a matrix before the iteration; see `optax.contrib.scale_by_muon`.
      adam_b1: Decay of Adam's first moment, in [0, 1).
      adam_b2: Decay of Adam's second moment, in [0, 1).
      adam_eps_root: Constant inside Adam's root, in units of the squared gradient.
      consistent_rms: Factor that replaces the one of the base fans by
        :math:`consistent\_rms \sqrt{\max(fan_{in}, fan_{out})}`; 0.2 gives hidden matrices of the
        base model the step of Adam. `None` for the factor of the base fans.
      adam_lr_scale: Factor on the learning rate of what trains with Adam; dimensionless.
      weight_decay_mode: Quantity that the coefficient is multiplied by; see `adamw`. Not
        `"coupled"`.
      peak_learning_rate: Largest value of a schedule, for `"independent"`; see `adamw`.

    Raises:
      TypeError: as `adamw`; also if a leaf of `specs` is no `ParamSpec`, `ns_steps` no integer, or
        a hidden matrix complex.
      ValueError: as `adamw`; also if specs and scalings have other names, or no scaling is of the
        family `muon`.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxmup
      >>> axes = (jaxmup.Axis("input", 8, base=2), jaxmup.Axis("output", 4, base=4))
      >>> specs = {"w": jaxmup.ParamSpec(axes)}
      >>> tx = muon(0.5, jaxmup.resolve(specs, jaxmup.parametrization("mup", "muon")), specs)
      >>> params = {"w": jnp.ones((8, 4))}
      >>> float(jnp.linalg.norm(tx.update(params, tx.init(params))[0]["w"])) < 0.5
      True

    References:
      Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
      Qiu et al., "Hyperparameter Transfer Enables Consistent Gains of Matrix-Preconditioned
      Optimizers Across Scales", arXiv:2512.05620, Table 1.
      Liu et al., "Muon is Scalable for LLM Training", arXiv:2502.16982 (`consistent_rms`).
    """
    for name, rate in {"beta": beta, "adam_b1": adam_b1, "adam_b2": adam_b2}.items():
        require_decay_rate(name, rate)
    _check.number("eps", eps, at_least=0)
    _check.number("adam_eps_root", adam_eps_root, at_least=0)
    remedy = "1.0 leaves the learning rate as it is."
    _check.number("adam_lr_scale", adam_lr_scale, above=0, remedy=remedy)
    _check.size("ns_steps", ns_steps, may_be_traced=True)
    _require_coefficients(ns_coeffs)
    if consistent_rms is not None:
        _check.number("consistent_rms", consistent_rms, above=0)
    _check.one_of("preconditioning", preconditioning, get_args(Preconditioning))
    require_dtype("mu_dtype", mu_dtype)
    _check.flag("nesterov", nesterov)
    by_name = require_leaves("specs", specs, ParamSpec, _SPECS)
    checked = CheckedScalings(scalings, FAMILIES["muon"])
    require_names("scalings", checked.by_name, specs)
    orthogonalized = contrib.scale_by_muon(
        ns_coeffs,  # type: ignore[arg-type]
        ns_steps,
        beta,
        eps,
        mu_dtype,
        nesterov=nesterov,
        preconditioning=preconditioning,
        weight_dimension_numbers=lambda updates: map_named(
            lambda _, spec: _dimension_numbers(spec), updates, by_name
        ),
    )
    fans = {name: _fan_factor(spec, consistent_rms) for name, spec in by_name.items()}
    adam = optax.scale_by_adam(
        adam_b1, adam_b2, eps, adam_eps_root, mu_dtype=mu_dtype, nesterov=nesterov
    )
    labels = _labels(checked)
    direction = optax.partition(
        {
            "muon": optax.chain(
                orthogonalized,
                optax.stateless(lambda updates, _: map_named(scale, updates, fans)),
            ),
            "adam": optax.chain(adam, optax.scale(adam_lr_scale)),
        },
        lambda params: _labelled(params, labels),
    )
    mask = checked_mask("weight_decay_mask", weight_decay_mask)
    decay = WeightDecay(weight_decay, weight_decay_mode, mask, peak_learning_rate)
    return chain_at_base(direction, learning_rate, checked, FAMILIES["muon"], decay)


def _labelled(params: Params, labels: Mapping[PathName, str]) -> Tree:
    """The name of the family that each parameter trains with, at its place in the tree.

    Raises:
      TypeError: if a matrix of Muon is complex: the iteration takes its transpose unconjugated.
    """
    found = [
        name
        for name, x in named_leaves(params)
        if labels[name] == "muon" and jnp.issubdtype(x.dtype, jnp.complexfloating)
    ]
    if found:
        raise TypeError(
            "Muon orthogonalizes real matrices. Got complex numbers in"
            f"{_check.listed(found)}\nTrain them with `jaxmup.optim.adam`, by `optax.partition`."
        )
    return map_named(lambda _, label: label, params, labels)


def _labels(scalings: CheckedScalings) -> dict[PathName, str]:
    """The name of the family that each parameter trains with."""
    labels = {name: scaling.family.name for name, scaling in scalings.by_name.items()}
    if "muon" not in labels.values():
        raise ValueError(
            "`scalings` must be of the family 'muon' at the hidden matrices. Got none of that "
            "family. Use `jaxmup.resolve(specs, jaxmup.parametrization('mup', 'muon'))`; a model "
            "without matrices both of whose sides grow has nothing for Muon to do."
        )
    return labels


def _require_coefficients(ns_coeffs: Sequence[ArrayLike | Sequence[ArrayLike]]) -> None:
    if isinstance(ns_coeffs, str):
        raise TypeError(
            f"`ns_coeffs` must be three numbers, or rows of three. Got {ns_coeffs!r}, a name that "
            "optax has for some. Pass the numbers."
        )
    leaves = jax.tree.leaves(ns_coeffs)
    if any(map(_check.is_traced, leaves)):
        return
    numbers = [x for leaf in leaves for x in (np.ravel(leaf) if np.ndim(leaf) else [leaf])]
    for number in numbers:
        _check.number("ns_coeffs", number)
    if not numbers or len(numbers) % 3:
        raise ValueError(f"`ns_coeffs` must be three numbers, or rows of three. Got {ns_coeffs!r}.")


def muon_dimension_numbers(specs: Specs) -> Tree:
    """The axes of each hidden matrix, as `optax.contrib.scale_by_muon` asks for them.

    Args:
      specs: Tree with a `ParamSpec` at each leaf.

    Returns:
      A tree of the same structure: `optax.contrib.MuonDimensionNumbers` of a hidden matrix, with
      all its input axes and all its output axes; `None` for any other parameter. Batch axes
      (experts, scanned layers, the spatial axes of a convolution) are orthogonalized one by one.

    Raises:
      TypeError: if a leaf is no `ParamSpec`.

    Example:
      >>> import jaxmup
      >>> grows = {"size": 8, "base": 4}
      >>> heads = [jaxmup.Axis("output", **grows), jaxmup.Axis("output", 16)]
      >>> muon_dimension_numbers({"q": jaxmup.ParamSpec((jaxmup.Axis("input", **grows), *heads))})
      {'q': MuonDimensionNumbers(reduction_axis=(0,), output_axis=(1, 2))}
    """
    require_leaves("specs", specs, ParamSpec, _SPECS)
    return jax.tree.map(
        lambda spec: _dimension_numbers(spec) if spec.role == "hidden" else None, specs
    )


def _dimension_numbers(spec: ParamSpec) -> contrib.MuonDimensionNumbers:
    return contrib.MuonDimensionNumbers(_positions(spec, "input"), _positions(spec, "output"))


def _positions(spec: ParamSpec, kind: AxisKind) -> tuple[int, ...]:
    return tuple(i for i, axis in enumerate(spec.axes) if axis.kind == kind)


def _fan_factor(spec: ParamSpec, consistent_rms: float | None) -> float:
    """The factor that optax gives a matrix for its shape, at base width."""
    fan_in, fan_out = (
        math.prod(spec.axes[i].base_size for i in _positions(spec, kind))
        for kind in ("input", "output")
    )
    if consistent_rms is None:
        return math.sqrt(max(1, fan_out / fan_in))
    return consistent_rms * math.sqrt(max(fan_in, fan_out))
