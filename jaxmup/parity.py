"""A self-check against PyTorch: jaxmup beside a plain torch model under `torch.optim`.

`jaxmup parity` runs it where jaxmup is installed, to see that it trains right on this machine and
with these versions. It is no part of training, and what it needs of torch it loads when it runs.

The torch side knows nothing of gauges or multipliers: an ordinary `torch.nn.Sequential`, one
parameter group for each parameter, and the learning rates of one published table, typed out below.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array, lax

from jaxmup import _check, _extras, optim
from jaxmup._families import FamilyName
from jaxmup._parametrization import GaugeName, Parametrization, parametrization
from jaxmup._tree import OptState, Params, leaves_by_path, map_named, resolve
from jaxmup.models import MLP
from jaxmup.nnx import specs

if TYPE_CHECKING:
    import torch

DtypeName = Literal["float64", "float32"]
Tensors = dict[str, np.ndarray]

IN_FEATURES, OUT_FEATURES, WIDTH, BASE_WIDTH, BATCH = 8, 4, 32, 8, 16
SGD_LR, ADAM_LR, MOMENTUM, BETAS, EPS, DECAY = 0.02, 0.01, 0.9, (0.9, 0.99), 1e-3, 0.1

# What a hundred steps may differ by. float64 proves the formulas; in float32 both sides round.
LARGEST: dict[DtypeName, float] = {"float64": 1e-11, "float32": 1e-3}

_SIZES = (IN_FEATURES, WIDTH, WIDTH, OUT_FEATURES)
_LAYERS = ("hidden/0", "hidden/1", "readout")


class Comparison(NamedTuple):
    """One run on both sides.

    Args:
      case: Optimizer and gauge.
      dtype: Type of parameters, data and computation.
      steps: Number of optimizer steps.
      difference: Largest difference of losses and effective weights after any step, relative to the
        largest entry of their tensor.
      largest: Largest difference that passes.

    Example:
      >>> Comparison("Adam, table8", "float64", steps=100, difference=4e-16, largest=1e-11).passed
      True
    """

    case: str
    dtype: DtypeName
    steps: int
    difference: float
    largest: float

    @property
    def passed(self) -> bool:
        """True if the difference is small enough; NaN is not."""
        return self.difference <= self.largest


class _Factors(NamedTuple):
    """Factors on the hyper-parameters of a parameter, relative to the base model."""

    sgd_lr: float = 1.0
    adam_lr: float = 1.0
    eps: float = 1.0


# Yang et al., "Tensor Programs V", arXiv:2203.03466, Table 3, at r times the base width. The table
# has no eps; it is of the size of the gradient, 1 / r where the output of a parameter grows.
_R = WIDTH / BASE_WIDTH
_TABLE_3 = {
    "hidden/0/kernel": _Factors(sgd_lr=_R, eps=1 / _R),
    "hidden/0/bias": _Factors(sgd_lr=_R, eps=1 / _R),
    "hidden/1/kernel": _Factors(adam_lr=1 / _R, eps=1 / _R),
    "hidden/1/bias": _Factors(sgd_lr=_R, eps=1 / _R),
    "readout/kernel": _Factors(sgd_lr=1 / _R, adam_lr=1 / _R),
    "readout/bias": _Factors(),
}


class _Peers(NamedTuple):
    """An optimizer of jaxmup and of `torch.optim`."""

    family: FamilyName
    make: Callable[..., optax.GradientTransformation]
    ours: dict[str, Any]  # its arguments
    peer: Literal["SGD", "Adam", "AdamW"]
    theirs: dict[str, Any]  # its arguments


def _sgd(**arguments: Any) -> _Peers:
    return _Peers("sgd", optim.sgd, arguments, "SGD", arguments)


def _adam(
    peer: Literal["Adam", "AdamW"] = "Adam", *, amsgrad: bool = False, **decay: Any
) -> _Peers:
    make, (b1, b2) = optim.amsgrad if amsgrad else optim.adam, BETAS
    ours = {"b1": b1, "b2": b2, "eps": EPS, **decay}
    return _Peers("adam", make, ours, peer, {"betas": BETAS, "amsgrad": amsgrad})


_OPTIMIZERS = {
    "SGD": _sgd(),
    "momentum": _sgd(momentum=MOMENTUM),
    "Nesterov": _sgd(momentum=MOMENTUM, nesterov=True),
    "Adam": _adam(),
    "AdamW": _adam("AdamW", weight_decay=DECAY),
    "Adam + L2": _adam(weight_decay=DECAY, weight_decay_mode="coupled"),
    "AMSGrad": _adam(amsgrad=True),
    "AMSGrad, decoupled decay": _adam("AdamW", amsgrad=True, weight_decay=DECAY),
}

_CASES: list[tuple[str, GaugeName, DtypeName]] = [
    ("SGD", "table8", "float64"),
    ("momentum", "table9", "float64"),
    ("Nesterov", "table3", "float64"),
    ("Adam", "table8", "float64"),
    ("Adam", "table3", "float64"),
    ("Adam", "table9", "float64"),
    ("Adam", "tp4b", "float64"),
    ("AdamW", "table8", "float64"),
    ("Adam + L2", "tp4b", "float64"),
    ("AMSGrad", "table8", "float64"),
    ("AMSGrad, decoupled decay", "table9", "float64"),
    ("SGD", "table8", "float32"),
    ("AdamW", "table8", "float32"),
    ("AMSGrad", "table8", "float32"),
]


def compare(steps: int = 100) -> Iterator[Comparison]:
    """Trains an MLP with jaxmup and with torch, from the same weights, in each case.

    Args:
      steps: Number of optimizer steps of each run.

    Returns:
      An iterator that yields a comparison when its two runs have ended.

    Raises:
      ModuleNotFoundError: if torch is not installed; the message says how to install it.
      TypeError: if `steps` is no integer.
      ValueError: if it is not positive.

    Example:
      >>> comparison = next(compare(steps=2))  # doctest: +SKIP
      >>> comparison.case, comparison.passed  # doctest: +SKIP
      ('SGD, table8', True)
    """
    _check.size("steps", steps)
    _extras.require("torch", "The comparison with PyTorch", "torch")
    return (_compare(*case, steps) for case in _CASES)


def _compare(name: str, gauge: GaugeName, dtype: DtypeName, steps: int) -> Comparison:
    peers = _OPTIMIZERS[name]
    with jax.enable_x64(dtype == "float64"):
        ours = _jax_run(peers, gauge, dtype, steps)
    with _one_thread():
        theirs = _torch_run(peers, dtype, steps)
    difference = max(_relative(ours[tensor], theirs[tensor]) for tensor in theirs)
    return Comparison(f"{name}, {gauge}", dtype, steps, difference, LARGEST[dtype])


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Holds torch to one thread: for tensors this small, more only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _relative(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest over steps, the first axis, of difference / largest entry expected."""
    rest = tuple(range(1, expected.ndim))
    return float((np.abs(actual - expected).max(rest) / np.abs(expected).max(rest)).max())


