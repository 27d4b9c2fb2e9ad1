"""Functions of JAX that models call: of each it is known how what it does grows."""

import functools

import jax
import jax.numpy as jnp
import pytest

import jaxmup

SIZES = [{"width": n} for n in (16, 32, 80)]
X = jax.ShapeDtypeStruct((4, 4), jnp.float32)
ELEMENTWISE = {
    "jnp": "abs absolute arccos arccosh arcsin arcsinh arctan arctanh cbrt ceil conj cos cosh "
    "deg2rad degrees exp exp2 expm1 fabs floor imag isfinite isinf isnan log log10 log1p log2 "
    "nan_to_num negative positive rad2deg radians real reciprocal rint round sign signbit sin sinc "
    "sinh sqrt square tan tanh trunc logical_not",
    "nn": "celu elu gelu glu hard_sigmoid hard_silu hard_swish hard_tanh identity leaky_relu "
    "log_sigmoid log_softmax logsumexp mish relu relu6 selu sigmoid silu soft_sign softmax "
    "softplus sparse_plus sparse_sigmoid squareplus squareplus standardize swish tanh",
    "scipy.special": "digamma entr erf erfc erfinv expit gammaln i0e i1e logit ndtr",
}
TWO = (
    "add arctan2 divide equal float_power floor_divide fmod greater greater_equal hypot less "
    "less_equal logaddexp logaddexp2 logical_and logical_or matmul maximum minimum mod multiply "
    "nextafter not_equal power remainder subtract true_divide dot inner outer tensordot vdot kron "
    "cross heaviside"
)
WHOLE = (
    "all any argmax argmin argsort average cumprod cumsum diagonal diff flip fliplr flipud "
    "linalg.norm max mean median min nanmean nansum nanmax prod ptp ravel rot90 sort std sum "
    "trace transpose tril triu var atleast_3d squeeze diag count_nonzero"
)


@jax.custom_vjp
def own_gradient(x):
    return jnp.sin(x)


