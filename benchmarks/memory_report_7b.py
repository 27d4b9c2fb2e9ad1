"""Claim: on a laptop, `memory_report` says what training a model of 7B parameters would take.

Llama 2 7B's sizes: 32 scanned blocks of width 4096, feed-forward layers of 11008, 32000 tokens, one
sequence of 2048, computed in bfloat16, with Adam's state and parameters in float32. Only shapes
exist: the report takes at most 2 minutes and 1 GiB of memory.
"""

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from _record import RESULTS, write_record
from flax import nnx

from jaxmup import fused
from jaxmup.models import GPT

OUT = RESULTS / "memory_report_7b.json"
CLAIMS = {"seconds": 120, "peak_bytes": 2**30}
VOCABULARY, LENGTH = 32_000, 2048
SIZES = {
    "width": 4096,
    "num_layers": 32,
    "num_heads": 32,
    "hidden_features": 11_008,
    "base_width": 256,
    "base_num_heads": 2,
    "base_hidden_features": 688,
}


def report() -> tuple[fused.MemoryReport, int]:
    """The report, and the number of parameters."""
    make = {**SIZES, "stacked": True, "dtype": jnp.bfloat16}
    model = nnx.eval_shape(lambda: GPT(VOCABULARY, **make, rngs=nnx.Rngs(0)))
    graph, params = nnx.split(model, nnx.Param)

    def loss(params: Any, tokens: Any) -> Any:
        logits = nnx.merge(graph, params)(tokens).astype(jnp.float32)
        labels = jnp.roll(tokens, -1, 1)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    tx = optax.adam(1e-4)
    state = jax.eval_shape(tx.init, params)
    tokens = jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)
    found = fused.memory_report(fused.value_and_update(loss, tx), params, state, tokens)
    return found, sum(x.size for x in jax.tree.leaves(params))


def main() -> None:
    """Prints the report and what it took, and writes both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    start = time.perf_counter()
    found, parameters = report()
    took = {
        "seconds": time.perf_counter() - start,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(f"{parameters:,} parameters\n{found}\n{took}")
    forms = {form: memory._asdict() for form, memory in found.forms.items()}
    measured = {"parameters": parameters, "took": took, "forms": forms}
    write_record(out, {"claims": CLAIMS, **measured}, "jax", "flax", "optax")
    raise SystemExit(any(took[name] > claim for name, claim in CLAIMS.items()))


if __name__ == "__main__":
    main()
