"""Optimizers fed with one sequence of gradients: against `torch.optim` itself and `torch_ref`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
import pytest
import torch
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

import jaxmup
import torch_ref
from jaxmup import optim
from parity_tests import bridge
from parity_tests.tolerances import TOL, relative

LR, MOMENTUM, BETAS, DECAY = 0.02, 0.9, (0.8, 0.95), 0.1
B1, B2 = BETAS

# Tensor Programs V, Table 3, for a kernel at 2 and a bias at 3 times the base widths: the rate of
# SGD is r_out / r_in, that of Adam 1 / r_in; eps is of the size of the gradient, 1 / r_out.
SGD_LRS = {"0/kernel": 3 / 2, "0/bias": 3.0}
ADAM_LRS = {"0/kernel": 1 / 2, "0/bias": 1.0}
ADAM_EPS = {"0/kernel": 1 / 3, "0/bias": 1 / 3}


def scalings(family: Any) -> Any:
    return jaxmup.resolve(bridge.SPECS, jaxmup.parametrization("mup", family, gauge="table3"))


def sgd_groups(**shared: Any) -> dict[str, dict[str, Any]]:
    """Groups in which weight decay acts on the effective rate lr * decay as it would alone."""
    decay = shared.pop("weight_decay", 0.0)
    return {
        name: {"lr": LR * lr, "weight_decay": decay / lr, **shared} for name, lr in SGD_LRS.items()
    }


def adam_groups(
    *, eps: float = 1e-8, decay: float = 0.0, mode: str = "decoupled"
) -> dict[str, dict[str, Any]]:
    """Groups that decay by what each mode promises; see `jaxmup.optim.adamw`."""
    promised = {
        "decoupled": lambda name: decay / ADAM_LRS[name],
        "coupled": lambda name: decay * ADAM_EPS[name] / ADAM_LRS[name],
        "absolute": lambda name: decay,
        "independent": lambda name: decay / (LR * ADAM_LRS[name]),
    }[mode]
    return {
        name: {
            "lr": LR * ADAM_LRS[name],
            "eps": eps * ADAM_EPS[name],
            "weight_decay": promised(name),
        }
        for name in ADAM_LRS
    }


class Pair(NamedTuple):
    """An optimizer of jaxmup, given its learning rate, and torch's, given its groups."""

    ours: Callable[[Any], optax.GradientTransformation]
    theirs: Callable[[Any], torch.optim.Optimizer]
    groups: dict[str, dict[str, Any]]


def sgd(*, momentum: float = 0.0, nesterov: bool = False, decay: float = 0.0) -> Pair:
    return Pair(
        lambda lr: optim.sgd(
            lr,
            scalings("sgd"),
            momentum or None,
            nesterov,
            weight_decay=decay,
            weight_decay_mode="coupled",
        ),
        lambda groups: SGD(groups, momentum=momentum, nesterov=nesterov),
        sgd_groups(weight_decay=decay),
    )


def adam(mode: Any = "decoupled", decay: float = 0.0, *, amsgrad: bool = False) -> Pair:
    ours: Any = optim.amsgrad if amsgrad else optim.adam
    theirs: Any = Adam if mode == "coupled" or not decay else AdamW
    return Pair(
        lambda lr: ours(
            lr,
            scalings("adam"),
            B1,
            B2,
            weight_decay=decay,
            weight_decay_mode=mode,
            peak_learning_rate=LR,
        ),
        lambda groups: theirs(groups, betas=BETAS, amsgrad=amsgrad),
        adam_groups(decay=decay, mode=mode),
    )


PAIRS = {
    "SGD": sgd(),
    "SGD + L2": sgd(decay=DECAY),
    "momentum": sgd(momentum=MOMENTUM),
    "Nesterov + L2": sgd(momentum=MOMENTUM, nesterov=True, decay=DECAY),
    "Adam": adam(),
    "Adam + L2": adam("coupled", DECAY),
    "AdamW": adam("decoupled", DECAY),
    "AdamW, independent": adam("independent", LR * DECAY),
    "AMSGrad": adam(amsgrad=True),
    "AMSGrad + L2": adam("coupled", DECAY, amsgrad=True),
    "AMSGrad + decoupled": adam("decoupled", DECAY, amsgrad=True),
}
EVERY_PAIR = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)

