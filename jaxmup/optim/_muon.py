"""Muon on the hidden matrices of a model, Adam on everything else."""

import math
from typing import Any

import jax
import optax
from optax import contrib

from jaxmup._families import FAMILIES
from jaxmup._spec import AxisKind, ParamSpec, require_positive
from jaxmup._tree import map_named, require_leaves
from jaxmup.functional import scale
from jaxmup.optim._checks import Scalings, require_same_paths
from jaxmup.optim._direction import from_direction
from jaxmup.optim._weight_decay import WeightDecayMode

_SPECS = "Use `jaxmup.nnx.specs`, `jaxmup.linen.specs` or `jaxmup.infer`."


def muon(
    learning_rate: optax.ScalarOrSchedule,
    scalings: Any,
    specs: Any,
    beta: float = 0.95,
    eps: float = 1e-8,
    mu_dtype: Any = None,
    *,
    ns_coeffs: Any = (3.4445, -4.7750, 2.0315),
    ns_steps: int = 5,
    nesterov: bool = True,
    preconditioning: Any = "frobenius",
    consistent_rms: float | None = None,
    adam_b1: float = 0.9,
    adam_b2: float = 0.999,
    adam_eps_root: float = 0.0,
    adam_lr_scale: float = 1.0,
    weight_decay: float | None = None,
    weight_decay_mode: WeightDecayMode = "decoupled",
    mask: Any = None,
    peak_learning_rate: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Muon under a parametrization; at base width it is `optax.contrib.muon`.

    Hidden matrices, both of whose sides grow, take orthogonalized steps; all other parameters train
    with Adam (NAdam where `nesterov`, as in optax). A hidden matrix of base fans `fan_in` and
    `fan_out` moves by

    .. math::
      \eta\, \sqrt{\max(1, fan_{out} / fan_{in})}\, \sqrt{r_{out} / r_{in}}\; U V^T .

    `optax.contrib.muon` takes the fans of the target instead, in which case a matrix whose input
    grows faster than its output learns ever faster with width.

    Args:
      learning_rate: the base model's; a number or a schedule.
      scalings: a tree of `Scaling` for the family `muon`.
      specs: the tree of `ParamSpec` that they were resolved from: it says which axes of a kernel
        are inputs and which are outputs, and the fans at base width.
      beta: decay of the momentum.
      eps: the base model's; beside the norm of a matrix in Muon, beside an entry of the root in
        Adam.
      mu_dtype: dtype of the first moments; `None` for that of the parameter.
      ns_coeffs: coefficients of the Newton-Schulz iteration; see `optax.contrib.scale_by_muon`.
      ns_steps: number of its iterations.
      nesterov: Nesterov's momentum, in Muon and in Adam.
      preconditioning: see `optax.contrib.scale_by_muon`.
      consistent_rms: replaces the factor of the base fans by
        :math:`consistent\_rms \sqrt{\max(fan_{in}, fan_{out})}`; 0.2 gives hidden matrices of the
        base model the step of Adam.
      adam_b1: decay of Adam's first moment.
      adam_b2: decay of Adam's second moment.
      adam_eps_root: added inside Adam's root, in units of the squared gradient.
      adam_lr_scale: factor on the learning rate of what trains with Adam; dimensionless.
      weight_decay: see `adamw`; `None` for none.
      weight_decay_mode: see `adamw`; not `"coupled"`.
      mask: see `adamw`.
      peak_learning_rate: see `adamw`.

    Raises:
      TypeError: if a leaf of `scalings` or `specs` is of another type.
      ValueError: as `adamw`; also if specs and scalings have other paths, or no scaling is of the
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
    require_positive("adam_lr_scale", adam_lr_scale, "1.0 leaves the learning rate as it is.")
    by_name = require_leaves("specs", specs, ParamSpec, _SPECS)
    checked = Scalings(scalings, FAMILIES["muon"])
    require_same_paths("scalings", checked.by_name, specs)
    labels = {name: s.family.name for name, s in checked.by_name.items()}
    if "muon" not in labels.values():
        raise ValueError(
            "`scalings` must be of the family 'muon' at the hidden matrices. Got none of that "
            "family. Use `jaxmup.resolve(specs, jaxmup.parametrization('mup', 'muon'))`; a model "
            "without matrices both of whose sides grow has nothing for Muon to do."
        )
    orthogonalized = contrib.scale_by_muon(
        ns_coeffs,
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
    direction = optax.partition(
        {
            "muon": optax.chain(
                orthogonalized,
                optax.stateless(lambda updates, _: map_named(scale, updates, fans)),
            ),
            "adam": optax.chain(adam, optax.scale(adam_lr_scale)),
        },
        lambda params: map_named(lambda _, label: label, params, labels),
    )
    return from_direction(
        direction,
        learning_rate,
        scalings,
        optimizer="muon",
        weight_decay=weight_decay,
        weight_decay_mode=weight_decay_mode,
        mask=mask,
        peak_learning_rate=peak_learning_rate,
    )


def muon_dimension_numbers(specs: Any) -> Any:
    """What `optax.contrib.scale_by_muon` must know of each parameter's axes.

    Args:
      specs: a tree with a `ParamSpec` at each leaf.

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
