"""The state of an optimizer from torch and to it; no torch here, its states are typed."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import cases

import jaxmup
from jaxmup import bridge
from jaxmup.bridge._optax_states import leaf_like
from jaxmup.bridge._torch_optimizers import TORCH_OPTIMIZERS

WEIGHT = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])  # (outputs, inputs)
BIAS = np.array([7.0, 8.0, 9.0])
TENSORS = {"dense.weight": WEIGHT, "dense.bias": BIAS}
PARAMS = {"dense": {"kernel": WEIGHT.T, "bias": BIAS}}
NAMES = list(TENSORS)
STEP = 3

SGD = {"momentum": 0.9, "dampening": 0, "weight_decay": 0, "nesterov": False, "maximize": False}
ADAM = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False}
ADAM |= {"maximize": False, "decoupled_weight_decay": False}
ADAMW = ADAM | {"weight_decay": 0.01, "decoupled_weight_decay": True}
RMSPROP = {"alpha": 0.99, "eps": 1e-8, "momentum": 0, "centered": False, "weight_decay": 0}
ADAGRAD = {"lr_decay": 0, "eps": 1e-10, "initial_accumulator_value": 0, "weight_decay": 0}
KEPT = {"Adam": ("exp_avg", "exp_avg_sq"), "SGD": ("momentum_buffer",), "RMSprop": ("square_avg",)}
KEPT |= {"Adagrad": ("sum",)}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def torch_state(group: Mapping[str, Any], *keys: str, **changes: Any) -> dict[str, Any]:
    """A state after three steps; the moments of a tensor are its multiples."""
    state: dict[int, dict[str, Any]] = {}
    for i, tensor in enumerate(TENSORS.values()):
        state[i] = {key: (k + 1) * tensor for k, key in enumerate(keys)}
        if keys != ("momentum_buffer",):
            state[i]["step"] = np.float32(STEP)
    return {"state": state, "param_groups": [{"lr": 0.1, **group, "params": [0, 1]}], **changes}


@pytest.fixture(scope="module")
def plan() -> bridge.Plan:
    return bridge.plan(TENSORS, PARAMS)


def adam(**arguments: Any) -> optax.GradientTransformation:
    return optax.adam(**{"learning_rate": 0.1, **arguments})


def adamw(**arguments: Any) -> optax.GradientTransformation:
    return optax.adamw(**{"learning_rate": 0.1, "weight_decay": 0.01, **arguments})


AMSGRAD = ADAM | {"amsgrad": True}
CENTERED = RMSPROP | {"centered": True, "momentum": 0.5}
EXACT: dict[str, tuple[Any, ...]] = {
    "SGD": (SGD, "momentum_buffer"),
    "Nesterov": (SGD | {"nesterov": True, "weight_decay": 0.1}, "momentum_buffer"),
    "dampened": (SGD | {"dampening": 0.4, "maximize": True}, "momentum_buffer"),
    "Adam with L2": (ADAM | {"weight_decay": 0.1}, "exp_avg", "exp_avg_sq"),
    "AdamW": (ADAMW, "exp_avg", "exp_avg_sq"),
    "AMSGrad": (AMSGRAD, "exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    "RMSprop": (RMSPROP, "square_avg"),
    "centered": (CENTERED, "square_avg", "grad_avg", "momentum_buffer"),
    "Adagrad": (ADAGRAD | {"lr_decay": 0.1}, "sum"),
}


@pytest.mark.parametrize("row", EXACT.values(), ids=EXACT)
def test_there_and_back(row: tuple[Any, ...], plan: bridge.Plan) -> None:
    """The counterpart that is named is accepted, and its state holds torch's, transposed."""
    group, *keys = row
    state = torch_state(group, *keys)
    (named,) = bridge.parameter_groups(state, plan, names=NAMES)
    assert named.paths == ("dense/kernel", "dense/bias")
    tx = eval(named.counterpart, {"optax": optax, "jaxmup": jaxmup})
    here = bridge.optimizer_from_torch(state, plan, tx, PARAMS, names=NAMES, step=STEP)
    kernels = [x for x in jax.tree.leaves(here) if x.shape == (2, 3)]
    assert sorted(float(x[0, 2]) for x in kernels) == [5.0 * (k + 1) for k in range(len(keys))]
    assert all(x == STEP for x in jax.tree.leaves(here) if x.shape == ())

    new = {**state, "state": {}}
    back = bridge.optimizer_to_torch(here, plan, tx, PARAMS, new, names=NAMES, step=STEP)
    assert back["param_groups"] == state["param_groups"]
    for i, kept in state["state"].items():
        assert back["state"][i].keys() == kept.keys()
        for key, array in kept.items():
            np.testing.assert_array_equal(back["state"][i][key], array)
            assert back["state"][i][key].dtype == array.dtype


