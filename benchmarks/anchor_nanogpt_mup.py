"""Claim: our GPT and AdamW take the steps that nanoGPT-mup takes, within 5e-5.

    python benchmarks/anchor_nanogpt_mup.py [--quick]
    python benchmarks/anchor_nanogpt_mup.py --their-code PATH

EleutherAI/nanoGPT-mup (MIT), branch completep, commit 6f8bc3b: its GPT and its optimizer groups, as
published, trained for ten steps at depths and widths beyond the base model's. Held is the mean of
|x| over the residual stream behind the last block before each step. `--their-code`, the path of a
checkout of that commit, runs it with PyTorch and writes its numbers into
`results/nanogpt_mup_trajectory.json`; without it, those numbers are held against the library's, and
neither PyTorch nor the checkout is needed.

Weights and batches are drawn alike on both sides from NumPy's frozen `RandomState`, seeded with the
names of the tensors, and the weights reach the library through `jaxmup.bridge`. Gains of norms are
not 1 and biases not 0, so that none is without effect.

Then the learning rate and the residual multiplier are left out in turn. Not eps: the published one,
1e-12, is too small to show, and the published code scales it in all layers while the paper's Table
1 does so in the residual blocks; `anchor_completep_depth.py` holds it.
"""

import argparse
import importlib.util
import json
import sys
import types
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from _anchors import Band, print_lines, rule_over_depth, without
from _nanogpt import BASE_LAYERS, INIT_STD, RATE, make_gpt, make_step
from _record import RESULTS, write_record
from flax import nnx

import jaxmup
from jaxmup import bridge

THEIRS = RESULTS / "nanogpt_mup_trajectory.json"
SOURCE = {
    "repository": "github.com/EleutherAI/nanoGPT-mup",
    "branch": "completep",
    "commit": "6f8bc3bdc744556141255f810a22387b2255b6c1",
    "file": "model.py",
    "license": "MIT",
}
WITHIN = 5e-5  # relative
VOCABULARY, CONTEXT, BATCH, STEPS, BASE_WIDTH, HEAD = 65, 64, 8, 10, 64, 16
PAIRS = {
    "transformer.h.*.ln_1": "blocks/blocks/attention_norm",
    "transformer.h.*.ln_2": "blocks/blocks/feed_forward_norm",
    "transformer.h.*.attn.c_attn": ("blocks/blocks/attention", "q|k|v"),
}


class Case(NamedTuple):
    """A model.

    Args:
      alpha: Exponent of depth; 0 for muP that leaves it unscaled.
      layers: Number of blocks.
      widths: Width over that of the base model.
    """

    alpha: float
    layers: int
    widths: int

    def __str__(self) -> str:
        return f"alpha {self.alpha:g}, {self.layers} layers, width x {self.widths}"

    @property
    def width(self) -> int:
        """Number of features of the residual stream."""
        return BASE_WIDTH * self.widths


CASES = (Case(0.0, 4, 1), Case(0.5, 4, 1), Case(1.0, 4, 1), Case(0.5, 8, 2), Case(1.0, 8, 2))
LEFT_OUT = (Case(0.5, 4, 1), "learning rate"), (Case(1.0, 4, 1), "residual multiplier")


def shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """Shapes of their tensors by name."""
    n = case.width
    block = {
        "attn.c_attn": (3 * n, n),
        "attn.c_proj": (n, n),
        "mlp.c_fc": (4 * n, n),
        "mlp.c_proj": (n, 4 * n),
        "ln_1": (n,),
        "ln_2": (n,),
    }
    found = {"wte": (VOCABULARY, n), "wpe": (CONTEXT, n), "ln_f": (n,)}
    found |= {f"h.{i}.{name}": shape for i in range(case.layers) for name, shape in block.items()}
    weights = {f"transformer.{name}.weight": shape for name, shape in found.items()}
    biased = {name: shape for name, shape in found.items() if name not in ("wte", "wpe")}
    return weights | {f"transformer.{name}.bias": shape[:1] for name, shape in biased.items()}


def draw_weights(case: Case) -> dict[str, np.ndarray]:
    """Their tensors: hidden matrices over the root of the width ratio, gains about 1."""
    tensors = {}
    for name, shape in shapes(case).items():
        noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        hidden = len(shape) == 2 and ".h." in name
        is_gain = name.endswith("weight") and len(shape) == 1
        std = 0.1 if is_gain else INIT_STD * (case.widths**-0.5 if hidden else 1)
        tensors[name] = (is_gain + std * noise).astype(np.float32)
    return tensors


def draw_batches() -> np.ndarray:
    """Tokens of shape (steps, batch, context + 1)."""
    return np.random.RandomState(0).randint(VOCABULARY, size=(STEPS, BATCH, CONTEXT + 1))


