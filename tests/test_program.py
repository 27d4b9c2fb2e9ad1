"""Traced programs: every call opened, hooks that change nothing, lines of the user's code."""

import inspect
import itertools
import re
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from helpers import cases
from jax import lax
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import linear_call
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend import core
from jax.sharding import PartitionSpec

import jaxmup
from jaxmup import _program
from jaxmup._program._jax import CALLED

X = np.linspace(-1.0, 2.0, 12, dtype=np.float32).reshape(3, 4)
V = X[0]


@jax.custom_jvp
def with_jvp(x):
    return jnp.sin(x) * 2


with_jvp.defjvp(lambda primals, tangents: (with_jvp(*primals), 5 * tangents[0]))


@jax.custom_vjp
def with_vjp(x):
    return jnp.sin(x) * 2


with_vjp.defvjp(lambda x: (with_vjp(x), x), lambda x, g: (5 * g,))


@custom_vmap
def with_vmap(x):
    return jnp.sin(x) * 2


with_vmap.def_vmap(lambda _, is_batched, x: (double_sine(x), is_batched[0]))


@custom_partitioning
def partitioned(x):
    return jnp.sin(x) * 2


partitioned.def_partition(lambda *_: None, sharding_rule="i j -> i j")


def double_sine(x):
    return jnp.sin(x) * 2


def times(factor, x):
    return x * factor


def calling(primitive):
    """A program that calls `double_sine` by an equation of this primitive.

    JAX makes such equations in its own rules; what is traced again may lose them.
    """
    inner = jax.make_jaxpr(double_sine)(X)
    outer = jax.make_jaxpr(lambda x: x)(X).jaxpr
    params = {"call_jaxpr": inner if primitive.name == "closed_call" else inner.jaxpr}
    out = inner.jaxpr.outvars
    equation = core.new_jaxpr_eqn(outer.invars, out, primitive, params, core.no_effects)
    return core.ClosedJaxpr(outer.replace(eqns=[equation], outvars=out), ())


CALLS = {
    "jit": (jax.jit(double_sine),),
    "checkpoint": (jax.checkpoint(double_sine),),
    "with a policy": (
        jax.checkpoint(double_sine, policy=jax.checkpoint_policies.everything_saveable),
    ),
    "custom_jvp_call": (with_jvp,),
    "custom_vjp_call": (with_vjp,),
    "custom_vmap_call": (with_vmap,),
    "custom_partitioning": (partitioned,),
    "linear_call": (lambda x: linear_call(times, times, 2.0, jnp.sin(x)),),
    "closed_call": (calling(core.primitives.closed_call_p),),
    "call": (calling(core.primitives.call_p),),
}
NAMES = [
    {"jit", "pjit"},
    {"remat2", "remat", "checkpoint"},
    {"call", "core_call", "closed_call", "eval_jaxpr"},
]


def program_of(function):
    """The program of a function, or the program itself."""
    return jax.make_jaxpr(function)(X) if callable(function) else function


def the_call(function):
    """The one equation of a function that is a call."""
    (equation,) = filter(_program.is_call, program_of(function).jaxpr.eqns)
    return equation


@pytest.mark.parametrize("function", cases(CALLS))
def test_every_call_is_opened(function):
    program, equation = program_of(function), the_call(function)
    inside = [inner.primitive.name for inner in _program.called(equation).jaxpr.eqns]
    assert "mul" in inside

    def hook(equation, inputs):
        met.append(equation.primitive.name)
        return inline(equation, inputs)

    def inline(equation, inputs):
        if not _program.is_call(equation):
            return None
        return _program.evaluate(_program.called(equation), inputs, hook)

    met: list[str] = []
    (result,) = _program.evaluate(program, [X], hook)
    assert "mul" in met
    np.testing.assert_array_equal(result, double_sine(X))


def test_the_list_of_calls_holds_what_this_jax_makes_and_other_names_of_it():
    made = {the_call(function).primitive.name for (function,) in CALLS.values()}
    others = set().union(*(names for names in NAMES if names & made))
    assert made | others == set(CALLED)


