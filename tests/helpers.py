"""Tolerances and builders that the tests share."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmup import Axis, Parametrization, ParamSpec, parametrization

Ratio = float | Fraction  # of a size to its base


class Tol(NamedTuple):
    """A relative tolerance and why it is that."""

    rtol: float
    why: str


# Every tolerance of a test is a row of this table. What is not in it is compared exactly.
TOL = {
    ("rule", "float64"): Tol(1e-14, "a handful of roundings in powers of Python floats"),
    ("least squares", "float64"): Tol(1e-11, "normal equations of five points; seen: 2e-15"),
    ("trajectory", "float64"): Tol(1e-12, "20 steps, rounded in other places; seen: 5e-16"),
    ("regauged", "float64"): Tol(1e-11, "30 steps, moved by any factor in [1/30, 30]"),
    ("constant gauge", "float32"): Tol(3e-4, "200 steps, other fusions; seen: 3e-5 with momentum"),
    ("constant gauge", "bfloat16"): Tol(2e-3, "the same; seen: 2e-4"),
    ("negative control", "float64"): Tol(1e-2, "what a wrong factor moves at least"),
    ("slope", "float64"): Tol(0.2, "finite width: of 12 seeds at widths 32 to 1024; seen: 0.19"),
    ("wrong slope", "float64"): Tol(0.5, "the least power of the width that a rule can be off by"),
    ("layer", "float64"): Tol(1e-14, "a sum of at most 256 products; seen: 1e-15"),
    ("layer", "float32"): Tol(2e-6, "three products of 8 terms; seen: 1e-7"),
    ("adam", "float64"): Tol(1e-13, "30 steps of two recurrences; seen: 7e-15"),
    ("adam", "float32"): Tol(1e-6, "the same; seen: 1e-7"),
    ("corrected", "float64"): Tol(1e-12, "the same program with one factor; seen: 0"),
    ("muon", "float64"): Tol(1e-11, "Newton-Schulz grows roundings 3.4^5 times; seen: 4e-13"),
    ("update", "float32"): Tol(2e-6, "a few float32 roundings; seen: 2e-7"),
    ("fused", "float64"): Tol(1e-12, "50 steps; seen: 1e-14 with Muon, else 0"),
    ("fused", "float32"): Tol(1e-6, "10 steps of SGD, or of other fusions; seen: 3e-7"),
    ("fused", "bfloat16"): Tol(2e-2, "5 steps, rounded in other places; seen: 0"),
    ("update", "bfloat16"): Tol(2e-2, "a few bfloat16 roundings; seen: 4e-3"),
}


def cases(table: Mapping[str, tuple[Any, ...]]) -> list[Any]:
    """The rows of a case table as pytest parameters, each with its name as id."""
    return [pytest.param(*values, id=name) for name, values in table.items()]


def exponents(row: str) -> tuple[float, ...]:
    """The numbers of a printed row such as `"-½ 0 3/2"`."""
    return tuple(float(Fraction(number.replace("½", "1/2"))) for number in row.split())


def named(words: str, alignment: Any = None) -> Parametrization:
    """The parametrization of `"name family"` or `"name family gauge"`."""
    name, family, gauge = (*words.split(), None)[:3]
    return parametrization(name, family, gauge=gauge, alignment=alignment)  # type: ignore[arg-type]


def weight(r_in: Ratio | None = None, r_out: Ratio | None = None, **constants: Any) -> ParamSpec:
    """A matrix whose axes have grown by `r_in` and `r_out`; `None` for one that does not grow."""
    axes = (_axis("input", r_in), _axis("output", r_out))
    return ParamSpec(axes, **constants)


def _axis(kind: Any, ratio: Ratio | None) -> Axis:
    if ratio is None:
        return Axis(kind, 10)
    size, base = Fraction(ratio).as_integer_ratio()
    return Axis(kind, 16 * size, base=16 * base)


def of_role(role: str, ratio: Ratio, **constants: Any) -> ParamSpec:
    """A matrix of this role, all of whose growing axes have grown by `ratio`."""
    r_in = ratio if role in ("hidden", "output") else None
    r_out = ratio if role in ("hidden", "input") else None
    return weight(r_in, r_out, **constants)


def require_close(got: Any, expected: Any, *row: str) -> None:
    """Each leaf within the tolerance of the row `TOL[row]`, relative to its largest entry."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for leaf, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        leaf, other = np.float64(leaf), np.float64(other)
        assert leaf.shape == other.shape
        error = np.max(np.abs(leaf - other), initial=0.0)
        assert error <= TOL[row].rtol * np.max(np.abs(other), initial=0.0), (row, error)


def z_bound(n: int) -> float:
    """Five standard errors of the standard deviation of n Gaussian draws, relative to it."""
    return 5 / np.sqrt(2 * n)


def scale_by_adam_atan2() -> optax.GradientTransformation:
    """The direction of Adam-atan2, `4/π · atan2(m, √v)`, which has no eps (arXiv:2407.05872)."""
    ratio = optax.scale_by_adam(eps=0.0)  # 0 / 0 where there was no gradient yet: no step

    def angle(updates: Any, params: Any) -> Any:
        return jax.tree.map(lambda x: 4 / np.pi * jnp.arctan(jnp.nan_to_num(x)), updates)

    return optax.chain(ratio, optax.stateless(angle))
