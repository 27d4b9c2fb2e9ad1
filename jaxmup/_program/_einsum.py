"""Products of many arrays, in one order at all sizes."""

import contextlib
from collections.abc import Iterator
from typing import Any

import opt_einsum


@contextlib.contextmanager
def one_order_of_products() -> Iterator[None]:
    """A context in which `jnp.einsum` contracts in the order that the first sizes ask for.

    Of three and more arrays it multiplies those first that make the smallest product, so that the
    programs of one model differ from size to size. The result is the same in any order.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> def f(a, b, c):
      ...     return jnp.einsum("ij,jk,kl->il", a, b, c)
      >>> def shapes(n, m):
      ...     return [jax.ShapeDtypeStruct(s, "float32") for s in ((n, m), (m, n), (n, m))]
      >>> with one_order_of_products():
      ...     a, b = (jax.make_jaxpr(f)(*shapes(*sizes)) for sizes in ((2, 8), (8, 2)))
      >>> [str(e.params["dimension_numbers"]) for e in a.eqns] == [
      ...     str(e.params["dimension_numbers"]) for e in b.eqns
      ... ]
      True
    """
    contract_path: Any = opt_einsum.contract_path
    orders: dict[str, list[tuple[int, ...]]] = {}

    def in_order(subscripts: Any, *operands: Any, optimize: Any = True, **options: Any) -> Any:
        known = isinstance(subscripts, str) and isinstance(optimize, str)
        if known and subscripts in orders:
            optimize = orders[subscripts]
        found = contract_path(subscripts, *operands, optimize=optimize, **options)
        if known and options.get("einsum_call"):
            orders[subscripts] = [tuple(step[0]) for step in found[1]]
        return found

    opt_einsum.contract_path = in_order
    try:
        yield
    finally:
        opt_einsum.contract_path = contract_path