def _weights() -> Tensors:
    """Effective weights, of numpy's making, in jaxmup's layout."""
    rng = np.random.default_rng(0)
    shapes = {
        f"{layer}/{leaf}": shape
        for layer, (n, m) in zip(_LAYERS, itertools.pairwise(_SIZES), strict=True)
        for leaf, shape in (("kernel", (n, m)), ("bias", (m,)))
    }
    return {name: rng.standard_normal(s) / np.sqrt(s[0]) for name, s in shapes.items()}


def _data(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """A batch a step: inputs `(steps, batch, in)` and targets `(steps, batch, out)`."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((steps, BATCH, IN_FEATURES))
    return x, np.sin(x[..., :OUT_FEATURES]) + rng.standard_normal((steps, BATCH, OUT_FEATURES))


def _model(chosen: Parametrization) -> MLP:
    return MLP(
        IN_FEATURES,
        OUT_FEATURES,
        width=WIDTH,
        depth=2,
        base_width=BASE_WIDTH,
        parametrization=chosen,
        rngs=nnx.Rngs(0),
    )


def _jax_run(peers: _Peers, gauge: GaugeName, dtype: DtypeName, steps: int) -> Tensors:
    """Losses and effective weights of every step."""
    chosen = parametrization("mup", peers.family, gauge=gauge)
    abstract = nnx.eval_shape(lambda: _model(chosen))
    graph, shapes = nnx.split(abstract)
    scalings = resolve(specs(abstract), chosen)
    multipliers = {name: scaling.multiplier for name, scaling in leaves_by_path(scalings).items()}
    params = map_named(lambda _, w, m: jnp.asarray(w / m, dtype), shapes, _weights(), multipliers)
    lr = SGD_LR if peers.family == "sgd" else ADAM_LR
    tx = peers.make(lr, scalings, **peers.ours)

    def loss_fn(params: Params, x: Array, y: Array) -> Array:
        return jnp.mean(jnp.square(nnx.merge(graph, params)(x) - y))

    def step(
        carry: tuple[Params, OptState], batch: tuple[Array, Array]
    ) -> tuple[tuple[Params, OptState], tuple[Array, Params]]:
        params, state = carry
        value, grads = jax.value_and_grad(loss_fn)(params, *batch)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (value, params)

    @jax.jit
    def train(params: Params, data: tuple[Array, Array]) -> tuple[Array, Params]:
        return lax.scan(step, (params, tx.init(params)), data)[1]

    x, y = _data(steps)
    losses, history = train(params, (jnp.asarray(x, dtype), jnp.asarray(y, dtype)))
    effective = {name: multipliers[name] * w for name, w in leaves_by_path(history).items()}
    return {name: np.asarray(array) for name, array in (effective | {"loss": losses}).items()}


def _torch_run(peers: _Peers, dtype: DtypeName, steps: int) -> Tensors:
    """Losses and weights of every step, in jaxmup's layout."""
    import torch

    torch_dtype = {"float64": torch.float64, "float32": torch.float32}[dtype]
    linear = [torch.nn.Linear(n, m) for n, m in itertools.pairwise(_SIZES)]
    relu = torch.nn.ReLU()
    network = torch.nn.Sequential(linear[0], relu, linear[1], relu, linear[2]).to(torch_dtype)
    parameters: dict[str, torch.Tensor] = {
        f"{layer}/{leaf}": parameter
        for layer, module in zip(_LAYERS, linear, strict=True)
        for leaf, parameter in (("kernel", module.weight), ("bias", module.bias))
    }
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(_weights()[name].T))
    make = getattr(torch.optim, peers.peer)
    stepper = make(_groups(peers, parameters), **peers.theirs)
    history = []
    for x, y in zip(*_data(steps), strict=True):
        outputs = network(torch.from_numpy(x).to(torch_dtype))
        loss = (outputs - torch.from_numpy(y).to(torch_dtype)).square().mean()
        stepper.zero_grad()
        loss.backward()
        stepper.step()
        seen = {name: p.detach().numpy().T.copy() for name, p in parameters.items()}
        history.append(seen | {"loss": loss.detach().numpy()})
    return {name: np.stack([seen[name] for seen in history]) for name in history[0]}


def _groups(peers: _Peers, parameters: Mapping[str, "torch.Tensor"]) -> list[dict[str, Any]]:
    """A group for each parameter, by Table 3."""
    if peers.family == "sgd":
        return [{"params": [p], "lr": SGD_LR * _TABLE_3[n].sgd_lr} for n, p in parameters.items()]
    return [
        {
            "params": [p],
            "lr": ADAM_LR * factors.adam_lr,
            "eps": EPS * factors.eps,
            "weight_decay": _coefficient(peers, factors),
        }
        for name, p in parameters.items()
        for factors in [_TABLE_3[name]]
    ]


def _coefficient(peers: _Peers, factors: _Factors) -> float:
    """Weight decay at a width, in torch's meaning.

    Decoupled decay takes lr times its coefficient off, which is to be the same at every width. L2
    is added to the gradient, and keeps its ratio to that if it grows as eps does.
    """
    if "weight_decay" not in peers.ours:
        return 0.0
    return DECAY / factors.adam_lr * (1.0 if peers.peer == "AdamW" else factors.eps)
