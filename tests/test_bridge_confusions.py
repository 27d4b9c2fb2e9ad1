"""Wrong maps: each is refused, or noticed, or cannot be seen in names and shapes.

What cannot be seen is here too: `docs/pytorch.md` says that outputs must be compared.
"""

import re
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax
import pytest

from jaxmup import bridge

State = dict[str, np.ndarray]
WIDTH, HIDDEN = 6, 8


def attention() -> tuple[State, dict[str, Any], dict[str, Any]]:
    """Two blocks, the model for them and the right pairs."""
    shapes = {"q_proj": WIDTH, "k_proj": WIDTH, "v_proj": WIDTH, "o_proj": WIDTH}
    rng = np.random.default_rng(0)
    state = {
        f"layers.{i}.self_attn.{n}.weight": rng.normal(size=(size, WIDTH)).astype("f4")
        for i in (0, 1)
        for n, size in shapes.items()
    }
    block = {n: kernel(WIDTH, WIDTH) for n in ("query", "key", "value", "out")}
    return state, {"blocks": [{"attention": block}, {"attention": block}]}, {}


def feed_forward() -> tuple[State, dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(0)
    shapes = {"gate": (HIDDEN, WIDTH), "up": (HIDDEN, WIDTH), "down": (WIDTH, HIDDEN)}
    state = {f"mlp.{n}_proj.weight": rng.normal(size=s).astype("f4") for n, s in shapes.items()}
    return state, {"mlp": {n: kernel(*s[::-1]) for n, s in shapes.items()}}, {}


def packed() -> tuple[State, dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(0)
    state = {"attn.qkv.weight": rng.normal(size=(3 * WIDTH, WIDTH)).astype("f4")}
    state["attn.qkv.bias"] = rng.normal(size=3 * WIDTH).astype("f4")
    layer = kernel(WIDTH, 2, 3) | {"bias": jax.ShapeDtypeStruct((2, 3), "f4")}
    model = {"attn": dict.fromkeys(("query", "key", "value"), layer)}
    return state, model, {"attn.qkv": ("attn", "heads q|k|v")}


def flat() -> tuple[State, dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(0)
    state = {
        "conv.weight": rng.normal(size=(4, 2, 3, 3)).astype("f4"),
        "fc.weight": rng.normal(size=(5, 24)).astype("f4"),
    }
    model = {"conv": kernel(3, 3, 2, 4), "fc": kernel(24, 5)}
    return state, model, {"fc": ("fc", "flatten 4,2,3")}


def norms() -> tuple[State, dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(0)
    local = ["weight", "bias", "running_mean", "running_var"]
    state = {f"bn.{n}": rng.normal(size=WIDTH).astype("f4") for n in local}
    state |= {f"ln.{n}": rng.normal(size=WIDTH).astype("f4") for n in ("gamma", "beta")}
    leaves = {"bn": ("scale", "bias", "mean", "var"), "ln": ("scale", "bias")}
    model = {
        layer: {n: jax.ShapeDtypeStruct((WIDTH,), "f4") for n in names}
        for layer, names in leaves.items()
    }
    return state, model, {"ln.gamma": "ln/scale", "ln.beta": "ln/bias"}


def tied() -> tuple[State, dict[str, Any], dict[str, Any]]:
    state = {"embed.weight": np.random.default_rng(0).normal(size=(9, WIDTH)).astype("f4")}
    model = {
        "embed": {"embedding": jax.ShapeDtypeStruct((9, WIDTH), "f4")},
        "lm_head": kernel(WIDTH, 9),
    }
    return state, model, {"lm_head.weight": ("lm_head", "as embed.weight")}


def kernel(*shape: int) -> dict[str, Any]:
    return {"kernel": jax.ShapeDtypeStruct(shape, "f4")}


def swapped(one: str, other: str) -> Callable[[State], State]:
    return lambda state: {**state, one: state[other], other: state[one]}


def without(name: str) -> Callable[[State], State]:
    return lambda state: {n: x for n, x in state.items() if n != name}


def renamed(old: str, new: str) -> Callable[[State], State]:
    return lambda state: {n.replace(old, new): x for n, x in state.items()}


def transposed(name: str) -> Callable[[State], State]:
    return lambda state: {**state, name: state[name].T.copy()}


class Confusion(NamedTuple):
    """A wrong map.

    Args:
      of: Function that makes the right one.
      outcome: What becomes of it; `"right"` if the model is the right one all the same.
      words: Words of the error or of the warning.
      state: What it makes of the state dict.
      pairs: What it has instead of the right pairs.
    """

    of: Callable[[], tuple[State, dict[str, Any], dict[str, Any]]]
    outcome: Literal["refused", "noticed", "right", "not seen"]
    words: str = ""
    state: Callable[[State], State] = lambda state: state
    pairs: dict[str, Any] | None = None


Q, K = (f"layers.0.self_attn.{n}_proj.weight" for n in "qk")
PATH = "blocks/*/attention"
CONFUSIONS = {
    "q and k by pairs": Confusion(
        attention,
        "noticed",
        r"k_proj.weight becomes blocks/0/attention/query",
        pairs={
            "layers.*.self_attn.q_proj": f"{PATH}/key",
            "layers.*.self_attn.k_proj": f"{PATH}/query",
        },
    ),
    "q and k in the file": Confusion(attention, "not seen", state=swapped(Q, K)),
    "a layer is missing": Confusion(attention, "refused", "7 of PyTorch", without(Q)),
    "layers that count from 1": Confusion(
        attention,
        "right",
        state=lambda s: renamed("layers.0", "layers.1")(renamed("layers.1", "layers.2")(s)),
    ),
    "layers in the other order": Confusion(
        attention,
        "not seen",
        state=lambda s: renamed("9", "0")(
            renamed("layers.0", "layers.1")(renamed("layers.1", "layers.9")(s))
        ),
    ),
    "a square weight transposed in the file": Confusion(attention, "not seen", state=transposed(Q)),
    "a square weight said to be transposed": Confusion(
        attention,
        "refused",
        "Shapes must tell how these are stored",
        pairs={"layers.0.self_attn.q_proj": ("", "conv1d")},
    ),
    "names that say nothing": Confusion(
        attention,
        "refused",
        "Names or numbers must say",
        lambda s: {f"t{i}.weight": x for i, x in enumerate(s.values())},
    ),
    "gate and up by pairs": Confusion(
        feed_forward,
        "noticed",
        "up_proj.weight becomes mlp/gate",
        pairs={"mlp.gate_proj": "mlp/up", "mlp.up_proj": "mlp/gate"},
    ),
    "gate and up in the file": Confusion(
        feed_forward, "not seen", state=swapped("mlp.gate_proj.weight", "mlp.up_proj.weight")
    ),
    "up and down by pairs": Confusion(
        feed_forward,
        "noticed",
        "down_proj.weight becomes mlp/up",
        pairs={"mlp.up_proj": "mlp/down", "mlp.down_proj": "mlp/up"},
    ),
    "an oblong weight transposed in the file": Confusion(
        feed_forward,
        "right",
        state=transposed("mlp.down_proj.weight"),
        pairs={"mlp.down_proj": ("mlp/down", "conv1d")},
    ),
    "packed without a pair": Confusion(packed, "refused", "no name tells in which order", pairs={}),
    "packed one after another": Confusion(
        packed, "not seen", pairs={"attn.qkv": ("attn", "q|k|v")}
    ),
    "packed in another order": Confusion(
        packed, "not seen", pairs={"attn.qkv": ("attn", "heads k|q|v")}
    ),
    "packed in groups that do not divide": Confusion(
        packed, "refused", "4 groups of the 6", pairs={"attn.qkv": ("attn", "4 q|k|v")}
    ),
    "flattened without a word": Confusion(flat, "noticed", "6 positions of 4 channels", pairs={}),
    "flattened with other sizes": Confusion(
        flat, "refused", "makes 32", pairs={"fc": ("fc", "flatten 4,2,4")}
    ),
    "height and width of a flattened map, whose order is one": Confusion(
        flat, "right", pairs={"fc": ("fc", "flatten 4,3,2")}
    ),
    "gamma and beta by pairs": Confusion(
        norms,
        "noticed",
        "ln.gamma becomes ln/bias",
        pairs={"ln.gamma": "ln/bias", "ln.beta": "ln/scale"},
    ),
    "mean and variance by pairs": Confusion(
        norms,
        "noticed",
        "running_mean becomes bn/var",
        pairs={
            "bn.running_mean": "bn/var",
            "bn.running_var": "bn/mean",
            "ln.gamma": "ln/scale",
            "ln.beta": "ln/bias",
        },
    ),
    "statistics dropped": Confusion(norms, "refused", "these fit no", without("bn.running_var")),
    "an alias dropped": Confusion(tied, "refused", "second name by a pair", pairs={}),
    "an alias of nothing": Confusion(
        tied, "refused", "is wte.weight", pairs={"lm_head.weight": ("lm_head", "as wte.weight")}
    ),
}


@pytest.mark.parametrize("case", CONFUSIONS.values(), ids=CONFUSIONS)
def test_a_confusion_is(case: Confusion) -> None:
    state, model, right = case.of()
    wanted = jax.tree.leaves(bridge.from_torch(state, model, right))
    confused, pairs = case.state(state), right if case.pairs is None else case.pairs
    if case.outcome == "refused":
        with pytest.raises(ValueError, match=case.words):
            bridge.from_torch(confused, model, pairs)
        return
    with warnings.catch_warnings(record=True) as noticed:
        warnings.simplefilter("always")
        made = bridge.from_torch(confused, model, pairs)
    notes = [str(warning.message) for warning in noticed]
    assert notes == list(bridge.plan(confused, model, pairs).notes)
    assert bool(notes) == (case.outcome == "noticed")
    assert not notes or any(re.search(case.words, note) for note in notes)
    equal = all(map(np.array_equal, jax.tree.leaves(made), wanted))
    assert equal == (case.outcome == "right")


def test_right_maps_are_silent() -> None:
    for make in (attention, feed_forward, packed, flat, norms, tied):
        assert not bridge.plan(*make()).notes


# ------------------------------------------------------------------------------------- moments


def adam(change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Any:
    """Adam's state for two matrices of one shape, with moments that `change` confuses."""
    state = {n: x for n, x in attention()[0].items() if ".0." in n}
    params = {n: np.zeros((WIDTH, WIDTH), "f4") for n in ("query", "key", "value", "out")}
    params = {n: {"kernel": x} for n, x in params.items()}
    moments = change(
        {"exp_avg": -np.ones((WIDTH, WIDTH), "f4"), "exp_avg_sq": np.ones((WIDTH, WIDTH), "f4")}
    )
    group = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False}
    names = list(state)
    torch_state = {
        "state": {i: {"step": np.float32(3), **moments} for i in range(4)},
        "param_groups": [{**group, "params": list(range(4)), "param_names": names}],
    }
    return torch_state, bridge.plan(state, params), params, names


def test_moments_exchanged_are_refused() -> None:
    torch_state, plan, params, _ = adam(
        lambda m: {"exp_avg": m["exp_avg_sq"], "exp_avg_sq": m["exp_avg"]}
    )
    with pytest.raises(ValueError, match="exp_avg_sq"):
        bridge.optimizer_from_torch(torch_state, plan, optax.adam(0.1), params)


def test_moments_of_another_order_are_refused() -> None:
    torch_state, plan, params, names = adam(lambda m: m)
    bridge.optimizer_from_torch(torch_state, plan, optax.adam(0.1), params, names=names)
    with pytest.raises(ValueError, match="names"):
        bridge.optimizer_from_torch(
            torch_state, plan, optax.adam(0.1), params, names=[names[1], names[0], *names[2:]]
        )
