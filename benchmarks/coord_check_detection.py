"""Claim: the coordinate check fails each seeded mistake, names its line, and passes correct runs.

A mistake is one rule dropped, squared or applied to the wrong side; everything else is right. Each
correct run has another model, optimizer, gauge or other seeds. A mistake of one parameter is named
if the row where it begins is at the line where that parameter is used. Models of the zoo get three
mistakes each: in the learning rate of a hidden and of an input weight, and in weight decay.
"""

import argparse
import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

# Most of the time is compiling: these programs run for milliseconds.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import jax.numpy as jnp
import optax
from _record import RESULTS, write_record
from flax import nnx

import jaxmup
from jaxmup import parametrization
from jaxmup._tree import leaves_by_path
from jaxmup.coord_check import CoordCheck, coord_check, failure_message
from jaxmup.models.cnn import CNN
from jaxmup.models.gpt import GPT
from jaxmup.models.mlp import MLP
from jaxmup.nnx import Linear, Residual
from jaxmup.optim import adam, adamw, amsgrad, from_direction, muon, sgd

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from plain_models import MODELS
from test_zoo import CARRIED
from zoo import training
from zoo_coord_check import MUP, of_factor

OUT = RESULTS / "coord_check_detection.json"
BASE, WIDTHS = 64, (64, 512)
GPT_WIDTHS = (64, 128, 256)
KEY = jax.random.key(7)
DIGITS = jax.random.normal(KEY, (64, 8)), jax.random.randint(KEY, (64,), 0, 5)
IMAGES = jax.random.normal(KEY, (16, 4, 4, 2)), DIGITS[1][:16]
TOKENS = jax.random.randint(KEY, (8, 17), 0, 50)
TEXT = TOKENS[:, :-1], TOKENS[:, 1:]
STANDARD = parametrization("standard", "adam")


class Case(NamedTuple):
    """A call of `coord_check`, and the parameter or value that a mistake is at, if it is at one."""

    make_model: Callable[..., Any]
    make_tx: Any
    data: Any = DIGITS
    sizes: tuple[int, ...] = WIDTHS
    options: dict[str, Any] = {}  # noqa: RUF012
    at: str = ""

    def run(self, seeds: Any) -> CoordCheck:
        """The check of the case."""
        options = {"seeds": seeds, **self.options}
        return coord_check(self.make_model, self.sizes, self.data, self.make_tx, **options)


def mlp(width: int, parametrization: Any, rngs: nnx.Rngs, **options: Any) -> MLP:
    options = {"depth": 2, "base_width": BASE, **options}
    return MLP(8, 5, width=width, parametrization=parametrization, rngs=rngs, **options)


class Small(nnx.Module):
    """Three layers, without biases unless asked for: half the parameters to compile."""

    def __init__(self, width: int, parametrization: Any, rngs: nnx.Rngs, use_bias: bool = False):
        common = {"parametrization": parametrization, "rngs": rngs, "use_bias": use_bias}
        inside = {"base_in_features": BASE, "base_out_features": BASE}
        first = Linear(8, width, base_out_features=BASE, **common)
        self.hidden = nnx.List([first, Linear(width, width, **inside, **common)])
        self.readout = Linear(width, 5, base_in_features=BASE, **common)

    def __call__(self, x: Any) -> Any:
        for layer in self.hidden:
            x = nnx.relu(layer(x))
        return self.readout(x)


def from_zero(width: int, parametrization: Any, rngs: nnx.Rngs) -> MLP:
    """The MLP whose readout starts at zero."""
    model = mlp(width, parametrization, rngs)
    model.readout.kernel[...] = 0 * model.readout.kernel[...]
    return model


def cnn(width: int, parametrization: Any, rngs: nnx.Rngs) -> CNN:
    sizes = {"width": width, "num_stages": 2, "base_width": 16}
    return CNN(2, 5, **sizes, parametrization=parametrization, rngs=rngs)


def gpt(width: int, parametrization: Any, rngs: nnx.Rngs, **options: Any) -> GPT:
    sizes = {"num_layers": 1, "num_heads": 2, "base_width": 64}
    return GPT(50, width=width, parametrization=parametrization, rngs=rngs, **sizes | options)


def gpt_from_zero(width: int, parametrization: Any, rngs: nnx.Rngs) -> GPT:
    model = gpt(width, parametrization, rngs)
    model.readout.kernel[...] = 0 * model.readout.kernel[...]
    return model


