"""Claim: GPT-2 of Hugging Face's PyTorch code, converted, is our GPT: logits, gradients, 20 steps.

`transformers.GPT2LMHeadModel` with random weights of the published configuration (124M parameters;
nothing is downloaded; no dropout) becomes `jaxmup.models.GPT` through `jaxmup.bridge`, and its
AdamW goes on with `optax.adamw` from the state that it has after half of the steps. Differences are
relative: of logits and losses to the largest, of the gradient of a tensor to its largest entry, of
the steps of a tensor root mean square over root mean square. Once as published in float32, and once
with two layers in float64, where only formulas could differ. `torch_ref.GPT2`, which the tests use
in its place, is compared too.
"""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import transformers
from _record import RESULTS, write_record
from flax import nnx

import torch_ref
from jaxmup import bridge
from jaxmup.models import GPT
from parity_tests.published import gpt2

LIMITS = {
    # 12 blocks and 50,257 tokens of roundings of 6e-8; Adam's first steps divide by the gradient
    "float32": {
        "reference": 1e-4,
        "logits": 1e-4,
        "losses": 1e-5,
        "gradients": 1e-3,
        "steps": 1e-2,
    },
    "float64": {"reference": 1e-12, "logits": 1e-12, "losses": 1e-12, "gradients": 1e-11}
    | {"steps": 1e-7},
}
PAIRS = {
    "transformer.h.*.ln_1": "blocks/*/attention_norm",
    "transformer.h.*.ln_2": "blocks/*/feed_forward_norm",
    "transformer.wte": "embed",
    "lm_head": "embed",
}
VOCABULARY, CONTEXT, WIDTH, HEADS = 50257, 1024, 768, 12
LAYERS = {"float32": 12, "float64": 2}
LR, DECAY = 1e-4, 0.1
Arrays = dict[str, np.ndarray]


def torch_gpt2(layers: int, dtype: str) -> Any:
    """The published code, with random weights."""
    torch.manual_seed(0)
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=layers, **dropout))
    return model.to(getattr(torch, dtype))


def our_gpt2(layers: int, dtype: str) -> GPT:
    """Our GPT in GPT-2's configuration, of base width, without values."""
    return nnx.eval_shape(lambda: gpt2(VOCABULARY, WIDTH, layers, HEADS, CONTEXT, dtype))


