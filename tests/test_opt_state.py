"""The state of an optimizer, walked: what it consists of, what each part is, and whose it is."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
import pytest
from helpers import cases
from optax import contrib

from jaxmup._opt_state import TRANSFORMS, WRAPPERS, Owners, Transform, walk, where, with_fields

PARAMS = {"a": {"w": jnp.ones((3, 2))}, "b": jnp.ones(3)}
STEPS, MOMENTS = "count:steps", "mu:moment nu:moment"

# Its transforms in order, each with where it stands and the kind of its fields, typed by hand.
NESTED: dict[str, tuple[Any, str]] = {
    "a chain": (
        optax.adamw(0.1),
        f"0 scale_by_adam {STEPS} {MOMENTS}; 1 a transform without state; "
        "2 a transform without state",
    ),
    "a schedule": (
        optax.sgd(lambda count: 0.1, momentum=0.9),
        "0 trace trace:moment; 1 scale_by_learning_rate count:position",
    ),
    "a mask": (
        optax.masked(optax.trace(0.9), {"a": True, "b": False}),
        "(the state itself) masked; inner_state trace trace:moment",
    ),
    "a partition": (
        optax.partition({1: optax.trace(0.9), "x/y": optax.scale_by_rms()}, {"a": 1, "b": "x/y"}),
        "inner_states/1 masked; inner_states/1/inner_state trace trace:moment; "
        "inner_states/x/y masked; inner_states/x/y/inner_state scale_by_rms nu:moment",
    ),
    "injected hyper-parameters": (
        optax.inject_hyperparams(optax.lion)(lambda count: 0.1),
        f"(the state itself) inject_hyperparams {STEPS} hyperparams:rates "
        f"hyperparams_states/learning_rate/count:position; "
        f"inner_state/0 scale_by_lion {STEPS} mu:moment; "
        "inner_state/1 a transform without state; inner_state/2 a transform without state",
    ),
    "accumulated gradients": (
        optax.MultiSteps(optax.scale_by_adam(), 2),
        "(the state itself) MultiSteps gradient_step:steps mini_step:gathered skip_state:gathered "
        f"acc_grads:gathered; inner_opt_state scale_by_adam {STEPS} {MOMENTS}",
    ),
    "finite updates": (
        optax.apply_if_finite(optax.ema(0.9), 3),
        "(the state itself) apply_if_finite notfinite_count:gathered last_finite:gathered "
        f"total_notfinite:gathered; inner_state ema {STEPS} ema:moment",
    ),
    "schedule-free": (
        contrib.schedule_free(optax.sgd(0.1), 0.1),
        "(the state itself) schedule_free step_count:steps b1:other z:moment max_lr:other "
        "weight_sum:other; base_optimizer_state/0 a transform without state; "
        "base_optimizer_state/1 a transform without state",
    ),
}


@pytest.mark.parametrize(("tx", "expected"), cases(NESTED))
def test_a_state_is_its_transforms_and_their_fields(tx: Any, expected: str) -> None:
    walked = walk(tx.init(PARAMS))
    assert not walked.unknown
    found = []
    for link in walked.links:
        fields = [f"{where(f.path[len(link.path) :])}:{f.kind}" for f in link.fields]
        found.append(" ".join([where(link.path), link.name, *fields]))
    assert "; ".join(found).split("; ") == expected.split("; ")


def test_what_the_table_lacks_is_named() -> None:
    class Kept(NamedTuple):
        root: Any
        more: Any

    state = (Kept(PARAMS, 0), optax.named_chain(("first", optax.trace(0.9))).init(PARAMS))
    walked = walk(state)
    assert walked.unknown == ["0: Kept('root', 'more')"]
    inside = walk(Kept(optax.adam(0.1).init(PARAMS), (1, 2)))
    assert inside.unknown == ["(the state itself): Kept('root', 'more')"]
    assert [link.name for link in inside.links] == ["scale_by_adam", "a transform without state"]
    assert walked.unordered == [(1,)]  # JAX sorts the keys of a dict
    assert [link.name for link in walked.links] == ["trace"]
    transforms = {"Kept": Transform(("Kept",), {"root": TRANSFORMS["trace"].fields["trace"]})}
    assert walk(state, transforms).unknown == ["0: Kept.more"]


def test_every_row_says_what_its_moments_are() -> None:
    """The numbers of steps are no moments, whatever moves is no counter."""
    for row in (*TRANSFORMS.values(), *WRAPPERS.values()):
        for field, movement in row.fields.items():
            kind = row.kind(field)
            assert kind in {"moment", "gathered", "other"} or movement == (0, 0, 0)
            assert (kind == "moment") <= (not field.endswith("count"))


def test_leaves_belong_to_the_parameter_above_them() -> None:
    owners = Owners(["a/w", "b", "layers/0/value", "layers/0/query"])
    tree = {"a": {"w": {"row": 1, "col": 2}}, "b": 3, "step": 4}
    assert owners.leaves(tree) == [("a/w", 2), ("a/w", 1), ("b", 3), (None, 4)]
    # What a mask leaves of an attention layer is no tree that Orbax has restored.
    masked = {"layers": [{"value": 5, "query": optax.MaskedNode()}]}
    assert owners.leaves(masked) == [("layers/0/value", 5)]
    assert owners.map(lambda owner, leaf: owner, masked)["layers"][0]["value"] == "layers/0/value"


def test_an_update_passes_what_keeps_arrays_for_its_parameter() -> None:
    tx = optax.chain(
        optax.masked(optax.trace(0.9), {"a": True, "b": False}),
        optax.partition({"x": optax.ema(0.9), "y": optax.scale_by_rms()}, {"a": "x", "b": "y"}),
        optax.masked(optax.scale_by_lion(), {"a": False, "b": False}),
    )
    owners, chain = Owners(["a/w", "b"]), walk(tx.init(PARAMS)).chain
    passed = {name: [link.name for link in owners.links(chain, name)] for name in ("a/w", "b")}
    assert passed == {
        "a/w": ["masked", "trace", "masked", "ema", "masked"],
        "b": ["masked", "masked", "scale_by_rms", "masked"],
    }


def test_other_values_in_some_fields() -> None:
    tx = optax.chain(
        optax.scale_by_adam(),
        optax.partition({1: optax.trace(0.9), "x/y": optax.ema(0.9)}, {"a": 1, "b": "x/y"}),
    )
    state = [tx.init(PARAMS), optax.EmptyState()]
    at = (0, 1, "inner_states", "x/y", "inner_state", "ema")
    changed = with_fields(state, {at: "new", (0, 0, "nu"): "other"})
    assert type(changed) is list
    assert type(changed[0]) is tuple
    assert changed[0][0] == state[0][0]._replace(nu="other")
    inner = changed[0][1].inner_states
    assert inner["x/y"].inner_state.ema == "new"
    assert inner["x/y"].inner_state.count is state[0][1].inner_states["x/y"].inner_state.count
    assert inner[1] is state[0][1].inner_states[1]
    assert with_fields(state, {}) is state
