"""Programs without what they say of devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, NamedSharding

from jaxmup._check import is_traced
from jaxmup._program._calls import called, is_plain_call
from jaxmup._program._evaluate import evaluate, run_inside
from jaxmup._program._jax import ClosedJaxpr, Equation, bind

_LAYOUTS = ("sharding_constraint", "reshard", "mesh_cast")


def no_mesh() -> Any:
    """A context without a mesh."""
    return jax.sharding.use_abstract_mesh(AbstractMesh((), ()))


def unsharded(program: ClosedJaxpr) -> ClosedJaxpr:
    """The program with the same values, which lays nothing out over devices.

    Example:
      >>> program = jax.make_jaxpr(lambda x: 2 * x)(1.0)
      >>> str(unsharded(program)) == str(program)
      True
    """

    def hook(equation: Equation, inputs: list[Any]) -> list[Any]:
        if equation.primitive.name in _LAYOUTS:
            return inputs
        inputs = [_on_no_mesh(x) for x in inputs]
        with no_mesh():  # in place of that of the equation
            if is_plain_call(equation):
                inner = called(equation)
                return jax.jit(lambda *args: evaluate(inner, args, hook))(*inputs)
            ran = run_inside(
                equation, inputs, lambda inner, args: (evaluate(inner, args, hook), ())
            )
            return bind(_without_layout(equation), inputs) if ran is None else ran[0]

    with no_mesh():
        types = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in program.jaxpr.invars]
        return jax.make_jaxpr(lambda *args: evaluate(program, args, hook))(*types)


def _on_no_mesh(x: Any) -> Any:
    """A number of the program without the mesh that it was made in."""
    if is_traced(x) or jnp.issubdtype(x.dtype, jax.dtypes.extended):
        return x
    return np.asarray(x)


def _without_layout(equation: Equation) -> Equation:
    params = {
        name: None if isinstance(value, NamedSharding) else value
        for name, value in equation.params.items()
    }
    return equation.replace(params=params)