ADAM_KEYS = ("exp_avg", "exp_avg_sq")
FORMS: dict[str, dict[str, Any]] = {
    "a rate that is a tensor": {"lr": np.float64(0.1)},
    "betas that are tensors": {"betas": (np.array(0.9), np.array(0.999))},
    "fused": {"fused": True, "foreach": None},
    "foreach": {"foreach": True, "fused": None},
    "capturable": {"capturable": True, "differentiable": False},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_forms_of_one_optimizer_are_one(form: dict[str, Any], plan: bridge.Plan) -> None:
    """How torch computes a step, and what it keeps numbers in, is no part of what the step is."""
    state = torch_state(ADAM, *ADAM_KEYS)
    odd = torch_state(ADAM | form, *ADAM_KEYS)
    for kept in odd["state"].values():
        kept["step"] = np.array(STEP, np.float64)
    here, same = (moved(held, plan, adam()) for held in (state, odd))
    jax.tree.map(np.testing.assert_array_equal, here, same)
    back = bridge.optimizer_to_torch(same, plan, adam(), PARAMS, odd, names=NAMES)
    assert back["param_groups"] == odd["param_groups"]


SCHEDULE = {"learning_rate": lambda count: 0.2 / (1.0 + count)}
OTHERS: dict[str, tuple[Any, ...]] = {
    "rate": (ADAM, ADAM_KEYS, adam(learning_rate=0.1001)),
    "rate of a schedule elsewhere": (ADAM, ADAM_KEYS, adam(**SCHEDULE)),
    "b1": (ADAM, ADAM_KEYS, adam(b1=0.91)),
    "b2": (ADAM, ADAM_KEYS, adam(b2=0.9991)),
    "eps": (ADAM, ADAM_KEYS, adam(eps=1.01e-8)),
    "eps in the root": (ADAM, ADAM_KEYS, adam(eps_root=1e-20)),
    "Nesterov's Adam": (ADAM, ADAM_KEYS, adam(nesterov=True)),
    "decay": (ADAMW, ADAM_KEYS, adamw(weight_decay=0.0101)),
    "decay of AdamW for L2": (ADAM | {"weight_decay": 0.01}, ADAM_KEYS, adamw()),
    "no decay": (ADAMW, ADAM_KEYS, adam()),
    "decay of kernels alone": (
        ADAMW,
        ADAM_KEYS,
        adamw(mask=lambda params: is_matrix(params)),
    ),
    "ascent": (ADAM | {"maximize": True}, ADAM_KEYS, adam()),
    "optax's AMSGrad": (AMSGRAD, (*ADAM_KEYS, "max_exp_avg_sq"), optax.amsgrad(0.1)),
    "momentum": (SGD, ("momentum_buffer",), optax.sgd(0.1, 0.91)),
    "Nesterov's momentum": (SGD, ("momentum_buffer",), optax.sgd(0.1, 0.9, nesterov=True)),
    "dampening": (SGD | {"dampening": 0.5}, ("momentum_buffer",), optax.sgd(0.1, 0.9)),
    "optax's RMSprop": (RMSPROP, ("square_avg",), optax.rmsprop(0.1, 0.99)),
    "optax's trace after the rate": (
        RMSPROP | {"momentum": 0.5},
        ("square_avg", "momentum_buffer"),
        optax.rmsprop(0.1, 0.99, eps_in_sqrt=False, momentum=0.5),
    ),
    "optax's Adagrad": (ADAGRAD, ("sum",), optax.adagrad(0.1, 0.0, eps=1e-10)),
    "decay of Adagrad's rate": (
        ADAGRAD | {"lr_decay": 1e-3},
        ("sum",),
        optax.chain(jaxmup.optim.scale_by_adagrad(), optax.scale_by_learning_rate(0.1)),
    ),
}


@pytest.mark.parametrize(("group", "keys", "tx"), cases(OTHERS))
def test_another_step_is_an_error(
    group: Any, keys: tuple[str, ...], tx: Any, plan: bridge.Plan
) -> None:
    state = torch_state(group, *keys)
    with pytest.raises(
        ValueError, match=r"next step of `tx`[\s\S]*dense/(kernel|bias): by .*optax.chain"
    ):
        bridge.optimizer_from_torch(state, plan, tx, PARAMS, names=NAMES, step=STEP)


def moved(state: Mapping[str, Any], plan: bridge.Plan, tx: Any, **arguments: Any) -> Any:
    arguments = {"names": NAMES, **arguments}
    return bridge.optimizer_from_torch(state, plan, tx, PARAMS, **arguments)


def test_wrappers_and_positions(plan: bridge.Plan) -> None:
    """Injected rates, accumulated gradients, clipping, masks, and schedules that began later."""
    state = torch_state(ADAM, *ADAM_KEYS)
    injected = moved(state, plan, optax.inject_hyperparams(optax.adam)(learning_rate=0.7))
    assert injected.hyperparams["learning_rate"] == 0.1
    assert injected.count == injected.inner_state[0].count == STEP

    tx = optax.MultiSteps(optax.chain(optax.clip_by_global_norm(1.0), adam()), 4)
    several = moved(state, plan, tx)
    assert (several.mini_step, several.gradient_step) == (0, STEP)
    assert several.inner_opt_state[1][0].mu["dense"]["kernel"][0, 2] == 5.0
    again = bridge.optimizer_to_torch(several, plan, tx, PARAMS, state, names=NAMES)
    assert again["state"][0]["step"] == STEP
    gathered = several._replace(mini_step=jnp.asarray(1))
    with pytest.raises(ValueError, match="no place for `mini_step`"):
        bridge.optimizer_to_torch(gathered, plan, tx, PARAMS, state, names=NAMES)

    tx = adam(learning_rate=lambda count: 0.2 / count)
    later = moved(state, plan, tx, scheduler={"last_epoch": 2, "base_lrs": [0.2]})
    assert (later[0].count, bridge.schedule_position(later)) == (STEP, 2)

    alone = torch_state(ADAM, *ADAM_KEYS)
    with pytest.raises(ValueError, match=r"in no parameter group: \[1\]"):
        moved(alone | {"param_groups": [{**ADAM, "params": [0]}]}, plan, adam(), names=NAMES[:1])
    del alone["state"][1]
    alone["param_groups"][0] |= {"params": [0], "param_names": ["dense.weight"]}
    frozen = optax.partition({True: adam(), False: optax.set_to_zero()}, is_matrix)
    arrays = jax.tree.leaves(moved(alone, plan, frozen, names=None))
    assert sorted(x.shape for x in arrays) == [(), (2, 3), (2, 3)]
    with pytest.raises(ValueError, match="dense/bias: torch does not train it"):
        moved(alone, plan, adam(), names=None)


def test_init_sees_the_shapes_of_the_parameters(plan: bridge.Plan) -> None:
    """The chains of `jaxmup.optim` compare them with those of their scalings."""

    def init(params: Any) -> optax.EmptyState:
        assert jax.tree.map(jnp.shape, params) == jax.tree.map(np.shape, PARAMS)
        return optax.EmptyState()

    compared = optax.GradientTransformation(init, optax.identity().update)
    state = torch_state(ADAM, *ADAM_KEYS)
    injected = optax.inject_hyperparams(optax.adam)(learning_rate=0.7)
    for inner in (adam(), injected, optax.MultiSteps(adam(), 2)):
        moved(state, plan, optax.chain(compared, inner))


def test_the_transforms_of_a_named_chain_have_counterparts(plan: bridge.Plan) -> None:
    tx = optax.named_chain(("rate", optax.scale(1.0)), ("adam", adam()))
    held = moved(torch_state(ADAM, *ADAM_KEYS), plan, tx)
    assert held["adam"][0].mu["dense"]["kernel"][0, 2] == 5.0


def is_matrix(params: Any) -> Any:
    return jax.tree.map(lambda x: x.ndim == 2, params)


# Powers of the gradient that moments have the unit of, by hand from torch's formulas.
DEGREES: dict[str, tuple[Mapping[str, Any], str]] = {
    "SGD": (SGD, "momentum_buffer 1"),
    "SGD without momentum": (SGD | {"momentum": 0}, ""),
    "Adam": (ADAM, "exp_avg 1 exp_avg_sq 2"),
    "AMSGrad": (AMSGRAD, "exp_avg 1 exp_avg_sq 2 max_exp_avg_sq 2"),
    # Its momentum is of steps whose gradients have been divided by their root mean square.
    "RMSprop": (CENTERED, "square_avg 2 grad_avg 1 momentum_buffer 0"),
    "Adagrad": (ADAGRAD, "sum 2"),
}


@pytest.mark.parametrize(("group", "expected"), cases(DEGREES))
def test_degrees_of_moments(group: Mapping[str, Any], expected: str) -> None:
    (row,) = (row for row in TORCH_OPTIMIZERS if row.marks <= set(group))
    found = " ".join(f"{name} {degree:g}" for name, degree in row.moments(group).items())
    assert found == expected


def test_nnx_and_a_multiplier() -> None:
    """An NNX optimizer's state; gradients of a weight that is stored times 1/4 are 4 times."""
    rule = jaxmup.parametrization("mup", "adam", gauge="table8")
    layer = jaxmup.nnx.Linear(2, 3, base_in_features=1, parametrization=rule, rngs=nnx.Rngs(0))
    tensors = {"weight": WEIGHT.astype("f4"), "bias": BIAS.astype("f4")}
    model, plan = bridge.from_torch(tensors, layer), bridge.plan(tensors, layer)
    factor = plan.entries[0].factor
    assert factor == 2.0  # the layer of role output multiplies by 1/2
    scalings = jaxmup.resolve(jaxmup.nnx.specs(model), rule)
    tx = jaxmup.optim.adam(0.1, scalings)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    state = torch_state(ADAM, *ADAM_KEYS)
    kernel, bias = scalings["kernel"], scalings["bias"]
    state["param_groups"] = [
        {**ADAM, "lr": 0.1 * kernel.lr / factor, "eps": 1e-8 * kernel.eps * factor, "params": [0]},
        {**ADAM, "lr": 0.1 * bias.lr, "eps": 1e-8 * bias.eps, "params": [1]},
    ]
    arguments = {"names": list(tensors)}
    optimizer.opt_state = bridge.optimizer_from_torch(state, plan, tx, model, **arguments)
    adam_state = nnx.as_pure(optimizer.opt_state)[1]
    assert adam_state.mu["kernel"][0, 2] == 5.0 / factor
    assert adam_state.nu["kernel"][0, 2] == 10.0 / factor**2
    back = bridge.optimizer_to_torch(optimizer.opt_state, plan, tx, model, state, **arguments)
    np.testing.assert_array_equal(back["state"][0]["exp_avg_sq"], 2 * WEIGHT)


def without(state: dict[str, Any], key: str) -> dict[str, Any]:
    return {
        **state,
        "state": {i: {k: v for k, v in s.items() if k != key} for i, s in state["state"].items()},
    }


def changed(key: str, value: Any) -> dict[str, Any]:
    state = torch_state(ADAM, *ADAM_KEYS)
    state["state"][0][key] = value
    return state


OLD_ADAMW = {k: v for k, v in ADAMW.items() if k != "decoupled_weight_decay"}
BAD: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "no state": (lambda: {"lr": 0.1}, {}, "keys 'state' and 'param_groups'"),
    "another optimizer": (
        lambda: torch_state({"rho": 0.9, "eps": 1e-6}, "acc_delta"),
        {},
        r"known torch optimizer. Group 0 has .*'rho'[\s\S]*Adagrad",
    ),
    "an old AdamW": (lambda: torch_state(OLD_ADAMW, *ADAM_KEYS), {}, "decoupled_weight_decay"),
    "no names": (lambda: torch_state(ADAM, *ADAM_KEYS), {"names": None}, "Pass `names`"),
    "too few names": (lambda: torch_state(ADAM, *ADAM_KEYS), {"names": NAMES[:1]}, "2 tensors"),
    "unknown names": (
        lambda: torch_state(ADAM, *ADAM_KEYS),
        {"names": ["dense.weight", "other.bias"]},
        r"Not in it:\s+other.bias",
    ),
    "names in another order": (
        lambda: torch_state(ADAM, *ADAM_KEYS),
        {"names": NAMES[::-1]},
        r"dense.weight has \(3, 2\), its `exp_avg` \(3,\)",
    ),
    "a moment is missing": (
        lambda: without(torch_state(ADAM, *ADAM_KEYS), "exp_avg_sq"),
        {},
        r"dense.weight the state lacks \['exp_avg_sq'\]",
    ),
    "a moment too many": (
        lambda: torch_state(ADAM, *ADAM_KEYS, "max_exp_avg_sq"),
        {},
        "dense.weight the state holds .'max_exp_avg_sq'. too",
    ),
    "NaN": (lambda: changed("exp_avg", WEIGHT * np.nan), {}, "`exp_avg` of dense.weight is not"),
    "half a step": (lambda: changed("step", 2.5), {}, "dense.weight has 2.5"),
    "different steps": (lambda: changed("step", 2), {}, r"dense.weight: 2\s+dense.bias: 3"),
    "another number of steps": (lambda: torch_state(ADAM, *ADAM_KEYS), {"step": 4}, "counted, 3"),
    "no scheduler": (
        lambda: torch_state(ADAM, *ADAM_KEYS),
        {"scheduler": {"T_max": 1}},
        "with 'last_epoch'",
    ),
}


