"""`jaxmup.corrected` beside models that were edited by hand, in every framework and transform."""

import dataclasses
import functools
import math
import pickle

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from helpers import cases, require_close
from zoo import gemma, lora, ties
from zoo.small import rms

import jaxmup
from jaxmup._tree import leaves_by_path
from jaxmup.coord_check import coord_check

TOKENS = jnp.array([[0, 3, 1, 4], [2, 2, 0, 1]])
SIZES = {"base": 16, "delta": 32, "target": 48}


@pytest.fixture(autouse=True)
def _as_elsewhere():
    """Other people's models rely on NumPy's promotion of ranks."""
    with jax.numpy_rank_promotion("allow"), jax.enable_x64(True):
        yield


def infer(make_model, apply=None, inputs=TOKENS, sizes=SIZES, **options):
    how = {"inputs": inputs, "apply": apply, "corrected": True, **sizes, **options}
    return jaxmup.infer(make_model, **how)


def corrections(specs):
    return [one for spec in leaves_by_path(specs).values() for one in spec.corrections]


def filled(tree):
    """Random values in the place of all parameters."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    made = [jax.random.normal(k, x.shape, "float64") for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, made)


def require_same(function, other, params, *args):
    """Equal values and gradients of two functions, which are not those of a constant."""

    def both(function):
        return jax.jit(jax.value_and_grad(lambda p: jnp.sum(jnp.sin(function(p, *args)))))(params)

    got = both(function)
    require_close(got, both(other), "corrected", "float64")
    assert all(jnp.any(x != 0) for x in jax.tree.leaves(got))


# ---- the models of the zoo that `infer` refuses, edited by hand. Every size grows by a prime.


class EditedGemma(gemma.Gemma):
    """Gemma with the factor that is missing on its logits."""

    @nn.compact
    def __call__(self, tokens):
        table = self.param("table", nn.initializers.normal(1.0), (gemma.VOCABULARY, self.width))
        x = table[tokens] * jnp.sqrt(self.width)
        for i in range(2):
            sizes = self.heads, self.head_size, self.d_ff, self.post_norms, self.qk_norm
            x = gemma.Block(*sizes, name=f"b{i}")(x)
        x = gemma.RMSNorm(self.one, name="norm")(x)
        # √(1/7) of the width's 1/7: the table carries as much for the √width on it.
        logits = jnp.dot(x, table.T) * math.sqrt(16 / 112)
        return 30 * jnp.tanh(logits / 30)


def edited_attention(q, k, v):
    q = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[-1])
    logits = jnp.einsum("btkgd,bskd->bkgts", q, k) / math.sqrt(q.shape[-1])
    logits = logits * math.sqrt(4 / 8)  # of heads twice as large
    length = q.shape[1]
    logits = jnp.where(jnp.tril(jnp.ones((length, length), bool)), logits, -1e30)
    mixed = jnp.einsum("bkgts,bskd->btkgd", nnx.softmax(logits), v)
    return mixed.reshape(*q.shape[:2], -1, v.shape[-1])


def of_linen(make_module):
    """A module as functions of sizes and of parameters."""

    def make_params(**sizes):
        return make_module(**sizes).init(jax.random.key(0), TOKENS)["params"]

    def apply(params, tokens, **sizes):
        return make_module(**sizes).apply({"params": params}, tokens)

    return make_params, apply


def test_gemma_with_norms_behind_is_the_model_edited_by_hand():
    case = gemma.CASES["with norms behind"]
    specs = infer(case.make_model, None, case.inputs, case.sizes)
    (one,) = corrections(specs)
    assert one.factor == pytest.approx(7**-0.5, rel=1e-14)
    assert str(one) == "(16/112)^1/2 on `dot_general` at gemma.py:76"
    module = case.make_model(**case.target)
    edited = EditedGemma(**case.target, post_norms=True)
    variables = filled(jax.eval_shape(module.init, jax.random.key(0), TOKENS))
    require_same(jaxmup.corrected(module.apply, specs), edited.apply, variables, TOKENS)


def test_gemma_with_norms_of_queries_is_the_model_edited_by_hand(monkeypatch):
    case = gemma.CASES["with norms of queries"]
    specs = infer(case.make_model, None, case.inputs, case.sizes)
    module = case.make_model(**case.target)
    variables = filled(jax.eval_shape(module.init, jax.random.key(0), TOKENS))
    function = jaxmup.corrected(module.apply, specs)
    tokens, other = function(variables, TOKENS), module.apply(variables, TOKENS)
    assert jnp.max(jnp.abs(tokens - other)) > 1e-3
    got = jax.grad(lambda v: function(v, TOKENS).sum())(variables)
    monkeypatch.setattr(gemma, "grouped_attention", edited_attention)
    require_close(tokens, module.apply(variables, TOKENS), "corrected", "float64")
    expected = jax.grad(lambda v: module.apply(v, TOKENS).sum())(variables)
    require_close(got, expected, "corrected", "float64")


def test_a_tied_readout_without_a_norm_is_the_model_edited_by_hand():
    case = ties.CASES["tied, pinned, without a scale"]
    specs = infer(case.make_model, case.apply, case.inputs, case.sizes)
    assert [one.factor for one in corrections(specs)] == [1 / 7]
    params = filled(case.make_model(**case.target))
    function = jaxmup.corrected(case.apply, specs)
    require_same(function, lambda p, x: case.apply(p, x) / 7, params, case.inputs)


def edited_lora(params, tokens, through):
    x = params["embed"][tokens]
    q = through(x, params["q"], params["lora"]["q"])
    k, v = x @ params["k"], x @ params["v"]
    q, k, v = (a.reshape(*a.shape[:2], -1, a.shape[-1] // 2) for a in (q, k, v))
    logits = jnp.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.shape[-1]) * math.sqrt(1 / 2)
    y = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(logits), v)
    return (x + through(y.reshape(*x.shape[:2], -1), params["o"], params["lora"]["o"])) @ params[
        "head"
    ]


@pytest.mark.parametrize("through", [lora.beside, lora.merged])
def test_frozen_attention_with_larger_heads_is_the_model_edited_by_hand(through):
    name = f"{through.__name__}, larger heads, the rest frozen"
    case = lora.CASES[name]
    specs = infer(case.make_model, case.apply, case.inputs, case.sizes, wrt=case.wrt)
    params = filled(jax.eval_shape(lambda: case.make_model(**case.target, key=jax.random.key(0))))
    edited = functools.partial(edited_lora, through=through)
    require_same(jaxmup.corrected(case.apply, specs), edited, params, case.inputs)


# ---- frameworks: the same function of the same weights, tied and without a scale behind the norm


def head(x, table, factor=1.0):
    return rms(jnp.tanh(x)) @ table.T * factor


class InNnx(nnx.Module):
    def __init__(self, width, rngs):
        self.embed = nnx.Param(jax.random.normal(rngs(), (7, width)))
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, tokens, train=False, factor=1.0):
        self.calls[...] += 1
        x = self.dropout(self.embed[...][tokens], deterministic=not train)
        self.features = nnx.Intermediate(x)  # none before the first call
        return head(x, self.embed[...], factor)


class InLinen(nn.Module):
    width: int

    @nn.compact
    def __call__(self, tokens, train=False, factor=1.0):
        table = self.param("embed", nn.initializers.normal(1.0), (7, self.width))
        calls = self.variable("counts", "calls", jnp.zeros, (), jnp.int32)
        calls.value += 1
        x = nn.Dropout(0.5, deterministic=not train)(table[tokens])
        return head(x, table, factor)


class InEquinox(eqx.Module):
    embed: jax.Array
    activation: object = eqx.field(static=False)

    def __init__(self, width, key):
        self.embed = jax.random.normal(key, (7, width))
        self.activation = jnp.tanh  # a leaf that is no array

    def __call__(self, tokens, factor=1.0):
        return rms(self.activation(self.embed[tokens])) @ self.embed.T * factor


def in_haiku(tokens, width, factor=1.0):
    table = hk.get_parameter("embed", (7, width), init=hk.initializers.RandomNormal())
    return head(table[tokens], table, factor)


HAIKU = {width: hk.transform(functools.partial(in_haiku, width=width)) for width in (16, 32, 48)}


def apply_haiku(params, tokens, factor=1.0):
    width = params["~"]["embed"].shape[1]
    return HAIKU[width].apply(params, None, tokens, factor=factor)


def make_haiku(width, key):
    return HAIKU[width].init(key, TOKENS)


def plain(params, tokens, factor=1.0):
    return head(params["embed"][tokens], params["embed"], factor)


def make_plain(width, key):
    return {"embed": jax.random.normal(key, (7, width))}


TREES = {
    "plain": (make_plain, plain),
    "Equinox": (InEquinox, lambda model, *args, **kwargs: model(*args, **kwargs)),
    "Equinox, a vmap": (
        InEquinox,
        lambda model, *args: jax.vmap(lambda x: model(x, *args[1:]))(args[0]),
    ),
    "Haiku": (make_haiku, apply_haiku),
}


@pytest.mark.parametrize(("make_model", "apply"), cases(TREES))
def test_trees_of_every_framework(make_model, apply):
    specs = infer(make_model, apply)
    model = make_model(48, key=jax.random.key(0))
    got = jaxmup.corrected(apply, specs)(model, TOKENS)
    require_close(got, apply(model, TOKENS, 1 / 3), "corrected", "float64")


def test_an_nnx_module_is_left_as_a_plain_call_leaves_it():
    specs = infer(InNnx)
    assert [one.factor for one in corrections(specs)] == [1 / 3]
    function = jaxmup.corrected(InNnx.__call__, specs)
    model, twin = (InNnx(48, rngs=nnx.Rngs(0)) for _ in range(2))
    for _ in range(2):
        got, expected = function(model, TOKENS, train=True), twin(TOKENS, train=True, factor=1 / 3)
        require_close(got, expected, "corrected", "float64")
    state, other = (leaves_by_path(nnx.state(each)) for each in (model, twin))
    assert state.keys() == other.keys()
    assert [name for name in state if not jnp.array_equal(state[name], other[name])] == []
    assert int(model.calls[...]) == 2


def test_an_nnx_module_under_its_own_transforms():
    function = jaxmup.corrected(InNnx.__call__, infer(InNnx))
    model, twin = (InNnx(48, rngs=nnx.Rngs(0)) for _ in range(2))

    def gradients(function, model):
        return nnx.jit(nnx.grad(lambda m: jnp.sum(function(m, TOKENS) ** 2)))(model)

    expected = gradients(lambda m, x: m(x, factor=1 / 3), twin)
    require_close(gradients(function, model), expected, "corrected", "float64")
    assert int(model.calls[...]) == 1


def test_a_linen_module_by_its_variables_and_bound():
    specs = infer(InLinen)
    module = InLinen(48)
    variables = module.init(jax.random.key(0), TOKENS)
    how = {"mutable": ["counts"], "rngs": {"dropout": jax.random.key(1)}}
    expected = module.apply(variables, TOKENS, train=True, factor=1 / 3, **how)
    got = jaxmup.corrected(module.apply, specs)(variables, TOKENS, train=True, **how)
    require_close(got, expected, "corrected", "float64")
    bound = nn.apply(jaxmup.corrected(InLinen.__call__, specs), module, mutable=["counts"])
    rngs = {"rngs": {"dropout": jax.random.key(1)}}
    require_close(bound(variables, TOKENS, train=True, **rngs), expected, "corrected", "float64")


# ---- transforms


def rolled(params, tokens, factor=1.0, remat=False):
    """A scan over layers whose logits nothing can carry."""

    def layer(x, w):
        q = rms(x @ w)
        logits = q @ x.swapaxes(-1, -2) / x.shape[-1] ** 0.5 * factor
        return rms(x + jax.nn.softmax(logits) @ x), None

    layer = jax.checkpoint(layer) if remat else layer
    x = rms(params["embed"][tokens])
    x, _ = jax.lax.scan(layer, x, params["w"])
    return x @ params["out"]


def make_rolled(width, key):
    shapes = {"embed": (7, width), "w": (3, width, width), "out": (width, 5)}
    return {
        name: jax.random.normal(jax.random.fold_in(key, i), shape)
        for i, (name, shape) in enumerate(shapes.items())
    }


@pytest.mark.parametrize("remat", [False, True], ids=["scan", "scan of checkpoints"])
def test_inside_of_loops(remat):
    apply = functools.partial(rolled, remat=remat)
    specs = infer(make_rolled, apply)
    # √n is left of n terms that are divided by √n: times (n0/n)^½.
    assert [one.factor for one in corrections(specs)] == [pytest.approx(3**-0.5, rel=1e-14)]
    params = make_rolled(48, jax.random.key(0))
    function = jaxmup.corrected(apply, specs)
    require_same(function, functools.partial(apply, factor=3**-0.5), params, TOKENS)
    program = str(jax.make_jaxpr(function)(params, TOKENS))
    assert program.count("scan[") == 1
    assert ("remat" in program or "checkpoint" in program) == remat


def test_of_other_batches_dtypes_and_lengths_than_it_was_read_with():
    specs = infer(make_plain, plain, jax.ShapeDtypeStruct((2, 3), "int32"))
    function = jaxmup.corrected(plain, specs)
    table, tokens = make_plain(48, jax.random.key(0))["embed"], jnp.zeros((5, 1, 9), jnp.int8)
    for dtype in ("float32", "bfloat16"):
        params = {"embed": table.astype(dtype)}
        got = function(params, tokens)
        assert (got.shape, got.dtype) == ((5, 1, 9, 7), dtype)
        assert jnp.allclose(got * 3, plain(params, tokens), rtol=1e-2)


def test_per_example_gradients_and_a_vmap_of_models():
    specs = infer(make_plain, plain)
    function = jaxmup.corrected(plain, specs)
    params = jax.vmap(lambda key: make_plain(48, key))(jax.random.split(jax.random.key(0), 2))

    def each(function):
        gradient = jax.grad(lambda p, x: function(p, x).sum())
        return jax.vmap(jax.vmap(gradient, (None, 0)), (0, None))(params, TOKENS)

    require_close(
        each(function), each(functools.partial(plain, factor=1 / 3)), "corrected", "float64"
    )


def test_a_loss_that_calls_the_model_twice_is_corrected_twice():
    function = jaxmup.corrected(
        lambda p, x: plain(p, x) + plain(p, x[::-1]), infer(make_plain, plain)
    )
    params = make_plain(48, jax.random.key(0))
    expected = (plain(params, TOKENS) + plain(params, TOKENS[::-1])) / 3
    require_close(function(params, TOKENS), expected, "corrected", "float64")


def test_it_is_traced_once_under_jit():
    traced = []

    def counted(params, tokens):
        traced.append(tokens.shape)
        return plain(params, tokens)

    specs = infer(make_plain, counted)
    function = jax.jit(jaxmup.corrected(counted, specs))
    traced.clear()
    params = make_plain(48, jax.random.key(0))
    for tokens in (TOKENS, TOKENS + 1, TOKENS[:1]):
        function(params, tokens)
    assert traced == [(2, 4), (1, 4)]


def test_at_base_width_it_is_the_plain_function():
    specs = infer(make_plain, plain, sizes={**SIZES, "target": 16})
    assert [one.factor for one in corrections(specs)] == [1.0]
    assert jaxmup.corrected(plain, specs) is plain


# ---- values that are alike


def twins(params, tokens, factor=1.0):
    """Two products of one line and one tensor, of which the first is as it should be."""
    table = params["embed"]
    x = rms(jnp.tanh(table[tokens]))
    one, other = (x @ table.T * scale for scale in (1 / x.shape[-1], factor))
    return one, other


def test_alike_values_are_told_apart_by_their_order():
    specs = infer(make_plain, twins)
    (one,) = corrections(specs)
    assert (one.site.number, one.site.which) == (2, (1,))
    params = make_plain(48, jax.random.key(0))
    got = jaxmup.corrected(twins, specs)(params, TOKENS)
    require_close(got, twins(params, TOKENS, 1 / 3), "corrected", "float64")
    once = jaxmup.corrected(lambda p, x: (twins(p, x), twins(p, x)), specs)
    with pytest.raises(ValueError, match="does not come by"):
        once(params, TOKENS)


def product(x, table):
    return x @ table.T


def callers(params, tokens, factor=1.0):
    """One line of a helper, called where it is right and where it is not."""
    table = params["embed"]
    x = rms(jnp.tanh(table[tokens]))
    one = product(x, table) / x.shape[-1]
    return one, product(x, table) * factor


def test_alike_values_are_told_apart_by_their_callers():
    specs = infer(make_plain, callers)
    (one,) = corrections(specs)
    assert len(one.site.lines) == 2
    params = make_plain(48, jax.random.key(0))
    got = jaxmup.corrected(callers, specs)(params, TOKENS)
    require_close(got, callers(params, TOKENS, 1 / 3), "corrected", "float64")


# ---- refusals


def test_a_call_that_does_not_come_by_is_an_error_with_the_line():
    specs = infer(make_plain, plain)
    params = make_plain(48, jax.random.key(0))
    with pytest.raises(
        ValueError, match=r"(?s)does not come by.*`dot_general` at test_corrected.py"
    ):
        jaxmup.corrected(lambda p, x: p["embed"][x], specs)(params, TOKENS)
    with pytest.raises(ValueError, match=r"embed: \(7, 48\) in the specs, \(7, 32\) in the model"):
        jaxmup.corrected(plain, specs)(make_plain(32, jax.random.key(0)), TOKENS)
    with pytest.raises(TypeError, match="`apply` must be a function"):
        jaxmup.corrected(None, specs)
    with pytest.raises(TypeError, match="ParamSpec"):
        jaxmup.corrected(plain, {"embed": 1})


class Counting(InNnx):
    def __init__(self, width, rngs):
        super().__init__(width, rngs)
        self.number = 0

    def __call__(self, tokens):
        self.number += 1
        return super().__call__(tokens)


def test_an_attribute_that_would_be_lost_is_an_error():
    function = jaxmup.corrected(Counting.__call__, infer(Counting))
    with pytest.raises(ValueError, match=r"(?s)may change its variables.*number"):
        function(Counting(48, rngs=nnx.Rngs(0)), TOKENS)


@jax.custom_vjp
def own(x, table):
    return x @ table.T


own.defvjp(lambda x, table: (own(x, table), (x, table)), lambda res, g: (g @ res[1], g.T @ res[0]))


def test_a_function_with_derivatives_of_its_own_is_multiplied_behind_it():
    def apply(params, tokens, factor=1.0):
        x = rms(jnp.tanh(params["embed"][tokens]))
        return own(x, params["embed"]).reshape(-1) * factor

    tokens = TOKENS[0]
    specs = infer(make_plain, apply, tokens)
    params = make_plain(48, jax.random.key(0))
    require_same(
        jaxmup.corrected(apply, specs), functools.partial(apply, factor=1 / 3), params, tokens
    )


def test_specs_with_corrections_are_pickled_and_written(tmp_path):
    specs = infer(make_plain, plain)
    assert pickle.loads(pickle.dumps(specs)) == specs
    rule = jaxmup.parametrization("mup", "adam", gauge="table3")
    jaxmup.manifest.write(tmp_path / "manifest.json", specs, rule)
    assert jaxmup.manifest.read(tmp_path / "manifest.json").specs == specs
    without = jax.tree.map(lambda s: dataclasses.replace(s, corrections=()), specs)
    with pytest.raises(ValueError, match="embed, corrections"):
        jaxmup.manifest.check(tmp_path / "manifest.json", without, rule)


# ---- the tools


def make_checked(width, key):
    one, other = jax.random.split(key)
    return {
        "embed": jax.random.normal(one, (32, width)),
        "hidden": jax.random.normal(other, (width, width)) / width**0.5,
    }


def checked(params, tokens):
    x = jnp.tanh(params["embed"][tokens])
    return rms(x + jnp.tanh(x @ params["hidden"])) @ params["embed"].T


def test_the_coordinate_check_passes_with_the_corrections_and_fails_without(monkeypatch):
    tokens = np.arange(32, dtype=np.int32)
    model = jaxmup.Model(make_checked, apply=checked, corrected=True)
    widths, adam = (64, 128, 256), lambda scalings: jaxmup.optim.adam(2**-6, scalings)
    with jax.enable_x64(False):
        check = functools.partial(coord_check, model, widths, (tokens, tokens[::-1]), adam, seeds=8)
        assert check().outcome == "pass"
        monkeypatch.setattr("jaxmup._infer._parametrized.corrected", lambda apply, _: apply)
        assert check().outcome == "fail"
