"""The transforms of optax, as data: what each keeps, and by which powers it moves."""

from collections.abc import Mapping
from typing import Any

from jaxmup._opt_state._transform import (
    DECAY,
    FIXED,
    SQUARE,
    UPDATE,
    WEIGHT,
    FieldKind,
    Movement,
    Transform,
)


def _row(
    states: str = "EmptyState",
    returns: Movement = UPDATE,
    hyperparameters: Mapping[str, Movement | None] | None = None,
    *,
    steps: str = "",
    position: str = "",
    gathered: str = "",
    apart: str = "",
    other: str = "",
    update: str = "",
    square: str = "",
    fields: Mapping[str, Movement] | None = None,
    kinds: Mapping[str, FieldKind] | None = None,
    **rest: Any,
) -> Transform:
    """A transform whose fields are listed by their kind, or by the movement that moments have.

    Args:
      states: Names of the types of its state, with spaces between them, as all names below.
      returns: Movement of what it returns.
      hyperparameters: Movement of each.
      steps: Fields that count steps.
      position: Fields that say where a schedule stands.
      gathered: Fields for what has gathered since the last step.
      apart: Fields for the states of transforms with units of their own.
      other: Fields that stay and are none of these.
      update: Moments that move as the updates do.
      square: Moments that move as the squares of updates do.
      fields: Movement of those that move otherwise.
      kinds: Kind of those among them that are no moments.
      **rest: Arguments of `Transform`.
    """
    by_kind: dict[FieldKind, str] = {
        "steps": steps,
        "position": position,
        "gathered": gathered,
        "apart": apart,
        "other": other,
    }
    stay: dict[str, FieldKind] = {
        name: kind for kind, names in by_kind.items() for name in names.split()
    }
    moments = dict.fromkeys(update.split(), UPDATE) | dict.fromkeys(square.split(), SQUARE)
    kept = {**dict.fromkeys(stay, FIXED), **moments, **(fields or {})}
    of_kind: dict[str, FieldKind] = {**stay, **(kinds or {})}
    return Transform(
        tuple(states.split()), kept, returns, hyperparameters or {}, kinds=of_kind, **rest
    )


_ADAM_EPS = {"eps": UPDATE, "eps_root": SQUARE}
_ADAM = _row("ScaleByAdamState", FIXED, _ADAM_EPS, steps="count", update="mu", square="nu")


def _rms(eps: Mapping[str, Movement]) -> Transform:
    states = "ScaleByRmsState ScaleByRmsWithCountState"
    return _row(states, FIXED, eps, steps="count", square="nu")


def _stddev(eps: Mapping[str, Movement]) -> Transform:
    states = "ScaleByRStdDevState ScaleByRStdDevWithCountState"
    return _row(states, FIXED, eps, steps="count", update="mu", square="nu")


# eps inside the root of the second moment, and eps beside it.
_INSIDE = {"eps": SQUARE, "initial_scale": SQUARE}
_BESIDE = {"eps": UPDATE, "initial_scale": SQUARE}