def test_what_is_plain_and_what_is_a_checkpoint():
    def kind(name):
        equation = the_call(*CALLS[name])
        return _program.is_plain_call(equation), _program.is_checkpoint(equation)

    assert [kind(name) for name in ("jit", "closed_call", "call")] == [(True, False)] * 3
    assert [kind(name) for name in ("checkpoint", "with a policy")] == [(False, True)] * 2
    assert kind("custom_vjp_call") == kind("custom_jvp_call") == (False, False)


def everything(x, v):
    """Loops of each kind inside of calls of each kind, with constants, carries and literals."""

    @jax.checkpoint
    def block(carry, inputs):
        h, count = carry
        w, i = inputs
        h = lax.cond(i % 2 == 0, lambda h: jnp.sin(h) + w, lambda h: with_jvp(h) * v, h)
        return (h, count + 1), (h.sum(), jax.nn.silu(w))

    layers = (x, jnp.arange(3))
    (h, count), (sums, gates) = lax.scan(block, (v, 0), layers, reverse=True, unroll=2)

    def goes_on(state):
        return (jnp.sin(state[0]).sum() > 0.1) & (state[1] < 20)

    h, _ = lax.while_loop(goes_on, lambda s: (with_vjp(s[0]) * 0.4 - v, s[1] + 1), (h, 0))
    h = jax.jit(lambda h: lax.fori_loop(0, 3, lambda i, h: jnp.sin(h) * i + v, h))(h)
    h = lax.switch(count, [jnp.cos, jnp.sin, jnp.tan, with_vmap], h)
    h = lax.platform_dependent(h, cpu=jnp.sin, default=jnp.cos)
    return h, count, sums, gates, 3.0


def inside_everything(seen):
    """A hook that goes into whatever runs a program."""

    def hook(equation, inputs):
        seen.append(equation.primitive.name)
        found = _program.run_inside(equation, inputs, run)
        return None if found is None else found[0]

    def run(program, inputs):
        return _program.evaluate(program, inputs, hook), ()

    return hook


def test_a_hook_that_goes_everywhere_changes_nothing():
    program = jax.make_jaxpr(everything)(X, V)
    seen: list[str] = []
    results = jax.jit(partial(_program.evaluate, program, hook=inside_everything(seen)))([X, V])
    expected = jax.jit(everything)(X, V)
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, wanted)
    # Inside of the loops, the branches and the functions with their own rules.
    assert {"logistic", "sin", "rem", "reduce_sum", "gt", "tan"} <= set(seen)


def test_a_hook_takes_over_wherever_an_equation_stands():
    program = jax.make_jaxpr(everything)(X, V)
    everywhere = inside_everything([])

    def hook(equation, inputs):
        if equation.primitive.name == "sin":
            return [jnp.zeros_like(inputs[0])]
        found = _program.run_inside(equation, inputs, run)
        return None if found is None else found[0]

    def run(program, inputs):
        return _program.evaluate(program, inputs, hook), ()

    _, _, sums, gates, _ = _program.evaluate(program, [X, V], hook)
    # Layers 2, 1, 0: w; 0 times v; w.
    np.testing.assert_array_equal(sums, [X[0].sum(), 0.0, X[2].sum()])
    np.testing.assert_array_equal(gates, _program.evaluate(program, [X, V], everywhere)[3])


def test_what_a_scan_collects_is_stacked():
    def run(program, inputs):
        found = []

        def hook(equation, inputs):
            results = _program.bind(equation, inputs)
            found.extend(results if equation.primitive.name == "sin" else [])
            return results

        return _program.evaluate(program, inputs, hook), found

    program = jax.make_jaxpr(lambda x: lax.scan(lambda c, x: (c + jnp.sin(x), ()), 0.0, x)[0])(V)
    (scan,) = program.jaxpr.eqns
    (last,), (sines,) = _program.run_inside(scan, [np.float32(0), V], run)
    np.testing.assert_array_equal(sines, jnp.sin(V))
    np.testing.assert_allclose(last, np.sin(V).sum(), rtol=1e-6)