def ours(case: Case, rule: jaxmup.Parametrization) -> dict[str, list[float]]:
    """The run of the library."""
    sizes = {"layers": case.layers, "width": case.width, "base_width": BASE_WIDTH, "head": HEAD}
    model = nnx.eval_shape(
        lambda: make_gpt(VOCABULARY, rule, **sizes, context=CONTEXT, rngs=nnx.Rngs(0))
    )
    model = bridge.from_torch(draw_weights(case), model, PAIRS)
    step, tx = make_step(rule, model)
    params = nnx.state(model, nnx.Param)
    state = tx.init(params)
    found: dict[str, list[float]] = {"losses": [], "residual": []}
    for tokens in jnp.asarray(draw_batches(), jnp.int32):
        params, state, loss, size = step(params, state, tokens[:, :-1], tokens[:, 1:])
        found["losses"].append(float(loss))
        found["residual"].append(float(size))
    return found


def theirs(case: Case, code: types.ModuleType) -> dict[str, list[float]]:
    """The run of their code."""
    import torch

    config = code.GPTConfig(
        block_size=CONTEXT,
        vocab_size=VOCABULARY,
        n_layer=case.layers,
        n_head=case.width // HEAD,
        n_embd=case.width,
        mup_enabled=True,
        mup_width_multiplier=case.widths,
        depth_alpha_enabled=case.alpha > 0,
        depth_multiplier=case.layers / BASE_LAYERS,
        depth_alpha_exp=case.alpha,
    )
    model = code.GPT(config)
    tensors = {name: torch.from_numpy(x) for name, x in draw_weights(case).items()}
    model.load_state_dict(tensors | {"lm_head.weight": tensors["transformer.wte.weight"]})
    optimizer = model.configure_optimizers(0.1, RATE, (0.9, 0.95), 1e-12, "cpu")
    for group in optimizer.param_groups:
        group["lr"] = RATE * group.get("lr_scale", 1.0)
    found: dict[str, list[float]] = {"losses": [], "residual": []}
    model.transformer.h[-1].register_forward_hook(
        lambda _module, _inputs, stream: found["residual"].append(stream.abs().mean().item())
    )
    for tokens in torch.from_numpy(draw_batches()):
        _, loss = model(tokens[:, :-1], tokens[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        found["losses"].append(loss.item())
    return found


def load(path: Path) -> types.ModuleType:
    """Their `model.py`."""
    spec = importlib.util.spec_from_file_location("nanogpt_mup", path / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_theirs(path: Path) -> None:
    """Runs a checkout of their code and writes its numbers."""
    code = load(path)
    cases = {str(case): theirs(case, code) for case in CASES}
    how = f"benchmarks/{Path(__file__).name} --their-code, ten steps of AdamW at rate {RATE:g}"
    seeds = {"weights": "crc32 of the name of each tensor", "batches": 0}
    record = {"source": SOURCE, "how": how, "seeds": seeds, "cases": cases}
    write_record(THEIRS, record, "numpy", "torch")


def difference(got: Mapping[str, list[float]], expected: Mapping[str, list[float]]) -> float:
    """The largest relative difference of the residual stream's mean |x| over the steps."""
    ratio = np.divide(got["residual"], expected["residual"])
    return float(np.abs(ratio - 1).max())


def measure(cases: tuple[Case, ...]) -> dict[str, Any]:
    """Every case, then what is left out."""
    expected = json.loads(THEIRS.read_text())["cases"]
    band, found, lines, left_out = Band(0.0, WITHIN), {}, {}, {}
    for case in cases:
        found[str(case)] = ours(case, rule_over_depth(case.alpha))
        lines[str(case)] = band.judge(difference(found[str(case)], expected[str(case)]))
    print_lines(lines)
    for case, part in LEFT_OUT:
        got = ours(case, without(rule_over_depth(case.alpha), part))
        line = band.judge(difference(got, expected[str(case)]))
        left_out[f"{case}, without its {part}"] = line
    print_lines(left_out)
    holds = all(line["inside"] for line in lines.values())
    holds = holds and not any(line["inside"] for line in left_out.values())
    return {"lines": lines, "left out": left_out, "ours": found, "holds": holds}


def main() -> int:
    """Compares, prints and writes the record; 1 where the claim fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--their-code", type=Path, help="checkout whose numbers are recorded")
    parser.add_argument("--quick", action="store_true", help="4 layers alone; no record")
    parser.add_argument("--out", type=Path, default=RESULTS / "anchor_nanogpt_mup.json")
    args = parser.parse_args()
    if args.their_code is not None:
        write_theirs(args.their_code)
    measured = measure(CASES[:3] if args.quick else CASES)
    if args.quick:
        return not measured["holds"]
    settings = {"source": SOURCE, "published": THEIRS.name}
    write_record(args.out, settings | measured, "jax", "flax", "optax", "numpy", "jaxmup")
    return not measured["holds"]


if __name__ == "__main__":
    sys.exit(main())