@pytest.mark.parametrize(("make", "arguments", "message"), cases(BAD))
def test_bad_input(
    make: Callable[[], Any], arguments: dict[str, Any], message: str, plan: bridge.Plan
) -> None:
    with pytest.raises(ValueError, match=message):
        moved(make(), plan, adam(), **arguments)


def test_states_without_a_counterpart(plan: bridge.Plan) -> None:
    state = torch_state(ADAM, *ADAM_KEYS)
    with pytest.raises(ValueError, match=r"torch \['exp_avg', 'exp_avg_sq'\], `tx` \['momentum_b"):
        moved(state, plan, optax.sgd(0.1, 0.9))
    with pytest.raises(ValueError, match="0: ScaleByLionState"):
        moved(state, plan, optax.lion(0.1))
    schedule = optax.sgd(lambda count: 0.1, 0.9)
    with pytest.raises(ValueError, match="`step`, or `scheduler"):
        moved(torch_state(SGD, "momentum_buffer"), plan, schedule)
    rms = optax.chain(optax.scale_by_rms(0.99, eps_in_sqrt=False), optax.scale(-0.1))
    held = rms.init(PARAMS)
    new = torch_state(RMSPROP, "square_avg")
    with pytest.raises(ValueError, match="RMSprop counts its steps, and `tx` does not"):
        bridge.optimizer_to_torch(held, plan, rms, PARAMS, new, names=NAMES)
    new_sgd = torch_state(SGD | {"dampening": 0.5})
    with pytest.raises(ValueError, match="first step"):
        moved({**new_sgd, "state": {}}, plan, optax.sgd(0.1, 0.9), step=0)


