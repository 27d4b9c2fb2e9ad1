"""The memory that a training step takes in each of its forms, from the compiled programs."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import optax
from jax import Array
from jax.stages import Wrapped

from jaxmup import _check
from jaxmup._check import one_of
from jaxmup._tree import OptState, Params, leaves_by_path
from jaxmup.fused import _tape
from jaxmup.fused._clip import squared_norm
from jaxmup.fused._devices import is_spread, size_on_device
from jaxmup.fused._live import read_live_gradients
from jaxmup.fused._stack import find_stacks, rematerialized, stored
from jaxmup.fused._step import Step
from jaxmup.optim import state_shardings

Form = Literal["plain", "remat", "fused", "remat + fused"]


class Memory(NamedTuple):
    """Bytes that one form of a step takes on one device.

    Args:
      parameters: Bytes of the parameters.
      state: Bytes of the optimizer's state.
      activations: Bytes that are kept from the forward pass for the backward pass.
      gradients: Most bytes of gradients at one time, an upper bound; see `LiveGradients`.
      temporaries: Bytes of all that the program needs beside arguments and results. Activations and
        gradients are among them, though not always at the same time.
      peak: Bytes of arguments, results and temporaries together.
    """

    parameters: int
    state: int
    activations: int
    gradients: int
    temporaries: int
    peak: int


@dataclasses.dataclass(frozen=True)
class MemoryReport:
    """The memory of each form of a step; as text, a table in MiB.

    Args:
      forms: Memory of each form, by its name.
    """

    forms: Mapping[Form, Memory]

    def __str__(self) -> str:
        names = ["MiB", *(name for name in Memory._fields)]
        rows = [
            [form, *(f"{size / 2**20:,.1f}" for size in memory)]
            for form, memory in self.forms.items()
        ]
        widths = [max(len(row[i]) for row in [names, *rows]) for i in range(len(names))]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in [names, *rows]
        )


def memory_report(
    step: Step | Wrapped,
    params: Params,
    state: OptState,
    *args: Any,
    forms: Sequence[Form] = get_args(Form),
) -> MemoryReport:
    """Compiles a step in four forms and reads from XLA what each takes.

    `plain` computes all gradients and then updates; `remat` does so and keeps the inputs of each
    block alone; `fused` is `value_and_update`; `remat + fused` is both. In `plain` and `fused` the
    block has no `jax.checkpoint`, whatever the model says. Nothing is computed and no array is
    made, so that arguments may be shapes and dtypes, of a model that the machine could not hold.

    Args:
      step: Step that `value_and_update` returns, or that compiled by `jax.jit`.
      params: Parameters, or `jax.ShapeDtypeStruct`s, with shardings if they have some.
      state: Optimizer's state, or its shapes and dtypes: `jax.eval_shape(tx.init, params)`. Where
        these have no shardings, they get those of `jaxmup.optim.state_shardings`.
      *args: Other arguments of the loss, or their shapes and dtypes.
      forms: Forms to compile.

    Raises:
      TypeError: if `step` is neither.
      ValueError: if a form is unknown; as `value_and_update`.

    Warns:
      UserWarning: if `step` is compiled without donating parameters and state: what that costs.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmup import fused
      >>> def loss_fn(params, x):
      ...     return jnp.sum(jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params)[0])
      >>> params, tx = jax.ShapeDtypeStruct((16, 64, 64), jnp.float32), optax.sgd(0.1)
      >>> step = fused.value_and_update(loss_fn, tx)
      >>> x = jax.ShapeDtypeStruct((2, 64), jnp.float32)
      >>> report = fused.memory_report(step, params, jax.eval_shape(tx.init, params), x)
      >>> report.forms["plain"].gradients >= 8 * report.forms["fused"].gradients
      True
    """
    plain_step = getattr(step, "__wrapped__", step)
    if not isinstance(plain_step, Step):
        raise TypeError(
            f"`step` must come from `jaxmup.fused.value_and_update`, compiled or not. Got {step!r}."
        )
    if not isinstance(step, Step):
        _warn_if_not_donated(step, params, state, *args)
    for form in forms:
        one_of("forms", form, get_args(Form))
    state = _laid_out(plain_step.tx, params, state)
    found: dict[Form, Memory] = {
        form: _measure(form, plain_step, params, state, *args) for form in forms
    }
    return MemoryReport(found)


def in_form(step: Step, form: Form) -> Callable[..., Any]:
    """The step in one of the forms of `memory_report`, all with the same arguments and results.

    Raises:
      TypeError: if `step` is none of `value_and_update`.
      ValueError: if the form is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmup import fused
      >>> def loss_fn(params):
      ...     return jax.lax.scan(lambda x, w: (x * w, None), 1.0, params)[0]
      >>> step, params = fused.value_and_update(loss_fn, optax.sgd(0.5)), jnp.array([2.0, 3.0])
      >>> plain = jax.jit(in_form(step, "plain"))
      >>> plain(params, optax.sgd(0.5).init(params))[1]
      Array([0.5, 2. ], dtype=float32)
    """
    if not isinstance(step, Step):
        raise TypeError(
            f"`step` must come from `jaxmup.fused.value_and_update`, not compiled. Got {step!r}."
        )
    one_of("form", form, get_args(Form))
    block = rematerialized if form.startswith("remat") else stored
    step = dataclasses.replace(step, block=block)
    return step if form.endswith("fused") else _plain(step)


def _measure(form: Form, step: Step, params: Params, state: OptState, *args: Any) -> Memory:
    function = in_form(step, form)
    compiled = jax.jit(function, donate_argnums=(0, 1)).lower(params, state, *args).compile()
    sizes: Any = compiled.memory_analysis()
    # Donated arguments are results too, and counted once.
    arguments, results = sizes.argument_size_in_bytes, sizes.output_size_in_bytes
    return Memory(
        size_on_device(params),
        size_on_device(state),
        _activations(step, form, params, *args),
        read_live_gradients(compiled.as_text() or "", params).peak,
        sizes.temp_size_in_bytes,
        arguments + results - sizes.alias_size_in_bytes + sizes.temp_size_in_bytes,
    )


def _plain(step: Step) -> Callable[..., Any]:
    """The step with all gradients first, its blocks as this step has them."""

    def run(params: Params, state: OptState, *args: Any) -> tuple[Any, Params, OptState]:
        program, result = step.traced(params, *args)
        stacks = find_stacks(program, list(leaves_by_path(params)))

        def loss(params: Params) -> tuple[Array, list[Array]]:
            found = _tape.run_plainly(program, stacks, jax.tree.leaves(params), step.block)
            return found[0], found

        (_, found), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        if step.clip is not None:
            squares = [squared_norm(g) for g in jax.tree.leaves(gradients)]
            factor = step.clip.factor(params, squares)
            gradients = jax.tree.map(lambda g: (g * factor).astype(g.dtype), gradients)
        updates, state = step.tx.update(gradients, state, params)
        value = jax.tree.unflatten(jax.tree.structure(result), found)
        return value, optax.apply_updates(params, updates), state

    return run


def _activations(step: Step, form: Form, params: Params, *args: Any) -> int:
    """Bytes of what the forward pass of the fused step keeps, but for parameters and arguments."""
    block = rematerialized if form.startswith("remat") else stored

    def forward(params: Params, args: tuple[Any, ...]) -> list[Array]:
        program, _ = step.traced(params, *args)
        stacks = find_stacks(program, list(leaves_by_path(params)))
        leaves = jax.tree.leaves(params)
        kept = _tape.run_forward(program, stacks, leaves, block).kept
        # One value may be a residual of several layers or segments: each array counts once.
        given = {id(x) for x in [*leaves, *jax.tree.leaves(args)]}
        return list({id(x): x for x in kept if id(x) not in given}.values())

    if not is_spread((params, args)):
        return size_on_device(jax.eval_shape(forward, params, args))
    # What lies where is the partitioner's choice, wherever the model does not say.
    lowered = jax.jit(forward).lower(params, args)
    shardings = lowered.compile().output_shardings
    return size_on_device(
        jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            lowered.out_info,
            shardings,
        )
    )


def _laid_out(tx: optax.GradientTransformation, params: Params, state: OptState) -> OptState:
    """The types of a state; those without shardings get them from the parameters."""
    if not is_spread(params) or is_spread(state):
        return state

    def with_sharding(x: Any, sharding: Any) -> Any:
        if not isinstance(x, jax.ShapeDtypeStruct):
            return x
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(with_sharding, state, state_shardings(tx, params))


def _warn_if_not_donated(step: Wrapped, params: Params, state: OptState, *args: Any) -> None:
    sizes: Any = step.lower(params, state, *args).compile().memory_analysis()
    lacking = size_on_device((params, state)) - sizes.alias_size_in_bytes
    if lacking > 0:
        _check.warn(
            f"Parameters and state are not donated: {lacking:,} bytes exist twice. Use "
            "`jax.jit(step, donate_argnums=(0, 1))`."
        )