def test_a_checkpoint_stays_one_and_derivatives_of_their_own_stay_where_nothing_is_opened():
    program = jax.make_jaxpr(lambda x: jax.checkpoint(double_sine)(x) + with_vjp(x))(X)
    opened = partial(_program.evaluate, program, hook=inside_everything([]))
    names = [eqn.primitive.name for eqn in jax.make_jaxpr(opened)([X]).jaxpr.eqns]
    assert "remat2" in names
    assert "custom_vjp_call" not in names
    plain = partial(_program.evaluate, program, hook=lambda *_: None)
    gradient = jax.grad(lambda x: plain([x])[0].sum())(X)
    np.testing.assert_allclose(gradient, 2 * np.cos(X) + 5, rtol=1e-6)


def test_loops_are_opened():
    def function(x, v):
        return lax.scan(lambda c, x: (c * v + x, (c, c)), v, x, reverse=True, unroll=3)

    (equation,) = jax.make_jaxpr(function)(X, V).jaxpr.eqns
    loop = _program.Loop.of(equation)
    assert (loop.constants, loop.carry, loop.length, loop.is_reversed) == (1, 1, 3, True)
    assert loop.order == {"length": 3, "reverse": True, "unroll": 3}
    assert [atom.aval.shape for atom in loop.scanned] == [(3, 4)]
    assert loop.split("abc") == (["a"], ["b"], ["c"])
    assert [aval.shape for aval in loop.body.in_avals] == [(4,)] * 3

    def wait(x, v):
        return lax.while_loop(lambda c: (c[0] < v).all(), lambda c: (c[0] + x, c[1] + 1), (v, 0))

    (equation,) = jax.make_jaxpr(wait)(V, V).jaxpr.eqns
    assert _program.is_while(equation)
    loop = _program.While(equation)
    assert loop.split("abcd") == (["a"], ["b"], ["c", "d"])
    assert [len(program.jaxpr.invars) for program in (loop.test, loop.body)] == [3, 3]

    def choose(i, x):
        return lax.switch(i, [jnp.sin, jnp.cos, jnp.tan], x)

    equation = jax.make_jaxpr(choose)(1, X).jaxpr.eqns[-1]
    assert _program.is_choice(equation)
    choice = _program.Choice(equation)
    assert [b.jaxpr.eqns[0].primitive.name for b in choice.branches] == ["sin", "cos", "tan"]
    assert choice.split("ab") == ("a", ["b"])
    assert not choice.is_of_platform
    of_platform = jax.make_jaxpr(lambda x: lax.platform_dependent(x, cpu=jnp.sin, tpu=jnp.cos))(X)
    assert _program.Choice(of_platform.jaxpr.eqns[-1]).is_of_platform
    assert _program.run_inside(of_platform.jaxpr.eqns[-1], [0, X], lambda _, xs: (xs, ())) is None


def test_loops_inside_of_jits_come_to_the_top_and_no_others():
    inner = jax.jit(lambda x: lax.scan(lambda c, x: (c + x, ()), x[0], x)[0])

    def function(x):
        unused = jnp.tan(x)  # noqa: F841
        return jax.jit(lambda x: jnp.cos(inner(x)))(x) + jax.checkpoint(inner)(x) + x[0]

    found = [eqn.primitive.name for eqn in _program.trace(function, X).program.jaxpr.eqns]
    assert found.count("scan") == 1
    assert {"remat2", "cos"} <= set(found)
    assert not {"tan", "jit"} & set(found)


def test_a_program_is_cut_where_its_inputs_are_known():
    def function(count, gradient):
        rate = jax.jit(lambda n: 0.1 / jnp.sqrt(n + 1.0))(count)
        return gradient * rate * gradient.sum(), count + 1

    program = _program.inlined(jax.make_jaxpr(function)(3.0, X), _program.is_plain_call)
    first, rest = _program.split(program, [True, False], lambda eqn: not eqn.outvars[0].aval.shape)
    # The sum is a scalar too, but of what only the second sees.
    assert {eqn.primitive.name for eqn in rest.jaxpr.eqns} == {"mul", "reduce_sum"}
    (scaled, count) = core.jaxpr_as_fun(rest)(X, *core.jaxpr_as_fun(first)(3.0))
    np.testing.assert_array_equal(scaled, function(3.0, X)[0])
    assert count == 4.0


