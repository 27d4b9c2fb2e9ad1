"""Arguments of ready chains beside those of the optimizers of optax that they are named after."""

import inspect
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import named, require_close
from optax import contrib

import jaxmup
from jaxmup import Axis, ParamSpec, optim

# What each chain has of its own, and what of optax's it leaves out, with the reason.
OWN = {"scalings": "the parametrization", "weight_decay_mode": "what λ is multiplied by"}
OWN |= {"peak_learning_rate": "for 'independent'"}
OF_ADAM = OWN | {"convention": "torch's formula by default"}
NO_DECAY = {"weight_decay": "decay at hand in every chain", "mask": "for it"}
CHAINS: dict[str, tuple[Any, Any, dict[str, str], dict[str, str]]] = {
    "sgd": (optim.sgd, optax.sgd, OWN | NO_DECAY, {}),
    "adam": (optim.adam, optax.adam, OF_ADAM | NO_DECAY, {}),
    "adamw": (optim.adamw, optax.adamw, OF_ADAM, {}),
    "amsgrad": (
        optim.amsgrad,
        optax.amsgrad,
        OF_ADAM | NO_DECAY,
        dict.fromkeys(("bias_correction_mu", "bias_correction_nu"), "both are corrected"),
    ),
    "muon": (
        optim.muon,
        contrib.muon,
        OWN | {"specs": "which matrices, and their fans", "adam_lr_scale": "one schedule for both"},
        {
            "adam_weight_decay": "`weight_decay` is for all",
            "adam_learning_rate": "adam_lr_scale",
            "muon_weight_dimension_numbers": "specs",
            "adaptive": "a step of another degree in the gradient",
        },
    ),
    "scale_by_adam": (
        optim.scale_by_adam,
        optax.scale_by_adam,
        {"amsgrad": "one transform for both", "convention": "torch's formula by default"},
        {},
    ),
}
DEFAULTS = {("muon", "weight_decay"): (None, 0.0)}  # both are none
each_chain = pytest.mark.parametrize("name", CHAINS)


def arguments(function: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


@each_chain
def test_arguments_have_optax_names_order_kinds_and_defaults(name):
    chain, stock, own, left_out = CHAINS[name]
    ours = {k: p for k, p in arguments(chain).items() if k not in own}
    theirs = {k: p for k, p in arguments(stock).items() if k not in left_out}
    assert list(ours) == list(theirs)
    for key, parameter in ours.items():
        assert parameter.kind == theirs[key].kind, key
        defaults = parameter.default, theirs[key].default
        assert defaults == DEFAULTS.get((name, key), defaults[::-1]), key
    assert own.keys() <= arguments(chain).keys()
    assert left_out.keys() <= arguments(stock).keys()


@each_chain
def test_what_is_its_own_is_by_name(name):
    """Beside the trees that come second, so that positions after them are optax's."""
    chain, _, own, _ = CHAINS[name]
    parameters = arguments(chain)
    positional = [k for k in own if parameters[k].kind != inspect.Parameter.KEYWORD_ONLY]
    assert positional == [k for k in ("scalings", "specs") if k in own]
    assert list(parameters)[1 : 1 + len(positional)] == positional


# ---- at base width, step by step

KERNEL = ParamSpec((Axis("input", 8, base=8), Axis("output", 4, base=4)))
SPECS = {"w": KERNEL, "b": ParamSpec((Axis("output", 4, base=4),))}
SCHEDULE = optax.linear_schedule(0.0, 0.5, 5)
RATE = optax.cosine_decay_schedule(0.1, 8)
MASK = {"w": True, "b": False}


def scalings(optimizer: str) -> Any:
    return jaxmup.resolve(SPECS, named(f"mup {optimizer}"))


def drawn(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return {n: jnp.asarray(rng.normal(size=s.shape), jnp.float32) for n, s in SPECS.items()}


def trained(tx: Any, steps: int = 6) -> Any:
    params = drawn(0)
    state = tx.init(params)
    for i in range(steps):
        updates, state = tx.update(drawn(i + 1), state, params)
        params = optax.apply_updates(params, updates)
    return params


DIRECTIONS = {
    "adamw": (optax.scale_by_adam, optax.adamw, "adam"),
    "nadamw": (partial(optax.scale_by_adam, nesterov=True), optax.nadamw, "adam"),
    "lion": (optax.scale_by_lion, partial(optax.lion, b1=0.9, b2=0.99), "lion"),
}


@pytest.mark.parametrize("rate", [0.1, RATE], ids=["rate", "schedule"])
@pytest.mark.parametrize("decay", [0.1, SCHEDULE], ids=["number", "schedule"])
@pytest.mark.parametrize("name", DIRECTIONS)
def test_decay_is_that_of_optax_bit_for_bit(name, decay, rate):
    """With optax's own direction, so that the decay is all there is to differ."""
    direction, stock, optimizer = DIRECTIONS[name]
    tx = optim.from_direction(
        direction(), rate, scalings(optimizer), optimizer=optimizer, weight_decay=decay, mask=MASK
    )
    expected = trained(stock(rate, weight_decay=decay, mask=MASK))
    jax.tree.map(np.testing.assert_array_equal, trained(tx), expected)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.1, SCHEDULE], ids=["number", "schedule"])
