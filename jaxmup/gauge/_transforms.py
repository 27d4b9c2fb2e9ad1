r"""How every optax transform moves with the gauge, as data.

A gauge move stores a parameter as `w / θ` and multiplies it by `θ m` in the forward pass, so that
the effective weight stays. Gradients grow by θ, and the step that is added to `w` must shrink by θ.
Between the two, each transform of a chain receives updates that have grown by some factor u: θ for
a gradient, 1 after Adam has divided by the root of its second moment, 1/θ after the learning rate.
A field of the state, a hyper-parameter and what the transform returns move by powers of u and θ
that depend on the transform alone; its place in the chain says the rest.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple


class Movement(NamedTuple):
    """A factor `u^update · θ^theta · rate^rate`.

    Args:
      update: power of u, the factor on the updates that come in.
      theta: power of θ.
      rate: power of the factor on the learning rate of the optimizer.

    Example:
      >>> Movement(update=1, theta=1).at(update=2.0, theta=4.0)
      8.0
    """

    update: float = 0
    theta: float = 0
    rate: float = 0

    def at(self, update: float, theta: float, rate: float = 1.0) -> float:
        """The factor, from the factors on the updates, on the gauge and on the learning rate."""
        return float(update**self.update * theta**self.theta * rate**self.rate)


FIXED = Movement()
UPDATE = Movement(update=1)
SQUARE = Movement(update=2)
WEIGHT = Movement(theta=-1)  # moves as the stored weight
DECAY = Movement(update=1, theta=1)  # makes λ w move as the updates do


@dataclasses.dataclass(frozen=True)
class Transform:
    """How one transform moves.

    Args:
      states: names of the types that its state may have.
      fields: how the fields of the state move.
      returns: how the updates that it returns move.
      hyperparameters: how they move; those that stay are left out, and `None` stands for one that
        cannot move and must be 0.
      inner: the field that holds the state of the transforms that this one wraps.
      couples: whether it mixes parameters, so that only one θ for all of them is a symmetry.
      sets_rate: whether it is where the learning rate enters.

    Example:
      >>> TRANSFORMS["scale_by_adam"].fields["nu"]
      Movement(update=2, theta=0, rate=0)
    """

    states: tuple[str, ...] = ("EmptyState",)
    fields: Mapping[str, Movement] = dataclasses.field(default_factory=dict)
    returns: Movement = UPDATE
    hyperparameters: Mapping[str, Movement | None] = dataclasses.field(default_factory=dict)
    inner: str | None = None
    couples: bool = False
    sets_rate: bool = False


def _fields(fixed: str = "", update: str = "", square: str = "") -> dict[str, Movement]:
    return {
        **dict.fromkeys(fixed.split(), FIXED),
        **dict.fromkeys(update.split(), UPDATE),
        **dict.fromkeys(square.split(), SQUARE),
    }


_ADAM_EPS = {"eps": UPDATE, "eps_root": SQUARE}
_ADAM = Transform(("ScaleByAdamState",), _fields("count", "mu", "nu"), FIXED, _ADAM_EPS)
_RMS = ("ScaleByRmsState", "ScaleByRmsWithCountState")
_STDDEV = ("ScaleByRStdDevState", "ScaleByRStdDevWithCountState")

TRANSFORMS: dict[str, Transform] = {
    # An entry of the gradient over the root of its second moment: what returns has no unit.
    "scale_by_adam": _ADAM,
    "scale_by_yogi": _ADAM,
    "scale_by_radam": _ADAM,  # once its rectification is on; before, it returns the first moment
    "scale_by_amsgrad": Transform(
        ("ScaleByAmsgradState",), _fields("count", "mu", "nu nu_max"), FIXED, _ADAM_EPS
    ),
    "scale_by_belief": Transform(
        ("ScaleByBeliefState",), _fields("count", "mu", "nu"), FIXED, _ADAM_EPS
    ),
    "scale_by_adan": Transform(("ScaleByAdanState",), _fields("t", "m v g", "n"), FIXED, _ADAM_EPS),
    "scale_by_ademamix": Transform(
        ("ScaleByAdemamixState",), _fields("count count_m2", "m1 m2", "nu"), FIXED, _ADAM_EPS
    ),
    "scale_by_simplified_ademamix": Transform(
        ("ScaleBySimplifiedAdEMAMixState",), _fields("t", "m", "n"), FIXED, _ADAM_EPS
    ),
    "scale_by_adamax": Transform(  # its second field is a largest absolute value, not a square
        ("ScaleByAdamState",), _fields("count", "mu nu"), FIXED, {"eps": UPDATE}
    ),
    "scale_by_adopt": Transform(  # its first moment is of normalized gradients
        ("ScaleByAdamState",), _fields("count mu", "", "nu"), FIXED, {"eps": UPDATE}
    ),
    "scale_by_novograd": Transform(
        ("ScaleByNovogradState",),
        _fields("count mu", "", "nu"),
        FIXED,
        {**_ADAM_EPS, "weight_decay": Movement(theta=1)},
    ),
    "scale_by_rms": Transform(
        _RMS, _fields("count", "", "nu"), FIXED, {"eps": SQUARE, "initial_scale": SQUARE}
    ),
    "scale_by_rms(eps_in_sqrt=False)": Transform(
        _RMS, _fields("count", "", "nu"), FIXED, {"eps": UPDATE, "initial_scale": SQUARE}
    ),
    "scale_by_stddev": Transform(
        _STDDEV, _fields("count", "mu", "nu"), FIXED, {"eps": SQUARE, "initial_scale": SQUARE}
    ),
    "scale_by_stddev(eps_in_sqrt=False)": Transform(
        _STDDEV, _fields("count", "mu", "nu"), FIXED, {"eps": UPDATE, "initial_scale": SQUARE}
    ),
    "scale_by_rss": Transform(
        ("ScaleByRssState",),
        _fields("", "", "sum_of_squares"),
        FIXED,
        {"eps": SQUARE, "initial_accumulator_value": SQUARE},
    ),
    "scale_by_sm3": Transform(
        ("ScaleBySM3State",), _fields("nu", "", "mu"), FIXED, {"eps": SQUARE}
    ),
    "scale_by_factored_rms": Transform(
        ("FactoredState",), _fields("count", "", "v_row v_col v"), FIXED, {"eps": SQUARE}
    ),
    # Signs and orthogonal factors.
    "scale_by_lion": Transform(
        ("ScaleByLionState",), _fields("count", "mu"), FIXED, {"smooth_beta": Movement(update=-1)}
    ),
    "scale_by_sign": Transform(returns=FIXED),
    "scale_by_rprop": Transform(  # its step sizes are learning rates
        ("ScaleByRpropState",),
        {"step_sizes": WEIGHT, "prev_updates": WEIGHT},
        WEIGHT,
        {"learning_rate": WEIGHT, "min_step_size": WEIGHT, "max_step_size": WEIGHT},
    ),
    "scale_by_muon": Transform(
        ("MuonState",), _fields("count ns_coeffs", "mu"), FIXED, {"eps": UPDATE}
    ),
    "scale_by_muon(adaptive=True)": Transform(
        ("MuonState",), _fields("count ns_coeffs", "mu"), UPDATE, {"eps": UPDATE}
    ),
    "scale_by_shape": Transform(),
    "scale_by_sophia": Transform(  # its estimate of the Hessian mixes parameters
        ("SophiaState",),
        {**_fields("count hessian_fn_state", "mu"), "nu": Movement(theta=2)},
        FIXED,
        {"eps": UPDATE, "gamma": Movement(update=1, theta=-2)},
        couples=True,
    ),
    # Proportional to the gradient.
    "trace": Transform(("TraceState",), _fields("", "trace")),
    "ema": Transform(("EmaState",), _fields("count", "ema")),
    "scale_by_optimistic_gradient": Transform(
        ("ScaleByOptimisticGradientState",), _fields("is_initial_step", "previous_gradient")
    ),
    "scale_by_adadelta": Transform(  # one eps stands beside squared gradients and squared steps
        ("ScaleByAdaDeltaState",), _fields("", "", "e_g e_x"), hyperparameters={"eps": SQUARE}
    ),
    "apply_every": Transform(("ApplyEvery",), _fields("count", "grad_acc")),
    # Proportional to the parameter.
    "scale_by_trust_ratio": Transform(
        returns=WEIGHT, hyperparameters={"eps": UPDATE, "min_norm": None}
    ),
    "scale_by_param_block_rms": Transform(
        returns=Movement(update=1, theta=-1), hyperparameters={"min_scale": WEIGHT}
    ),
    "scale_by_param_block_norm": Transform(
        returns=Movement(update=1, theta=-1), hyperparameters={"min_scale": WEIGHT}
    ),
    "add_decayed_weights": Transform(
        ("EmptyState", "WeightDecaySchedule"),
        _fields("count"),
        hyperparameters={"weight_decay": DECAY},
    ),
    # Thresholds and noise, in the unit of the updates.
    "clip": Transform(hyperparameters={"max_delta": UPDATE}),
    "clip_by_block_rms": Transform(hyperparameters={"threshold": UPDATE}),
    "adaptive_grad_clip": Transform(hyperparameters={"clipping": DECAY, "eps": WEIGHT}),
    "add_noise": Transform(
        ("AddNoiseState",), _fields("count rng_key"), hyperparameters={"eta": UPDATE}
    ),
    "clip_by_global_norm": Transform(hyperparameters={"max_norm": UPDATE}, couples=True),
    "normalize_by_update_norm": Transform(
        returns=FIXED, hyperparameters={"eps": UPDATE}, couples=True
    ),
    # Without a unit of their own.
    "identity": Transform(),
    "scale": Transform(),
    "centralize": Transform(),
    "keep_params_nonnegative": Transform(),
    "zero_nans": Transform(("ZeroNansState",), _fields("found_nan")),
    "scale_by_learning_rate": Transform(
        ("EmptyState", "ScaleByScheduleState"), _fields("count"), sets_rate=True
    ),
    # jaxmup's own; the walk knows the factors of each leaf.
    "jaxmup.optim.scale_gradients": Transform(("ScaleGradientsState",)),
    "jaxmup.optim.scale_updates": Transform(("ScaleUpdatesState",), sets_rate=True),
    "a chain of jaxmup.optim": Transform(("ReadyChainState",)),
    "jaxmup.optim.clip_by_global_norm": Transform(("ClipByGlobalNormState",)),
    "jaxmup.optim.from_direction": Transform(("BaseUnitsState",), _fields("inner_state"), WEIGHT),
    "jaxmup.optim.in_reference_gauge": Transform(
        ("ReferenceGaugeState",), _fields("inner_state"), WEIGHT
    ),
}

# Transforms around other transforms.
WRAPPERS: dict[str, Transform] = {
    "masked": Transform(("MaskedState",), inner="inner_state"),
    "inject_hyperparams": Transform(
        ("InjectHyperparamsState", "InjectStatefulHyperparamsState"),
        _fields("count hyperparams_states"),
        inner="inner_state",
    ),
    "MultiSteps": Transform(
        ("MultiStepsState",),
        _fields("mini_step gradient_step skip_state", "acc_grads"),
        inner="inner_opt_state",
    ),
    "apply_if_finite": Transform(
        ("ApplyIfFiniteState",),
        _fields("notfinite_count last_finite total_notfinite"),
        inner="inner_state",
    ),
    "conditionally_transform": Transform(
        ("ConditionallyTransformState", "ConditionallyMaskState"),
        _fields("step"),
        inner="inner_state",
    ),
    "schedule_free": Transform(
        ("ScheduleFreeState",),
        {
            **_fields("b1 step_count"),
            "z": WEIGHT,
            "max_lr": Movement(rate=1),
            "weight_sum": Movement(rate=2),  # for the default weight_lr_power
        },
        hyperparameters={"learning_rate": Movement(rate=1)},
        inner="base_optimizer_state",
    ),
}