def torch_loss(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the next token."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def by_name(model: Any, field: str = "data") -> Arrays:
    """Copies of the parameters, or of their gradients."""
    return {n: getattr(p, field).numpy().copy() for n, p in model.named_parameters()}


def in_torch(layers: int, dtype: str, batches: np.ndarray) -> dict[str, Any]:
    """All that torch does, and where it stands after half of the steps."""
    model = torch_gpt2(layers, dtype)
    reference = torch_ref.GPT2(
        VOCABULARY, context=CONTEXT, width=WIDTH, num_layers=layers, num_heads=HEADS
    ).to(getattr(torch, dtype))
    reference.load_state_dict(model.state_dict())
    tokens = torch.from_numpy(batches)
    found: dict[str, Any] = {"losses": []}
    with torch.no_grad():
        found["logits"] = model(tokens[0]).logits.numpy()
        found["reference"] = reference(tokens[0]).numpy()
    del reference
    optimizer = torch.optim.AdamW(model.named_parameters(), LR, weight_decay=DECAY)
    half = len(batches) // 2
    for step, batch in enumerate(tokens):
        if step in (0, half):
            like = {n: t.numpy().copy() for n, t in model.state_dict().items()}
            found["state", step] = like
        if step == half:
            state = optimizer.state_dict()
            copied = {i: {k: v.clone() for k, v in s.items()} for i, s in state["state"].items()}
            found["optimizer"] = {**state, "state": copied}
        optimizer.zero_grad()
        loss = torch_loss(model(batch).logits, batch)
        loss.backward()
        if step == 0:
            found["gradients"] = by_name(model, "grad")
        optimizer.step()
        found["losses"].append(loss.item())
    found["weights"] = by_name(model)
    return found


def loss_here(params: Any, graph: Any, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same loss, and the logits."""
    logits = nnx.merge(graph, params)(tokens)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:])
    return losses.mean(), logits


def here(layers: int, dtype: str, batches: np.ndarray, theirs: Mapping[Any, Any]) -> dict[str, Any]:
    """Torch's weights and its run, gone on with here."""
    empty = our_gpt2(layers, dtype)
    half = len(batches) // 2
    plan = bridge.plan(theirs["state", 0], empty, PAIRS)
    gradient = jax.jit(jax.value_and_grad(loss_here, has_aux=True), static_argnums=1)
    graph, params = nnx.split(bridge.from_torch(theirs["state", 0], empty, PAIRS))
    (_, logits), gradients = gradient(params, graph, jnp.asarray(batches[0]))
    found: dict[str, Any] = {"logits": np.asarray(logits), "losses": []}
    found["gradients"] = bridge.to_torch(nnx.merge(graph, gradients), theirs["state", 0], PAIRS)

    tx = optax.adamw(LR, weight_decay=DECAY)
    params = nnx.state(bridge.from_torch(theirs["state", half], empty, PAIRS))
    state = bridge.optimizer_from_torch(theirs["optimizer"], plan, tx, params)
    update = jax.jit(tx.update, donate_argnums=(0, 1))
    for batch in batches[half:]:
        (loss, _), gradients = gradient(params, graph, jnp.asarray(batch))
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        found["losses"].append(float(loss))
    found["weights"] = bridge.to_torch(nnx.merge(graph, params), theirs["state", 0], PAIRS)
    return found


def worst(differences: Mapping[str, float]) -> tuple[float, str]:
    """The largest difference, and whose it is."""
    name = max(differences, key=lambda name: differences[name])
    return differences[name], name


def largest(got: Any, expected: Any) -> float:
    """The largest difference over the largest entry."""
    got, expected = np.asarray(got), np.asarray(expected)
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def compare(ours: Mapping[str, Any], theirs: Mapping[Any, Any]) -> dict[str, Any]:
    """Relative differences, and the tensors in which the largest are."""
    gradients, expected = (without_key_bias(side["gradients"]) for side in (ours, theirs))
    by_tensor = {name: largest(gradients[name], g) for name, g in expected.items()}
    weights, expected, before = (
        without_key_bias(side) for side in (ours["weights"], theirs["weights"], theirs["state", 0])
    )
    moved = {n: rms(weights[n] - w) / rms(w - before[n]) for n, w in expected.items()}
    half = len(theirs["losses"]) - len(ours["losses"])
    found = {
        "reference": largest(theirs["reference"], theirs["logits"]),
        "logits": largest(ours["logits"], theirs["logits"]),
        "losses": largest(ours["losses"], theirs["losses"][half:]),
    }
    for name, differences in (("gradients", by_tensor), ("steps", moved)):
        found[name], found[f"{name}: largest in"] = worst(differences)
    return found


def without_key_bias(tensors: Arrays) -> Arrays:
    """Without the biases of keys: all logits move alike, and their gradient is rounding alone."""
    cut = [slice(0, WIDTH), slice(2 * WIDTH, 3 * WIDTH)]
    return {
        name: np.concatenate([x[part] for part in cut]) if name.endswith("c_attn.bias") else x
        for name, x in tensors.items()
    }


def rms(x: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def measure(dtype: str, args: argparse.Namespace) -> dict[str, Any]:
    """One case."""
    begin = time.perf_counter()
    rng = np.random.default_rng(0)
    batches = rng.integers(0, VOCABULARY, (args.steps, args.batch, args.length))
    with jax.enable_x64(dtype == "float64"):
        theirs = in_torch(LAYERS[dtype], dtype, batches)
        found = compare(here(LAYERS[dtype], dtype, batches, theirs), theirs)
    holds = all(found[name] <= limit for name, limit in LIMITS[dtype].items())
    seconds = round(time.perf_counter() - begin, 1)
    return {"layers": LAYERS[dtype], "seconds": seconds, "holds": holds, **found}


def main() -> None:
    """Compares, prints and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--dtypes", nargs="+", default=list(LIMITS), choices=LIMITS)
    parser.add_argument("--out", type=Path, default=RESULTS / "gpt2_parity.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases = {}
    for dtype in args.dtypes:
        case = cases[dtype] = measure(dtype, args)
        numbers = "  ".join(f"{name} {case[name]:.1e}" for name in LIMITS[dtype])
        print(f"{dtype}: {numbers}  {'holds' if case['holds'] else 'FAILS'}", flush=True)
    settings = {"batch": args.batch, "length": args.length, "steps": args.steps}
    measured = {**settings, "limits": LIMITS, "cases": cases}
    write_record(args.out, measured, "jax", "flax", "optax", "torch", "transformers", "jaxmup")


if __name__ == "__main__":
    main()