def test_adamw_takes_the_arguments_of_optax_by_position(decay, nesterov):
    given = (0.8, 0.95, 0.1, 0.01, None, decay, MASK)
    ours = trained(optim.adamw(RATE, scalings("adam"), *given, nesterov=nesterov))
    require_close(ours, trained(optax.adamw(RATE, *given, nesterov=nesterov)), "adam", "float32")


def test_muon_takes_the_arguments_of_optax_by_position():
    given = ((3.4445, -4.7750, 2.0315), 3, 0.9, 1e-7, 0.1, MASK, None)
    ours = trained(optim.muon(RATE, scalings("muon"), SPECS, *given, nesterov=False))
    stock = contrib.muon(RATE, *given, nesterov=False)
    require_close(ours["w"], trained(stock)["w"], "constant gauge", "float32")


# By hand: with η = 1/2 and its peak 1, λ = 0.1, 0.2, ... at the steps and no gradient, a bias of 1
# at twice its base width loses of w in the first two steps ...
FACTORS = {
    "decoupled": (1 - 0.5 * 0.1) * (1 - 0.5 * 0.2),  # η λ
    "independent": (1 - 0.5 * 0.1) * (1 - 0.5 * 0.2),  # (η / peak) λ
    "absolute": (1 - 0.1) * (1 - 0.2),  # λ
}


@pytest.mark.parametrize("mode", FACTORS)
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "amsgrad", "muon"])
def test_a_schedule_of_decay_in_every_mode(name, mode):
    specs = {"b": ParamSpec((Axis("output", 8, base=4),)), "w": KERNEL}
    optimizer = name if name in ("sgd", "muon") else "adam"
    tree = jaxmup.resolve(specs, named(f"mup {optimizer}"))
    more = {"specs": specs} if name == "muon" else {}
    tx = getattr(optim, name)(
        0.5,
        tree,
        **more,
        weight_decay=lambda count: 0.1 * (count + 1),
        weight_decay_mode=mode,
        peak_learning_rate=1.0,
    )
    params = {"b": jnp.ones(8), "w": jnp.ones((8, 4))}
    state, nothing = tx.init(params), jax.tree.map(jnp.zeros_like, params)
    update = jax.jit(tx.update)
    for _ in range(2):
        updates, state = update(nothing, state, params)
        params = optax.apply_updates(params, updates)
    require_close(params["b"], jnp.full(8, FACTORS[mode]), "update", "float32")


@pytest.mark.parametrize("mode", ["decoupled", "independent", "absolute", "coupled"])
def test_an_injected_schedule_of_decay_is_the_plain_one(mode):
    """A schedule by `optax.inject_hyperparams` starts at step 0, as a plain one does."""
    make = partial(optim.adamw, RATE, scalings("adam"), weight_decay_mode=mode)
    make = partial(make, peak_learning_rate=0.1)
    injected = optax.inject_hyperparams(lambda weight_decay: make(weight_decay=weight_decay))
    plain = trained(make(weight_decay=SCHEDULE))
    require_close(trained(injected(weight_decay=SCHEDULE)), plain, "adam", "float32")
    direct = optax.inject_hyperparams(optim.adamw)(
        RATE,
        scalings("adam"),
        weight_decay=SCHEDULE,
        weight_decay_mode=mode,
        peak_learning_rate=0.1,
    )
    require_close(trained(direct), plain, "adam", "float32")


def test_the_count_of_a_schedule_is_moved_and_converted_like_optax():
    """Its state has optax's type: what walks the states of optimizers knows it."""
    tx = optim.adamw(0.1, scalings("adam"), weight_decay=SCHEDULE)
    state = tx.init(drawn(0))
    _, state = tx.update(drawn(1), state, drawn(0))
    assert jaxmup.bridge.schedule_position(state) == 1
    moved = jaxmup.gauge.regauge_run(
        drawn(0), state, *map(named, ("mup adam table8", "mup adam table3")), specs=SPECS
    )
    assert jax.tree.structure(moved.opt_state) == jax.tree.structure(state)


FLAGS = [("sgd", "nesterov"), ("adam", "nesterov"), ("adamw", "nesterov"), ("muon", "nesterov")]
FLAGS += [("scale_by_adam", "nesterov"), ("scale_by_adam", "amsgrad")]


@pytest.mark.parametrize("value", [1, 0, None, "False", 0.9, jnp.asarray(True)], ids=str)
@pytest.mark.parametrize(("name", "flag"), FLAGS)
def test_a_flag_is_a_boolean(name, flag, value):
    """`nesterov=0.9` was meant to be the momentum, and "False" is true."""
    given: dict[str, Any] = {"momentum": 0.9} if name == "sgd" else {}
    if name != "scale_by_adam":
        given |= {"learning_rate": 0.1, "scalings": scalings(name if name in BY_NAME else "adam")}
    if name == "muon":
        given["specs"] = SPECS
    with pytest.raises(TypeError, match=f"^`{flag}` must be True or False. Got "):
        getattr(optim, name)(**given, **{flag: value})


BY_NAME = ("sgd", "muon")


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(ValueError, match=r"`nesterov` needs a `momentum`. Got None"):
        optim.sgd(0.1, scalings("sgd"), nesterov=True)