def test_moments_do_not_share_the_memory_of_the_tensors():
    """JAX copies an array of NumPy when its device gets to it; torch has then trained on."""
    memory = np.zeros(1 << 14, np.float32)  # large, and aligned as JAX would share it
    start = -memory.ctypes.data % 64 // 4
    moment = memory[start:][:4096].reshape(64, 64)
    long = jax.jit(lambda x: x @ x @ x @ x)
    big = long(jnp.ones((600, 600)))
    for _ in range(4):
        big = long(big)  # the device has other things to do before it copies
    kept = leaf_like(moment, jnp.ones((64, 64)))
    moment += 1
    assert not np.any(kept)


def frozen_bias() -> optax.GradientTransformation:
    """Adam of the kernel alone."""
    labels = {"dense": {"kernel": "trained", "bias": "frozen"}}
    return optax.partition({"trained": adam(), "frozen": optax.set_to_zero()}, labels)


@pytest.mark.parametrize("left", ["no state", "no step"])
def test_what_never_had_a_gradient_is_untrained(left: str, plan: bridge.Plan) -> None:
    """As torch leaves a frozen parameter, or a pooler that no loss sees, beside trained ones."""
    state = torch_state(ADAM, *ADAM_KEYS)
    zeros = dict.fromkeys(ADAM_KEYS, 0 * BIAS)
    state["state"][1] = {"step": np.float32(0), **zeros}
    if left == "no state":
        del state["state"][1]
    here = bridge.optimizer_from_torch(state, plan, frozen_bias(), PARAMS, names=NAMES)
    assert sorted(x.shape for x in jax.tree.leaves(here) if x.shape) == [(2, 3), (2, 3)]
    assert all(x == STEP for x in jax.tree.leaves(here) if x.shape == ())
    back = bridge.optimizer_to_torch(here, plan, frozen_bias(), PARAMS, state, names=NAMES)
    assert back["state"].keys() == {0}
    np.testing.assert_array_equal(back["state"][0]["exp_avg"], WEIGHT)
    assert back["param_groups"] == state["param_groups"]