TABLE = np.arange(9.0, dtype=np.float32).reshape(3, 3)
ALIKE = {
    "a number": (lambda x: 2 * x, lambda x: 3 * x),
    "a primitive": (lambda x: jnp.sin(x), lambda x: jnp.cos(x)),
    "a parameter": (lambda x: jnp.sum(x, 0), lambda x: jnp.sum(x, 1)),
    "a constant": (lambda x: x + TABLE, lambda x: x + 2 * TABLE),
    "an operand": (lambda x: x - jnp.sin(x), lambda x: jnp.sin(x) - x),
    "an output": (lambda x: (x, jnp.sin(x)), lambda x: (jnp.sin(x), x)),
    "inside of a call": (jax.jit(lambda x: x + TABLE), jax.jit(lambda x: x + 2 * TABLE)),
    "inside of a loop": tuple(
        partial(lambda n, x: lax.fori_loop(0, 3, lambda i, y: n * y, x), n) for n in (2, 3)
    ),
}


@pytest.mark.parametrize(("one", "other"), cases(ALIKE))
def test_programs_are_the_same_if_they_do_the_same(one, other):
    x = jnp.ones((3, 3))

    def same(function: Any) -> Any:
        return _program.Same(jax.make_jaxpr(lambda x: function(x))(x))

    assert same(one) == same(one)
    assert hash(same(one)) == hash(same(one))
    assert same(one) != same(other)


def test_derivatives_are_no_part_of_what_a_program_does():
    programs = [jax.make_jaxpr(lambda x: jax.nn.relu(x) + 1)(1.0) for _ in range(2)]
    assert _program.Same(programs[0]) == _program.Same(programs[1])


def test_every_output_has_its_part():
    def function(x: Any, y: Any) -> Any:
        z = jnp.sin(x)
        return z + 1, y + 2, jax.jit(lambda z, y: (z * 2, y * 3))(z, y)[0], 4.0

    program = jax.make_jaxpr(function)(1.0, 1.0)
    found = _program.parts(program)
    assert [needed for _, needed in found] == [[0], [1], [0], []]
    names = [[equation.primitive.name for equation in one.jaxpr.eqns] for one, _ in found]
    assert names[:2] == [["sin", "add"], ["add"]]
    assert names[3] == []


def test_uses_and_followers():
    def function(x, n, y):
        return x * y, (n + n, y)

    program = jax.make_jaxpr(function)(1.0, 1, 2.0)
    x, n, y = program.jaxpr.invars
    uses = _program.number_of_uses(program)
    assert (uses[x], uses[n], uses[y]) == (1, 2, 2)
    floats = _program.followers(program, [x, n], lambda v: _program.is_inexact(v.aval))
    assert floats == {x, program.jaxpr.eqns[0].outvars[0]}


def test_only_one_file_knows_what_is_private_in_jax():
    root = Path(jaxmup.__file__).parent
    private = re.compile(r"jax\._src|jax\.extend|jax\.interpreters|import _src\b")
    found = [f for f in root.rglob("*.py") if private.search(f.read_text(encoding="utf-8"))]
    assert [str(f.relative_to(root)) for f in found] == ["_program/_jax.py"]


# Lines of the user's code.