class Two(nnx.Module):
    """An MLP whose second hidden layer grows as the root of the first's width."""

    def __init__(self, width: int, parametrization: Any, rngs: nnx.Rngs):
        narrow = round(64 * (width / BASE) ** 0.5)
        common = {"parametrization": parametrization, "rngs": rngs}
        self.first = Linear(8, width, base_out_features=BASE, **common)
        self.hidden = Linear(width, narrow, base_in_features=BASE, base_out_features=64, **common)
        self.readout = Linear(narrow, 5, base_in_features=64, **common)

    def __call__(self, x: Any) -> Any:
        return self.readout(nnx.relu(self.hidden(nnx.relu(self.first(x)))))


class Deep(nnx.Module):
    """Residual blocks."""

    def __init__(self, depth: int, parametrization: Any, rngs: nnx.Rngs, asked: bool = True):
        common = {"parametrization": parametrization, "rngs": rngs}
        self.first = Linear(8, 64, **common)
        layers = {**common, "depth_ratio": depth / 4}
        self.blocks = jaxmup.nnx.Stack(
            lambda rngs: Residual(
                nnx.Sequential(nnx.relu, Linear(64, 64, **{**layers, "rngs": rngs})),
                depth_ratio=depth / 4 if asked else 1.0,
                parametrization=parametrization,
            ),
            depth,
            rngs=rngs,
        )
        self.readout = Linear(64, 5, **common)

    def __call__(self, x: Any) -> Any:
        return self.readout(self.blocks(self.first(x)))


def with_kernel(name: str, power: float) -> Callable[..., Any]:
    """The model whose kernel of this name starts `r^power` times too large."""

    def make(width: int, parametrization: Any, rngs: nnx.Rngs) -> Small:
        model = Small(width, parametrization, rngs)
        layer = model.readout if name == "readout" else model.hidden[int(name)]
        layer.kernel[...] = layer.kernel[...] * (width / BASE) ** power
        return model

    return make


def plain_attention(width: int, parametrization: Any, rngs: nnx.Rngs) -> GPT:
    """A GPT that divides its attention logits by the root of the head size."""
    model = gpt(width, parametrization, rngs)
    for block in model.blocks:
        block.attention.attention_fn = block.attention.attention_fn.attention_fn
    return model


def mistaken(
    make_tx: Callable[..., Any], field: str, change: Callable[[str, Any, float], float]
) -> Callable[[Any], Any]:
    """`make_tx` with a field of the scalings changed: `change(name, scaling, ratio)`."""

    def make(scalings: Any) -> Any:
        def at(path: tuple[Any, ...], s: Any) -> Any:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return dataclasses.replace(s, **{field: change(name, s, ratio)})

        leaves = jaxmup._tree.leaves_by_path(scalings)
        ratio = 1 / leaves["hidden/1/kernel"].lr
        return make_tx(jax.tree_util.tree_map_with_path(at, scalings))

    return make


def at_(name: str, value: Callable[[Any, float], float], field: str) -> Any:
    """A change of the parameters whose name has `name` in it."""
    return lambda path, s, r: value(s, r) if name in path else getattr(s, field)


def adam_w(scalings: Any) -> Any:
    return adamw(2**-7, scalings, weight_decay=0.1)


def plain_sgd(scalings: Any) -> Any:
    return sgd(2**-3, scalings)


def wrong(field: str, name: str, value: Callable[[Any, float], float]) -> Case:
    make = functools.partial(Small, use_bias=name.endswith("bias"))
    return Case(make, mistaken(adam_w, field, at_(name, value, field)), at=name)


SGD = {"parametrization": parametrization("mup", "sgd")}
COMPLETE = {"over": "depth", "parametrization": parametrization("mup", "adam", depth_alpha=1.0)}


def wrong_sgd(name: str, power: float) -> Case:
    def make(scalings: Any) -> Any:
        leaves = jaxmup._tree.leaves_by_path(scalings)
        r = leaves["hidden/0/kernel"].lr

        def at(path: Any, s: Any) -> Any:
            here = name in jax.tree_util.keystr(path, simple=True, separator="/")
            return dataclasses.replace(s, lr=s.lr * r**power) if here else s

        return plain_sgd(jax.tree_util.tree_map_with_path(at, scalings))

    return Case(Small, make, options=SGD, at=name)