def test_what_never_had_a_gradient_must_stand_still_here(plan: bridge.Plan) -> None:
    state = torch_state(ADAM, *ADAM_KEYS)
    del state["state"][1]
    with pytest.raises(ValueError, match="dense/bias"):
        bridge.optimizer_from_torch(state, plan, adam(), PARAMS, names=NAMES)


def test_names_that_contradict_those_in_the_state(plan: bridge.Plan) -> None:
    state = torch_state(ADAM, *ADAM_KEYS)
    state["param_groups"][0]["param_names"] = NAMES
    assert bridge.optimizer_from_torch(state, plan, adam(), PARAMS)
    assert bridge.optimizer_from_torch(state, plan, adam(), PARAMS, names=NAMES)
    for wrong in (NAMES[::-1], NAMES[:1], [*NAMES, "more"]):
        with pytest.raises(ValueError, match="`names` must be those that the state has"):
            bridge.optimizer_from_torch(state, plan, adam(), PARAMS, names=wrong)


# ---------------------------------------------------------------------------------- tied weights

TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)
TIED_PAIRS = {
    "by memory": ({"emb.weight": TABLE, "head.weight": TABLE}, None),
    "by pairs": (
        {"emb.weight": TABLE, "head.weight": TABLE.copy()},
        {"emb": "emb", "head": "emb"},
    ),
    "stored once": ({"emb.weight": TABLE}, None),
}