def line_with(mark: str) -> int:
    """The number of the line of this file that ends in this comment."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    (number,) = (i for i, line in enumerate(lines, start=1) if line.endswith(f"# {mark}"))
    return number


@jax.jit
def inner(x):
    return jnp.exp(x)  # in inner


def gated(x):
    x = jax.nn.silu(x)  # first gate
    x = inner(x)
    return jax.nn.silu(x * 2)  # second gate


def gated_elsewhere(x):
    x = jnp.tan(inner(jax.nn.silu(x)))  # third gate
    return lax.map(jax.nn.silu, x)  # mapped gate


def lines(function, op, *args):
    """Line and surrounding function of each equation of a primitive."""
    nodes = _program.flatten(jax.make_jaxpr(function)(*args)).nodes
    return [(n.line.line, n.line.function, n.line.inside) for n in nodes if n.op == op]


def test_lines_are_those_of_the_call_whoever_called_first():
    gate, second, exp = map(line_with, ("first gate", "second gate", "in inner"))
    assert lines(gated, "logistic", X) == [(gate, "gated", "silu"), (second, "gated", "silu")]
    assert lines(gated, "exp", X) == [(exp, "inner", "")]
    third, mapped = map(line_with, ("third gate", "mapped gate"))
    assert lines(gated_elsewhere, "logistic", X) == [
        (third, "gated_elsewhere", "silu"),
        (mapped, "gated_elsewhere", "silu"),
    ]
    assert lines(gated_elsewhere, "exp", X) == [(exp, "inner", "")]
    assert lines(gated_elsewhere, "tan", X) == [(third, "gated_elsewhere", "")]


def in_everything(x):
    """One equation of its own in each kind of loop and call."""

    def body(carry, x):
        return jnp.sin(carry) + x, jnp.cos(carry)  # in scan

    carry, _ = lax.scan(jax.checkpoint(body), x[0], x)
    carry = lax.while_loop(lambda c: jnp.tan(c).any(), jnp.sinh, carry)  # in while
    return lax.cond(carry[0] > 0, lambda c: jnp.cosh(c), lambda c: c, carry)  # in cond


def test_lines_inside_of_loops():
    scan, wait, cond = map(line_with, ("in scan", "in while", "in cond"))
    body = "in_everything.<locals>.body"
    assert lines(in_everything, "sin", X) == [(scan, body, "")]
    assert lines(in_everything, "cos", X) == [(scan, body, "")]
    assert lines(in_everything, "tan", X)[0][0] == wait
    assert lines(in_everything, "sinh", X)[0][0] == wait
    assert lines(in_everything, "cosh", X)[0][0] == cond


class OfFlax(nnx.Module):
    """A module of Flax's layers."""

    def __init__(self):
        self.layer = nnx.Linear(4, 4, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return nnx.relu(nnx.remat(lambda layer, x: layer(x))(self.layer, x))  # layer of nnx


class OfLinen(linen.Module):
    """A module of Linen's layers."""

    @linen.compact
    def __call__(self, x):
        return linen.Dense(4)(x)  # layer of linen


def test_what_a_librarys_layer_does_belongs_to_the_line_that_calls_it():
    graph, state = nnx.split(OfFlax())
    ((line, _, inside),) = lines(lambda s, x: nnx.merge(graph, s)(x), "dot_general", state, X)
    assert (line, inside.split(".")[0]) == (line_with("layer of nnx"), "Linear")
    variables = OfLinen().init(jax.random.key(0), X)
    ((line, function, inside),) = lines(OfLinen().apply, "dot_general", variables, X)
    assert (line, function) == (line_with("layer of linen"), "OfLinen.__call__")
    assert inside == "Dense.__call__"
    layer = jaxmup.nnx.Linear(4, 4, rngs=nnx.Rngs(0))
    graph, state = nnx.split(layer)

    def call(state, x):
        return nnx.merge(graph, state)(x)  # layer of ours

    ((line, _, inside),) = lines(call, "dot_general", state, X)
    assert line == line_with("layer of ours")
    assert inside


def test_lines_outlive_inlining():
    program = _program.inlined(jax.make_jaxpr(gated_elsewhere)(X), _program.is_plain_call)
    (tan,) = (eqn for eqn in program.jaxpr.eqns if eqn.primitive.name == "tan")
    gates = [eqn for eqn in program.jaxpr.eqns if eqn.primitive.name == "logistic"]
    found = [_program.line_of([eqn]) for eqn in (tan, *gates)]
    assert [line and line.line for line in found] == [line_with("third gate")] * 2
    assert str(found[0]) == f"test_program.py:{line_with('third gate')}"


def test_what_nobody_wrote_has_no_line():
    equation = the_call(jax.jit(double_sine))
    inside = _program.called(equation).jaxpr.eqns[0]
    assert _program.line_of([]) is None
    silu = jax.make_jaxpr(jax.nn.silu)(X).jaxpr.eqns[0]
    assert _program.line_of([_program.called(silu).jaxpr.eqns[0]]) is None
    assert _program.line_of([inside]).function == "double_sine"
    assert Path(_program.line_of([inside]).file) == Path(inspect.getfile(double_sine))


# Programs at several sizes in lockstep.


def model(n, layers=2, extra=False):
    """A program of arrays of a size n."""

    def apply(w, x):
        def block(h, w):
            return jnp.tanh(h @ w) / n**0.5, h.sum()

        h, sums = lax.scan(block, x, w)
        h = lax.while_loop(lambda h: (h > n).any(), lambda h: h * 0.5, h)
        for _ in range(layers):
            h = jnp.sin(h)
        h = jnp.cos(h) if extra else h  # extra
        h = lax.cond(h.sum() > 0, lambda h: h * w[0, 0], lambda h: h, h)
        return h + np.arange(n, dtype=np.float32), sums

    w, x = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((3, n, n), (n,)))
    return jax.make_jaxpr(jax.jit(apply))(w, x)