WARM_UP, STEPS, EVERY = 20, 120, 4


def warm_up_and_cosine(optimizer: torch.optim.Optimizer) -> LRScheduler:
    warm_up = LinearLR(optimizer, start_factor=0.1, total_iters=WARM_UP)
    cosine = CosineAnnealingLR(optimizer, T_max=STEPS - WARM_UP)
    return SequentialLR(optimizer, [warm_up, cosine], [WARM_UP])


@EVERY_PAIR
def test_constant_learning_rate(pair, agree):
    ours = bridge.jax_steps(pair.ours(LR))
    agree("hundred steps", ours, bridge.torch_steps(pair.theirs, pair.groups))


@EVERY_PAIR
def test_warm_up_and_cosine(pair, agree):
    schedule = optax.warmup_cosine_decay_schedule(LR / 10, LR, WARM_UP, STEPS)
    # optax divides an integer count in float32, whatever the parameters are
    ours = bridge.jax_steps(pair.ours(lambda count: schedule(count.astype(jnp.float64))))
    theirs = bridge.torch_steps(pair.theirs, pair.groups, warm_up_and_cosine)
    agree("schedule", ours, theirs)


@EVERY_PAIR
def test_gradient_accumulation(pair, agree):
    multi = optax.MultiSteps(pair.ours(LR), EVERY, accumulator_dtype=jnp.float64)
    ours = bridge.jax_steps(multi.gradient_transformation())
    from_first_update = bridge.Steps(
        *({name: array[EVERY - 1 :] for name, array in tree.items()} for tree in ours)
    )
    theirs = bridge.torch_steps(pair.theirs, pair.groups, accumulate=EVERY)
    agree("hundred steps", from_first_update, theirs)


# ------------------------------------------------------------------------- labml's conventions

DECAYS = {"no decay": ("decoupled", 0.0), "coupled": ("coupled", DECAY)}
DECAYS |= {"decoupled": ("decoupled", DECAY), "absolute": ("absolute", LR * DECAY)}


@pytest.mark.parametrize(("mode", "decay"), DECAYS.values(), ids=DECAYS)
@pytest.mark.parametrize("amsgrad", [False, True], ids=["adam", "amsgrad"])
@pytest.mark.parametrize("eps", [1e-16, 1e-8])
@pytest.mark.parametrize("optimized_update", [True, False])
def test_labml(optimized_update, eps, amsgrad, mode, decay, agree):
    make = optim.amsgrad if amsgrad else optim.adam
    ours = make(
        LR,
        scalings("adam"),
        B1,
        B2,
        eps,
        convention="labml" if optimized_update else "torch",
        weight_decay=decay,
        weight_decay_mode=mode,
    )
    theirs = bridge.torch_steps(
        lambda groups: torch_ref.Adam(
            groups, betas=BETAS, decay=mode, amsgrad=amsgrad, optimized_update=optimized_update
        ),
        adam_groups(eps=eps, decay=decay, mode=mode),
    )
    agree("hundred steps", bridge.jax_steps(ours), theirs)


# ------------------------------------------------------------------------------- optax.amsgrad


def plain(tx: optax.GradientTransformation) -> bridge.Tree:
    return bridge.jax_steps(tx).params


def test_convention_optax_is_optax(agree):
    ours = optim.scale_by_adam(B1, B2, amsgrad=True, convention="optax")
    expected = plain(optax.amsgrad(LR, B1, B2))
    agree("hundred steps", plain(optax.chain(ours, optax.scale(-LR))), expected)


def test_optax_amsgrad_is_not_torchs(agree, note):
    groups = {name: {"lr": LR} for name in bridge.SPECS}
    torchs = bridge.torch_steps(lambda g: Adam(g, betas=BETAS, amsgrad=True), groups).params
    ours = optim.scale_by_adam(B1, B2, amsgrad=True)
    agree("hundred steps", plain(optax.chain(ours, optax.scale(-LR))), torchs)
    difference = relative(plain(optax.amsgrad(LR, B1, B2)), torchs)
    note(f"optax.amsgrad is not torch's: they differ by {difference:.2f} after {STEPS} steps")
    assert difference > TOL["optax.amsgrad"].largest