def wrong_fan(scalings: Any) -> Any:
    def at(path: Any, s: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return dataclasses.replace(s, lr=s.lr**0.5) if name == "hidden/kernel" else s

    return adam_w(jax.tree_util.tree_map_with_path(at, scalings))


HIDDEN, IN, OUT_KERNEL = "hidden/1/kernel", "hidden/0/kernel", "readout/kernel"
LOGITS = "blocks/0/attention/logits"

FOUR = Case(Small, adam_w, sizes=(64, 128, 256, 512))

MISTAKES: dict[str, Case] = {
    "standard parametrization": Case(Small, adam_w, options={"parametrization": STANDARD}),
    "hidden learning rate dropped": wrong("lr", HIDDEN, lambda s, r: 1.0),
    "hidden learning rate squared": wrong("lr", HIDDEN, lambda s, r: s.lr**2),
    "input learning rate as hidden": wrong("lr", IN, lambda s, r: 1 / r),
    "readout learning rate as hidden": wrong("lr", OUT_KERNEL, lambda s, r: 1 / r),
    "bias learning rate as hidden": wrong("lr", "hidden/1/bias", lambda s, r: 1 / r),
    "hidden initial scale dropped": Case(with_kernel("1", 0.5), adam_w, at=HIDDEN),
    "hidden initial scale squared": Case(with_kernel("1", -0.5), adam_w, at=HIDDEN),
    "readout initial scale dropped": Case(with_kernel("readout", 1.0), adam_w, at=OUT_KERNEL),
    "readout as a hidden layer": Case(with_kernel("readout", 0.5), adam_w, at=OUT_KERNEL),
    "input scaled as hidden": Case(with_kernel("0", -0.5), adam_w, at=IN),
    "decay of hidden not compensated": wrong("weight_decay", HIDDEN, lambda s, r: 1.0),
    "decay of hidden on the wrong side": wrong("weight_decay", HIDDEN, lambda s, r: s.lr),
    "decay of hidden squared": wrong("weight_decay", HIDDEN, lambda s, r: s.weight_decay**2),
    "decay of the readout as of hidden": wrong("weight_decay", OUT_KERNEL, lambda s, r: r),
    "eps constant": wrong("eps", "", lambda s, r: 1.0),
    "eps of hidden squared": wrong("eps", HIDDEN, lambda s, r: s.eps**2),
    "eps on the wrong side": wrong("eps", HIDDEN, lambda s, r: 1 / s.eps),
    "SGD input learning rate dropped": wrong_sgd(IN, -1.0),
    "SGD readout learning rate dropped": wrong_sgd(OUT_KERNEL, -1.0),
    "SGD hidden learning rate as Adam's": wrong_sgd(HIDDEN, -1.0),
    "SGD with Adam's rule": Case(
        Small, lambda s: optax.chain(jaxmup.optim.scale_updates(s), optax.sgd(2**-3))
    ),
    "wrong fan in a rectangular layer": Case(Two, wrong_fan, at="hidden/kernel"),
    "attention logits over the root of d": Case(
        plain_attention, adam_w, TEXT, (64, 256), at=LOGITS
    ),
    "hidden learning rate dropped, 4 widths": FOUR._replace(
        make_tx=mistaken(adam_w, "lr", at_(HIDDEN, lambda s, r: 1.0, "lr")), at=HIDDEN
    ),
    "hidden initial scale dropped, 4 widths": FOUR._replace(
        make_model=with_kernel("1", 0.5), at=HIDDEN
    ),
    "readout as a hidden layer, 4 widths": FOUR._replace(
        make_model=with_kernel("readout", 0.5), at=OUT_KERNEL
    ),
    "attention logits over the root of d, 3 widths": Case(
        plain_attention, adam_w, TEXT, GPT_WIDTHS, at=LOGITS
    ),
    "one learning rate, stock Adam": Case(Small, optax.adam(2**-7)),
    "residual branches not scaled": Case(
        functools.partial(Deep, asked=False),
        lambda s: adam(2**-6, s),
        DIGITS,
        (4, 32),
        COMPLETE,
        at="blocks",
    ),
}


def gauge(name: str, optimizer: str = "adam") -> dict[str, Any]:
    return {"parametrization": parametrization("mup", optimizer, gauge=name)}


def plain(name: str, make_tx: Any = adam_w, sizes: tuple[int, ...] = WIDTHS) -> Case:
    model = MODELS[name]
    make, call = model.make_model, model.apply
    batch = (model.batch, jnp.arange(len(model.batch)) % 5)

    def loss_fn(outputs: Any, targets: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(outputs[0], targets).mean()

    return Case(make, make_tx, batch, sizes, {"loss_fn": loss_fn, "apply": call})


def lion(scalings: Any) -> Any:
    return from_direction(optax.scale_by_lion(), 2**-8, scalings, optimizer="lion")


def rmsprop(scalings: Any) -> Any:
    return from_direction(optax.scale_by_rms(), 2**-8, scalings, optimizer="rmsprop")


def orthogonal(scalings: Any, specs: Any) -> Any:
    return muon(2**-6, scalings, specs)


CORRECT: dict[str, Case] = {
    **{
        f"MLP, {name}": Case(mlp, adam_w, options=gauge(name))
        for name in ("table3", "table8", "table9", "tp4b", "unit")
    },
    "MLP, cellarium": Case(
        mlp, adam_w, options={"parametrization": parametrization("cellarium", "adam")}
    ),
    "MLP, SGD": Case(from_zero, plain_sgd, options=SGD),
    "MLP, momentum, table3": Case(
        from_zero, lambda s: sgd(2**-4, s, momentum=0.9), options=gauge("table3", "sgd")
    ),
    "MLP, Nesterov with decay, table9": Case(
        from_zero,
        lambda s: sgd(2**-4, s, momentum=0.9, nesterov=True, weight_decay=0.1),
        options=gauge("table9", "sgd"),
    ),
    "MLP, AMSGrad": Case(mlp, lambda s: amsgrad(2**-7, s)),
    "MLP, Lion": Case(mlp, lion),
    "MLP, RMSProp": Case(mlp, rmsprop, options=gauge("table9")),
    "MLP, tanh, 3 layers": Case(functools.partial(mlp, activation=jnp.tanh, depth=3), adam_w),
    "MLP, independent decay": Case(
        mlp, lambda s: adamw(2**-7, s, weight_decay=0.01, weight_decay_mode="independent")
    ),
    "MLP, large eps": Case(mlp, lambda s: adam(2**-7, s, eps=1e-3)),
    "rectangular layers": Case(Two, adam_w),
    "GPT": Case(gpt, adam_w, TEXT, (64, 128, 256, 512)),
    "GPT, small widths": Case(gpt, adam_w, TEXT, GPT_WIDTHS),
    "GPT, readout from zero": Case(gpt_from_zero, adam_w, TEXT, (64, 256)),
    "GPT-2, tied": Case(
        functools.partial(
            gpt, positions="learned", context=16, norm="layer", feed_forward="plain", tied=True
        ),
        adam_w,
        TEXT,
        GPT_WIDTHS,
    ),
    "plain MLP": plain("MLP"),
    "plain CNN": plain("CNN", sizes=(32, 128)),
    "CNN": Case(cnn, adam_w, IMAGES, (16, 64)),
    "plain scanned Linen transformer": plain("scanned Linen transformer", sizes=(64, 512)),
    # At initialization the stream is of size sqrt(1 + 16 / depth), which settles from 32 on.
    "CompleteP over depth": Case(Deep, lambda s: adam(2**-6, s), DIGITS, (4, 32, 128), COMPLETE),
}


# Small enough to be run three times.
ZOO = ("layered, MLP", "gnn", "mixer")


def zoo_mistakes() -> dict[str, Case]:
    """Three mistakes in models of the zoo, which `infer` reads, each at one parameter."""
    cases: dict[str, Case] = {}
    for start in ZOO:
        name = next(name for name in CARRIED if name.startswith(start))
        case = CARRIED[name]
        for what, (role, field, power) in _OF_ROLES.items():
            tx, at = _mistaken_of_role(case, role, field, power)
            if at:
                options = {"parametrization": MUP, "loss_fn": training.loss_fn}
                made = (of_factor(case), tx, training.batch_of(case), (2, 4, 8), options, at)
                cases[f"{name}: {what}"] = Case(*made)
    return cases


# Role of the parameter, number that is wrong, and the power of the width that it is wrong by.
_OF_ROLES = {
    "hidden learning rate dropped": ("hidden", "lr", 1.0),
    "input learning rate as hidden": ("input", "lr", -1.0),
    "decay of hidden on the wrong side": ("hidden", "weight_decay", -2.0),
}


def _mistaken_of_role(case: Any, role: str, field: str, power: float) -> tuple[Any, str]:
    """A transform that is wrong at the largest parameter of a role, and the parameter's name."""
    model = training.model_of(case)
    base, delta = training.sizes_of(case, (1, 2))
    specs = leaves_by_path(jaxmup.infer(model, base=base, delta=delta, target=delta))
    chosen = {
        name: spec for name, spec in specs.items() if spec.role == role and len(spec.axes) > 1
    }
    at = max(chosen, key=lambda name: chosen[name].r_in * chosen[name].r_out, default="")

    def make(scalings: Any, specs: Any) -> Any:
        spec = leaves_by_path(specs).get(at)
        ratio = 1.0 if spec is None else max(spec.r_in, spec.r_out)

        def change(path: Any, s: Any) -> Any:
            here = jax.tree_util.keystr(path, simple=True, separator="/") == at
            return (
                dataclasses.replace(s, **{field: getattr(s, field) * ratio**power}) if here else s
            )

        return adamw(2**-6, jax.tree_util.tree_map_with_path(change, scalings), weight_decay=0.1)

    return make, at


def is_named(check: CoordCheck, at: str) -> bool | None:
    """True if the row where it begins is at the line of the mistake; `None` if it is at no one."""
    if not at or check.begins is None:
        return None if not at else False
    lines = {one.line for one in check.verdicts if one.name == at or one.name.startswith(at)}
    near = check.begins.name.startswith(at.removesuffix("/kernel"))
    return near or (bool(check.begins.line) and check.begins.line in lines)


def main() -> None:
    """Runs every case, prints a line for each and adds it to the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", help="those whose name has one of these in it")
    parser.add_argument("--seeds", type=int, default=4, help="of mistakes")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--go-on", action="store_true", help="keep the cases of the record")
    parser.add_argument("--show", action="store_true", help="print the rows that do not pass")
    args = parser.parse_args()
    done: dict[str, Any] = json.loads(args.out.read_text())["cases"] if args.go_on else {}
    jax.config.update("jax_numpy_rank_promotion", "allow")
    kinds = (("mistake", MISTAKES), ("correct", CORRECT), ("mistake in the zoo", zoo_mistakes()))
    for kind, cases in kinds:
        for i, (name, case) in enumerate(cases.items()):
            if args.cases and not any(part in f"{kind}: {name}" for part in args.cases):
                continue
            begin = time.perf_counter()
            if f"{kind}: {name}" in done:
                continue
            # A correct model gets as many seeds as its rows ask for, as a user would give it.
            few = tuple(range(100 * i, 100 * i + args.seeds))
            check = case.run("auto" if kind == "correct" else few)
            holds = check.outcome == ("pass" if kind == "correct" else "fail")
            begins = check.begins
            done[f"{kind}: {name}"] = {
                "holds": holds,
                "outcome": check.outcome,
                "begins": begins and f"{begins.quantity} of {begins.title}, {begins.line}",
                "named": is_named(check, case.at),
                "findings": [one.check for one in check.findings],
                "seeds": len(check.seeds),
                "rows": len(check.verdicts),
                "failing": [f"{v.quantity} of {v.title}" for v in check.of("fail")][:20],
                "open": [f"{v.quantity} of {v.title}" for v in check.of("not enough seeds")][:20],
                "seconds": round(time.perf_counter() - begin, 1),
            }
            named = {True: "named", False: "NOT NAMED", None: ""}[done[f"{kind}: {name}"]["named"]]
            counts = f"{len(check.of('fail')):>4} fail of {len(check.verdicts):<4}"
            print(
                f"{kind:<8}{name:<40}{check.outcome:<18}{counts}"
                f"{'holds' if holds else 'DOES NOT HOLD'} {named}",
                flush=True,
            )
            if args.show and (not holds or named == "NOT NAMED"):
                print(failure_message(check, most=30), flush=True)
            of_kind = {k: [v for n, v in done.items() if n.startswith(f"{k}: ")] for k, _ in kinds}
            held = {k: f"{sum(v['holds'] for v in of)} of {len(of)}" for k, of in of_kind.items()}
            at_one = [v["named"] for v in done.values() if v["named"] is not None]
            held["named"] = f"{sum(at_one)} of {len(at_one)}"
            measured = {"seeds": args.seeds, "holds": held, "cases": done}
            write_record(args.out, measured, "jax", "flax", "optax", "jaxmup")


if __name__ == "__main__":
    main()