def adam_of_one() -> dict[str, Any]:
    """Adam's state of a model whose embedding is its readout: torch counts it once."""
    kept = {"step": np.float32(2), "exp_avg": TABLE, "exp_avg_sq": TABLE**2}
    group = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False}
    return {
        "state": {0: kept},
        "param_groups": [{**group, "params": [0], "param_names": ["emb.weight"]}],
    }


@pytest.mark.parametrize("case", TIED_PAIRS.values(), ids=TIED_PAIRS)
def test_moments_of_a_tied_tensor_go_to_the_one_leaf_and_back(case):
    state, pairs = case
    params, tx = {"emb": {"embedding": np.zeros((4, 3), "f4")}}, optax.adam(0.1)
    plan = bridge.plan(state, params, pairs)
    moved = bridge.optimizer_from_torch(adam_of_one(), plan, tx, params)
    np.testing.assert_array_equal(moved[0].mu["emb"]["embedding"], TABLE)
    back = bridge.optimizer_to_torch(moved, plan, tx, params, adam_of_one())
    assert list(back["state"]) == [0]
    for key in ("exp_avg", "exp_avg_sq", "step"):
        np.testing.assert_array_equal(back["state"][0][key], adam_of_one()["state"][0][key])


@pytest.mark.parametrize("by_memory", [True, False])
def test_a_tied_tensor_that_becomes_two_leaves_has_no_state_here(by_memory):
    params = {
        "emb": {"embedding": np.zeros((4, 3), "f4")},
        "head": {"kernel": np.zeros((3, 4), "f4")},
    }
    state, pairs = {"emb.weight": TABLE}, {"head.weight": ("head", "as emb.weight")}
    if by_memory:
        state, pairs = {"emb.weight": TABLE, "head.weight": TABLE}, None
    plan, tx = bridge.plan(state, params, pairs), optax.adam(0.1)
    words = (
        r"emb.weight, head.weight are one tensor in torch.*emb/embedding, head/kernel are trained"
    )
    with pytest.raises(ValueError, match=words):
        bridge.optimizer_from_torch(adam_of_one(), plan, tx, params)
    with pytest.raises(ValueError, match=words):
        bridge.optimizer_to_torch(tx.init(params), plan, tx, params, adam_of_one())
