"""Complex parameters: |g|² here, as in optax; in torch real and imaginary part by themselves."""

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import jaxmup
from jaxmup import bridge, optim

SPECS = {"w": jaxmup.ParamSpec((jaxmup.Axis("output", 3, base=3),))}
SCALINGS = {
    name: jaxmup.resolve(SPECS, jaxmup.parametrization("mup", name)) for name in ("adam", "sgd")
}
ADAGRAD = optax.chain(optim.scale_by_adagrad(), optax.scale(-0.1))

PAIRS: dict[str, tuple[Any, Any]] = {
    "adam": (optim.adam(0.1, SCALINGS["adam"]), partial(torch.optim.Adam, lr=0.1)),
    "adamw": (
        optim.adamw(0.1, SCALINGS["adam"], weight_decay=0.1),
        partial(torch.optim.AdamW, lr=0.1, weight_decay=0.1),
    ),
    "amsgrad": (
        optim.amsgrad(0.1, SCALINGS["adam"]),
        partial(torch.optim.Adam, lr=0.1, amsgrad=True),
    ),
    "adagrad": (ADAGRAD, partial(torch.optim.Adagrad, lr=0.1)),
    "sgd": (
        optim.sgd(0.1, SCALINGS["sgd"], momentum=0.9),
        partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    ),
}
ONE_AXIS, BOTH = (1.0, 1j), 1 + 1j


def trained(tx: Any, phase: complex, steps: int = 5) -> np.ndarray:
    params = {"w": jnp.asarray(phase * drawn(0))}
    state = tx.init(params)
    for i in range(steps):
        updates, state = tx.update({"w": jnp.asarray(phase * drawn(i + 1))}, state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray(params["w"])


def trained_in_torch(make: Any, phase: complex, steps: int = 5) -> np.ndarray:
    w = torch.nn.Parameter(torch.from_numpy(phase * drawn(0)))
    optimizer = make([w])
    for i in range(steps):
        w.grad = torch.from_numpy(phase * drawn(i + 1))
        optimizer.step()
    return w.detach().numpy()


def parts(w: np.ndarray) -> np.ndarray:
    return np.stack([w.real, w.imag])


def drawn(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=3).astype(np.complex128)


@pytest.mark.parametrize("phase", ONE_AXIS, ids=["real", "imaginary"])
@pytest.mark.parametrize(("tx", "make"), PAIRS.values(), ids=PAIRS)
def test_where_one_part_is_zero_it_is_torch(tx, make, phase, agree):
    agree("fifty steps", parts(trained(tx, phase)), parts(trained_in_torch(make, phase)))


@pytest.mark.parametrize("name", ["adam", "amsgrad", "adagrad"])
def test_where_both_parts_move_torch_goes_further(name, agree):
    """On a gradient of 1 + i torch steps by 1 + i, as two numbers; here a step has the size 1."""
    tx, make = PAIRS[name]
    steps = [trained(tx, BOTH, 1), trained_in_torch(make, BOTH, 1)]
    ours, theirs = (np.abs(w - BOTH * drawn(0)) for w in steps)
    agree("fixed point", ours, np.full(3, 0.1))
    agree("fixed point", theirs, np.full(3, 0.1 * np.sqrt(2)))


def test_sgd_is_torch_in_any_phase(agree):
    tx, make = PAIRS["sgd"]
    agree("fifty steps", parts(trained(tx, BOTH)), parts(trained_in_torch(make, BOTH)))


def state_of(make: Any) -> tuple[dict[str, Any], Any, Any]:
    w = torch.nn.Parameter(torch.from_numpy(BOTH * drawn(0)))
    optimizer = make([w])
    w.grad = torch.from_numpy(BOTH * drawn(1))
    optimizer.step()
    params = {"w": jnp.asarray(w.detach().numpy())}
    return optimizer.state_dict(), bridge.plan({"w": w.detach()}, params), params


def test_complex_second_moments_have_no_counterpart():
    state, plan, params = state_of(PAIRS["adam"][1])
    tx = optim.adam(0.1, SCALINGS["adam"])
    with pytest.raises(ValueError, match=r"second moment must be real. `exp_avg_sq` of w is compl"):
        bridge.optimizer_from_torch(state, plan, tx, params, names=["w"])
    with pytest.raises(ValueError, match=r"second moment must be real. `exp_avg_sq` of w is compl"):
        bridge.optimizer_to_torch(tx.init(params), plan, tx, params, state, names=["w"])


def test_complex_momentum_goes_over():
    state, plan, params = state_of(PAIRS["sgd"][1])
    tx = optax.sgd(0.1, momentum=0.9)
    made = bridge.optimizer_from_torch(state, plan, tx, params, names=["w"])
    np.testing.assert_array_equal(made[0].trace["w"], BOTH * drawn(1))