def test_programs_of_several_sizes_are_one_list():
    flat = _program.flatten(model(4), model(8), model(12))
    (product,) = (node for node in flat.nodes if node.op == "dot_general")
    assert product.shapes == ((4,), (8,), (12,))
    assert [parent.op for parent in product.parents] == ["carry", "slice"]
    assert product.parents[1].shapes == ((4, 4), (8, 8), (12, 12))
    assert product.parents[1].parents == [flat.inputs[0]]
    (quotient,) = (node for node in flat.nodes if node.op == "div")
    assert [float(x) for x in quotient.parents[1].value] == pytest.approx([2, 8**0.5, 12**0.5])
    # A carry follows from its start and from itself.
    carry = product.parents[0]
    assert carry.parents == [flat.inputs[1], quotient]
    (stacked,) = (node for node in flat.nodes if node.op == "stack")
    assert stacked is flat.outputs[1]
    assert stacked.shapes == ((3,),) * 3
    (choice,) = (node for node in flat.nodes if node.op == "choice")
    assert [parent.op for parent in choice.parents][1:] == ["sin", "mul"]  # of false, of true
    assert choice.parents[0].shapes == ((),) * 3
    assert [node.op for node in flat.nodes].count("test") == 1
    assert [len(held) for node in flat.nodes if node.op == "constant" and node.value is not None
            and np.ndim(node.value[0]) for held in node.value] == [4, 8, 12]  # fmt: skip
    order = {id(node): i for i, node in enumerate(flat.nodes)}
    for node, parent in itertools.chain(*([(n, p) for p in n.parents] for n in flat.nodes)):
        assert order[id(parent)] < order[id(node)] or node.op == "carry"


def test_every_path_leads_through_the_calls_to_the_equation():
    flat = _program.flatten(model(4))
    (product,) = (node for node in flat.nodes if node.op == "dot_general")
    assert [eqn.primitive.name for eqn in product.path] == ["jit", "scan", "dot_general"]
    assert product.equations == (product.path[-1],)


def test_all_that_can_be_opened_is():
    for (function,) in CALLS.values():
        flat = _program.flatten(program_of(function))
        assert [node.op for node in flat.nodes if node.op in ("sin", "mul")] == ["sin", "mul"]
    ops = {n.op for n in _program.flatten(jax.make_jaxpr(everything)(X, V)).nodes}
    assert not ops & {*CALLED, "scan", "while", "cond"}
    mesh = jax.make_mesh((1,), ("a",))
    spec = PartitionSpec(None)
    sharded = jax.shard_map(double_sine, mesh=mesh, in_specs=spec, out_specs=spec)
    flat = _program.flatten(jax.make_jaxpr(sharded)(X))
    assert [n.op for n in flat.nodes if n.op != "constant"] == [
        "input", "shard", "sin", "mul", "unshard"
    ]  # fmt: skip