own_gradient.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g,))
OTHERS = {
    "attention": lambda x: jax.nn.dot_product_attention(*[x.reshape(1, 4, 2, 2)] * 3),
    "one_hot": lambda x: jax.nn.one_hot(x.argmax(-1), 4),
    "clip": lambda x: jnp.clip(x, 0, 1),
    "where": lambda x: jnp.where(x > 0, x, 0),
    "select": lambda x: jnp.select([x > 1, x > 0], [x, -x], 0),
    "piecewise": lambda x: jnp.piecewise(x, [x > 0, x < -1], [jnp.exp, 1.0]),
    "pad": lambda x: jnp.pad(x, 1),
    "pad, reflected": lambda x: jnp.pad(x, 1, mode="reflect"),
    "take": lambda x: jnp.take(x, jnp.array([0, 2]), axis=1),
    "take_along_axis": lambda x: jnp.take_along_axis(x, x.argmax(-1, keepdims=True), 1),
    "concatenate": lambda x: jnp.concatenate([x, x]),
    "stack": lambda x: jnp.stack([x, x]),
    "split": lambda x: jnp.split(x, 2)[0],
    "tile": lambda x: jnp.tile(x, 2),
    "repeat": lambda x: jnp.repeat(x, 2, 0),
    "broadcast_to": lambda x: jnp.broadcast_to(x, (2, 4, 4)),
    "einsum": lambda x: jnp.einsum("ij,ik->jk", x, x),
    "outer sum": lambda x: x[:, None] + x[None],
    "interp": lambda x: jnp.interp(x, jnp.arange(4.0), x[0]),
    "searchsorted": lambda x: jnp.searchsorted(jnp.arange(4.0), x),
    "bincount": lambda x: jnp.bincount(x.argmax(-1), length=4),
    "histogram": lambda x: jnp.histogram(x, 4)[0],
    "meshgrid": lambda x: jnp.meshgrid(x[0], x[1])[0],
    "polyval": lambda x: jnp.polyval(x[0], x),
    "convolve": lambda x: jnp.convolve(x[0], x[1]),
    "fft": lambda x: jnp.fft.rfft(x).real,
    "percentile": lambda x: jnp.percentile(x, 30),
    "unravel_index": lambda x: jnp.unravel_index(x.argmax(), x.shape)[0],
    "top_k": lambda x: jax.lax.top_k(x, 2)[0],
    "approx_max_k": lambda x: jax.lax.approx_max_k(x, 2)[0],
    "at add": lambda x: x.at[0].add(1.0),
    "at set": lambda x: x.at[:, 1].set(0.0),
    "at multiply": lambda x: x.at[0].multiply(2.0),
    "at max": lambda x: x.at[0].max(0.0),
    "at min": lambda x: x.at[0].min(0.0),
    "at get": lambda x: x.at[7].get(mode="fill", fill_value=0),
    "dynamic_slice": lambda x: jax.lax.dynamic_slice(x, (1, 0), (2, 4)),
    "dynamic_update_slice": lambda x: jax.lax.dynamic_update_slice(x, x[:1], (1, 0)),
    "cumlogsumexp": lambda x: jax.lax.cumlogsumexp(x),
    "cummax": lambda x: jax.lax.cummax(x),
    "associative_scan": lambda x: jax.lax.associative_scan(jnp.multiply, x),
    "scan": lambda x: jax.lax.scan(lambda c, y: (c + y, c), x[0], x)[1],
    "fori_loop": lambda x: jax.lax.fori_loop(0, 3, lambda i, y: y * 0.5, x),
    "while_loop": lambda x: jax.lax.while_loop(lambda y: y.sum() > 1, lambda y: y / 2, x),
    "cond": lambda x: jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x),
    "switch": lambda x: jax.lax.switch(x.argmax(), [jnp.sin, jnp.cos], x),
    "map": lambda x: jax.lax.map(jnp.sin, x),
    "vmap": lambda x: jax.vmap(jnp.sin)(x),
    "checkpoint": lambda x: jax.checkpoint(jnp.sin)(x),
    "grad": lambda x: jax.grad(lambda y: jnp.tanh(y).sum())(x),
    "stop_gradient": jax.lax.stop_gradient,
    "rsqrt": jax.lax.rsqrt,
    "conv": lambda x: jax.lax.conv(x[None, None], x[None, None], (1, 1), "SAME"),
    "max pooling": lambda x: jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (2, 2), (2, 2), "SAME"
    ),
    "mean pooling": lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (2, 2), (2, 2), "SAME"),
    "segment_sum": lambda x: jax.ops.segment_sum(x, x.argmax(-1), 4),
    "segment_max": lambda x: jax.ops.segment_max(x, x.argmax(-1), 4),
    "segment_prod": lambda x: jax.ops.segment_prod(x, x.argmax(-1), 4),
    "resize": lambda x: jax.image.resize(x, (8, 8), "linear"),
    "dropout": lambda x: jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, x.shape), x, 0),
    "normal": lambda x: x + jax.random.normal(jax.random.key(0), x.shape),
    "gumbel": lambda x: jax.random.gumbel(jax.random.key(0), x.shape) + x,
    "categorical": lambda x: jax.random.categorical(jax.random.key(0), x),
    "permutation": lambda x: jax.random.permutation(jax.random.key(0), x),
    "cholesky": lambda x: jnp.linalg.cholesky(x @ x.T + jnp.eye(4)),
    "qr": lambda x: jnp.linalg.qr(x)[0],
    "svd": lambda x: jnp.linalg.svd(x)[1],
    "eigh": lambda x: jnp.linalg.eigh(x + x.T)[1],
    "inv": jnp.linalg.inv,
    "solve": lambda x: jnp.linalg.solve(x, x),
    "det": jnp.linalg.det,
    "slogdet": lambda x: jnp.linalg.slogdet(x)[1],
    "pinv": jnp.linalg.pinv,
    "matrix_power": lambda x: jnp.linalg.matrix_power(x, 3),
    "expm": jax.scipy.linalg.expm,
    "solve_triangular": lambda x: jax.scipy.linalg.solve_triangular(x, x),
    "ragged_dot": lambda x: jax.lax.ragged_dot(x, x[None], jnp.array([4])),
    "custom_jvp": jax.nn.relu,
    "custom_vjp": own_gradient,
    "roll": lambda x: jnp.roll(x, 1, 0),
    "swapaxes": lambda x: jnp.swapaxes(x, 0, 1),
    "xlogy": lambda x: jax.scipy.special.xlogy(x, x),
    "nan_to_num": jnp.nan_to_num,
    "reduce_precision": lambda x: x.astype(jnp.bfloat16).astype(jnp.float32),
    "bitcast": lambda x: jax.lax.bitcast_convert_type(x, jnp.int32) >> 3,
}


def calls():
    """All calls by name, as functions of a square matrix."""
    rooms = {"jnp": jnp, "nn": jax.nn, "scipy.special": jax.scipy.special}
    found = {f"{m}.{n}": getattr(rooms[m], n) for m, ns in ELEMENTWISE.items() for n in ns.split()}
    found |= {n: functools.partial(lambda f, x: f(x, x + 1), getattr(jnp, n)) for n in TWO.split()}
    found |= {n: functools.reduce(getattr, n.split("."), jnp) for n in WHOLE.split()}
    found["cross"] = lambda x: jnp.cross(x[:, :3], x[:, 1:])
    return found | OTHERS


CALLS = calls()


def test_calls_are_many():
    assert len(CALLS) > 200


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.filterwarnings("ignore")
def test_a_call_has_rows(call):
    """Of a fixed size, beside a network that grows: no size and no factor is of it."""

    def make_model(width):
        return {"in": jnp.zeros((4, width)), "out": jnp.zeros((width, 3)), "gain": jnp.zeros(())}

    def apply(params, x):
        with jax.numpy_rank_promotion("allow"):
            return jnp.tanh(x @ params["in"]) @ params["out"], call(x * params["gain"])

    base, delta, target = SIZES
    specs = jaxmup.infer(make_model, base=base, delta=delta, target=target, inputs=X, apply=apply)
    assert [specs[name].forward_gain for name in ("in", "out", "gain")] == [1, 1, 1]