# A type of state that several transforms share is read as that of the first of them.
TRANSFORMS: dict[str, Transform] = {
    # An entry of the gradient over the root of its second moment: what returns has no unit.
    "scale_by_adam": _ADAM,
    "scale_by_yogi": _ADAM,
    "scale_by_radam": _ADAM,  # once its rectification is on; before, it returns the first moment
    "scale_by_amsgrad": _row(
        "ScaleByAmsgradState", FIXED, _ADAM_EPS, steps="count", update="mu", square="nu nu_max"
    ),
    "scale_by_belief": _row(
        "ScaleByBeliefState", FIXED, _ADAM_EPS, steps="count", update="mu", square="nu"
    ),
    "scale_by_adan": _row(
        "ScaleByAdanState", FIXED, _ADAM_EPS, steps="t", update="m v g", square="n"
    ),
    "scale_by_ademamix": _row(
        "ScaleByAdemamixState",
        FIXED,
        _ADAM_EPS,
        steps="count count_m2",
        update="m1 m2",
        square="nu",
    ),
    "scale_by_simplified_ademamix": _row(
        "ScaleBySimplifiedAdEMAMixState", FIXED, _ADAM_EPS, steps="t", update="m", square="n"
    ),
    "scale_by_adamax": _row(  # its second field is a largest absolute value, not a square
        "ScaleByAdamState", FIXED, {"eps": UPDATE}, steps="count", update="mu nu"
    ),
    "scale_by_adopt": _row(  # its first moment is of normalized gradients
        "ScaleByAdamState",
        FIXED,
        {"eps": UPDATE},
        steps="count",
        square="nu",
        fields={"mu": FIXED},
        kinds={"mu": "moment"},
    ),
    "scale_by_novograd": _row(
        "ScaleByNovogradState",
        FIXED,
        {**_ADAM_EPS, "weight_decay": Movement(theta=1)},
        steps="count",
        square="nu",
        fields={"mu": FIXED},
        kinds={"mu": "moment"},
    ),
    "scale_by_rms": _rms(_INSIDE),
    "scale_by_rms(eps_in_sqrt=False)": _rms(_BESIDE),
    "scale_by_stddev": _stddev(_INSIDE),
    "scale_by_stddev(eps_in_sqrt=False)": _stddev(_BESIDE),
    "scale_by_rss": _row(
        "ScaleByRssState",
        FIXED,
        {"eps": SQUARE, "initial_accumulator_value": SQUARE},
        square="sum_of_squares",
    ),
    "scale_by_sm3": _row("ScaleBySM3State", FIXED, {"eps": SQUARE}, other="nu", square="mu"),
    "scale_by_factored_rms": _row(
        "FactoredState", FIXED, {"eps": SQUARE}, steps="count", square="v_row v_col v"
    ),
    # Signs and orthogonal factors.
    "scale_by_lion": _row(
        "ScaleByLionState", FIXED, {"smooth_beta": Movement(update=-1)}, steps="count", update="mu"
    ),
    "scale_by_sign": _row(returns=FIXED),
    "scale_by_rprop": _row(  # its step sizes are learning rates
        "ScaleByRpropState",
        WEIGHT,
        {"learning_rate": WEIGHT, "min_step_size": WEIGHT, "max_step_size": WEIGHT},
        fields={"step_sizes": WEIGHT, "prev_updates": WEIGHT},
    ),
    "scale_by_muon": _row(
        "MuonState", FIXED, {"eps": UPDATE}, steps="count", other="ns_coeffs", update="mu"
    ),
    "scale_by_muon(adaptive=True)": _row(
        "MuonState", UPDATE, {"eps": UPDATE}, steps="count", other="ns_coeffs", update="mu"
    ),
    "scale_by_shape": _row(),
    "scale_by_sophia": _row(  # its estimate of the Hessian mixes parameters
        "SophiaState",
        FIXED,
        {"eps": UPDATE, "gamma": Movement(update=1, theta=-2)},
        steps="count",
        other="hessian_fn_state",
        update="mu",
        fields={"nu": Movement(theta=2)},
        couples=True,
    ),
    # Proportional to the gradient.
    "trace": _row("TraceState", update="trace"),
    "ema": _row("EmaState", steps="count", update="ema"),
    "scale_by_optimistic_gradient": _row(
        "ScaleByOptimisticGradientState", other="is_initial_step", update="previous_gradient"
    ),
    "scale_by_adadelta": _row(  # one eps stands beside squared gradients and squared steps
        "ScaleByAdaDeltaState", hyperparameters={"eps": SQUARE}, square="e_g e_x"
    ),
    "apply_every": _row("ApplyEvery", other="count", update="grad_acc"),
    # Proportional to the parameter.
    "scale_by_trust_ratio": _row(returns=WEIGHT, hyperparameters={"eps": UPDATE, "min_norm": None}),
    "scale_by_param_block_rms": _row(
        returns=Movement(update=1, theta=-1), hyperparameters={"min_scale": WEIGHT}
    ),
    "scale_by_param_block_norm": _row(
        returns=Movement(update=1, theta=-1), hyperparameters={"min_scale": WEIGHT}
    ),
    "add_decayed_weights": _row(
        "EmptyState WeightDecaySchedule", UPDATE, {"weight_decay": DECAY}, position="count"
    ),
    # Thresholds and noise, in the unit of the updates.
    "clip": _row(hyperparameters={"max_delta": UPDATE}),
    "clip_by_block_rms": _row(hyperparameters={"threshold": UPDATE}),
    "adaptive_grad_clip": _row(hyperparameters={"clipping": DECAY, "eps": WEIGHT}),
    "add_noise": _row("AddNoiseState", UPDATE, {"eta": UPDATE}, steps="count", other="rng_key"),
    "clip_by_global_norm": _row(hyperparameters={"max_norm": UPDATE}, couples=True),
    "normalize_by_update_norm": _row(returns=FIXED, hyperparameters={"eps": UPDATE}, couples=True),
    # Without a unit of their own.
    "identity": _row(),
    "scale": _row(),
    "centralize": _row(),
    "keep_params_nonnegative": _row(),
    "zero_nans": _row("ZeroNansState", other="found_nan"),
    "scale_by_learning_rate": _row(
        "EmptyState ScaleByScheduleState", position="count", sets_rate=True
    ),
    # jaxmup's own; the walk knows the factors of each leaf.
    "jaxmup.optim.scale_gradients": _row("ScaleGradientsState"),
    "jaxmup.optim.scale_updates": _row("ScaleUpdatesState", sets_rate=True),
    "a chain of jaxmup.optim": _row("ReadyChainState"),
    "jaxmup.optim.clip_by_global_norm": _row("ClipByGlobalNormState"),
    "jaxmup.optim.from_direction": _row("BaseUnitsState", WEIGHT, apart="inner_state"),
    "jaxmup.optim.in_reference_gauge": _row("ReferenceGaugeState", WEIGHT, apart="inner_state"),
}

# Transforms around other transforms.
WRAPPERS: dict[str, Transform] = {
    "masked": _row("MaskedState", inner="inner_state"),
    "inject_hyperparams": _row(
        "InjectHyperparamsState InjectStatefulHyperparamsState",
        steps="count",
        fields={"hyperparams": FIXED, "hyperparams_states": FIXED},
        kinds={"hyperparams": "rates", "hyperparams_states": "schedules"},
        inner="inner_state",
    ),
    "MultiSteps": _row(
        "MultiStepsState",
        steps="gradient_step",
        gathered="mini_step skip_state",
        fields={"acc_grads": UPDATE},
        kinds={"acc_grads": "gathered"},
        inner="inner_opt_state",
    ),
    "apply_if_finite": _row(
        "ApplyIfFiniteState",
        gathered="notfinite_count last_finite total_notfinite",
        inner="inner_state",
    ),
    "conditionally_transform": _row(
        "ConditionallyTransformState ConditionallyMaskState", other="step", inner="inner_state"
    ),
    "schedule_free": _row(
        "ScheduleFreeState",
        hyperparameters={"learning_rate": Movement(rate=1)},
        other="b1",
        steps="step_count",
        fields={
            "z": WEIGHT,
            "max_lr": Movement(rate=1),
            "weight_sum": Movement(rate=2),  # for the default weight_lr_power
        },
        kinds={"max_lr": "other", "weight_sum": "other"},
        inner="base_optimizer_state",
    ),
}