DIFFER = {
    "one more": ({"layers": 3}, "`sin` of 1 and|and `sin` of 1"),
    "another": ({"extra": True}, "`cos` of 1 and|and `cos` of 1"),
}


@pytest.mark.parametrize(("change", "message"), cases(DIFFER))
def test_programs_that_do_other_things_are_refused_with_the_line(change: Any, message: str):
    for first, second in itertools.permutations([model(4), model(8, **change)]):
        with pytest.raises(ValueError, match=message) as caught:
            _program.flatten(first, second)
        assert re.search(rf"{re.escape(__file__)}:\d+ it does", str(caught.value))


def test_a_program_that_goes_on_where_another_ends_is_refused():
    traced = [jax.make_jaxpr(f)(X) for f in (jnp.sin, lambda x: jnp.cos(jnp.sin(x)))]
    for first, second in itertools.permutations(traced):
        with pytest.raises(ValueError, match=r"`cos` of 1 and nothing more|nothing more and `cos`"):
            _program.flatten(first, second)


def test_other_numbers_of_operands_and_branches_are_refused():
    def joined(n):
        return jax.make_jaxpr(lambda x: jnp.concatenate([x] * n))(V)

    def chosen(n):
        return jax.make_jaxpr(lambda i, x: lax.switch(i, [jnp.sin] * n, x))(1, V)

    def carried(n):
        return jax.make_jaxpr(lambda x: lax.scan(lambda c, _: (c, ()), (x,) * n, length=2))(V)

    for traced in (joined, chosen, carried):
        _program.flatten(traced(2), traced(2))
        with pytest.raises(ValueError, match="must do the same at all sizes"):
            _program.flatten(traced(2), traced(3))


# ---- bits that compile quickly

DRAWS = {
    "one": lambda key: jax.random.bits(key, (), "uint32"),
    "words of 32": lambda key: jax.random.bits(key, (3, 4, 5), "uint32"),
    "words of 8": lambda key: jax.random.bits(key, (7,), "uint8"),
    "words of 16": lambda key: jax.random.bits(key, (2, 3), "uint16"),
    "words of 64": lambda key: jax.random.bits(key, (2, 3), "uint64"),
    "none": lambda key: jax.random.bits(key, (0, 3), "uint32"),
    "many keys": lambda key: jax.vmap(jax.vmap(lambda key: jax.random.normal(key, (2, 3))))(
        jax.random.split(key, (4, 5))
    ),
    "calls": jax.jit(lambda key: jax.nn.initializers.orthogonal()(key, (4, 3))),
    "an old key": lambda key: jax.random.uniform(jax.random.key_data(key), (3,)),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_quick_bits_are_those_of_jax(draw, x64):
    key = jax.random.key(7)
    program = jax.make_jaxpr(draw)(key)
    quick = _program.with_quick_bits(program)
    assert "written out" in str(quick)
    for run in (jax.jit(_program.as_function(quick)), _program.as_function(quick)):
        np.testing.assert_array_equal(np.asarray(run(key)[0]), np.asarray(draw(key)))


NOT_QUICK = {
    "another generator": lambda _: jax.random.bits(jax.random.key(0, impl="rbg"), (3,)),
    "in a loop": lambda key: lax.map(jax.random.bits, jax.random.split(key, 3)),
    "more than a word counts": lambda key: jax.random.bits(key, (2**16, 2**16)),
    "nothing random": lambda key: jax.random.key_data(key) + 1,
}


@pytest.mark.parametrize("draw", NOT_QUICK.values(), ids=NOT_QUICK)
def test_other_programs_are_left_as_they_are(draw):
    program = jax.make_jaxpr(draw)(jax.random.key(0))
    assert _program.with_quick_bits(program) is program


def test_bits_that_depend_on_how_they_are_cut_are_left_as_they_are():
    with jax.threefry_partitionable(False):
        program = jax.make_jaxpr(DRAWS["words of 32"])(jax.random.key(0))
        assert _program.with_quick_bits(program) is program
