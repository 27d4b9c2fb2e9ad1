"""Transfer of any model, on any data, over any hyper-parameter."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from helpers import require_close

import jaxmup
from jaxmup import transfer
from jaxmup._model import Model, Parts
from jaxmup.transfer import _network, _search, _task, _train
from jaxmup.transfer._models import classification, images, language_model
from jaxmup.transfer._search import Cell
from jaxmup.transfer._store import Store

CONFIG = transfer.Config(
    widths=(8, 16),
    learning_rates=(0.05,),
    seeds=(0,),
    steps=3,
    batch_size=4,
    parametrizations=("mup",),
    model="test",
)
RUN = ("adam", "float32")


def batch(seed: int, step: int, batch_size: int = 4):
    generator = np.random.default_rng((seed, step))
    inputs = generator.standard_normal((batch_size, 5)).astype(np.float32)
    return inputs, generator.integers(0, 3, batch_size)


EVALUATION = batch(99, 0, 12)


def plain_nnx(width: int, rngs: nnx.Rngs, gain: float = 1.0):
    hidden = nnx.Linear(5, width, rngs=rngs)
    square = nnx.Linear(width, width, rngs=rngs)
    readout = nnx.Linear(width, 3, rngs=rngs)
    return nnx.Sequential(hidden, lambda x: gain * nnx.relu(x), square, nnx.relu, readout)


def plain_linen(width: int):
    return linen.Sequential([linen.Dense(width), linen.relu, linen.Dense(width), linen.Dense(3)])


def layers_linen(width: int, parametrization, base_width: int):
    base = {"parametrization": parametrization}
    first = jaxmup.linen.Dense(width, base_features=base_width, **base)
    last = jaxmup.linen.Dense(3, base_in_features=base_width, **base)
    return linen.Sequential([first, linen.relu, last])


def layers_nnx(width: int, parametrization, base_width: int, rngs: nnx.Rngs, gain: float = 1.0):
    base = {"parametrization": parametrization, "rngs": rngs}
    first = jaxmup.nnx.Linear(5, width, base_out_features=base_width, **base)
    sizes = {"base_in_features": base_width, "base_out_features": base_width}
    square = jaxmup.nnx.Linear(width, width, **sizes, **base)
    last = jaxmup.nnx.Linear(width, 3, base_in_features=base_width, **base)
    return nnx.Sequential(first, lambda x: gain * nnx.relu(x), square, last)


def with_noise(width: int, rngs: nnx.Rngs):
    """State that is no parameter: running means, and a random stream."""
    norm = nnx.BatchNorm(width, rngs=rngs)
    dropout = nnx.Dropout(0.5, rngs=rngs)
    return nnx.Sequential(
        nnx.Linear(5, width, rngs=rngs), norm, dropout, nnx.Linear(width, 3, rngs=rngs)
    )


def as_tree(width: int, key):
    return {
        "w": jax.random.normal(key, (5, width)),
        "v": jax.random.normal(key, (width, 3)) / width**0.5,
    }


def tree_loss(params, batch):
    inputs, labels = batch
    return transfer.cross_entropy(
        lambda x: jnp.tanh(x @ params["w"]) @ params["v"], (inputs, labels)
    )


def task(make_model=plain_nnx, batches=batch, evaluation=EVALUATION, **kwargs) -> transfer.Task:
    return transfer.Task(make_model, batches, evaluation, **kwargs)


def train(task: transfer.Task, config=CONFIG, width: int = 16, setting=()) -> list[transfer.Trial]:
    return _train.train(task, config, [Cell("mup", width, setting)], Store())


# --- Models


def test_a_plain_model_is_trained_as_by_infer_and_rescale():
    rule = jaxmup.parametrization("mup", "adam", gauge="table3")
    specs = jaxmup.infer(plain_nnx, base=8, delta=16, target=16, inputs=EVALUATION[0])
    key = jax.random.key(0, impl="rbg")
    model = jaxmup.rescale(plain_nnx, specs, rule, base=8, target=16, key=key)
    rates = jnp.array([1 / 2, 2 / 3, 1 / 3]) * 0.05  # two steps of warmup
    tx = jaxmup.optim.adam(lambda step: rates[step], jaxmup.resolve(specs, rule))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, batch):
        value, gradients = nnx.value_and_grad(transfer.cross_entropy)(model, batch)
        optimizer.update(model, gradients)
        return value

    losses = [step(model, optimizer, batch(0, i)) for i in range(3)]
    [trial] = train(task(), dataclasses.replace(CONFIG, warmup=2))
    require_close(np.array(trial.curve), np.array(losses), *RUN)
    require_close(np.array(trial.loss), transfer.cross_entropy(model, EVALUATION), *RUN)


@pytest.mark.parametrize(
    ("make_model", "extra"),
    [
        (plain_linen, {}),
        (layers_linen, {}),
        (with_noise, {}),
        (as_tree, {"loss_fn": tree_loss}),
    ],
)
def test_every_kind_of_model_learns(make_model, extra):
    config = dataclasses.replace(CONFIG, steps=12)
    same = batch(0, 0)
    [trial] = train(task(make_model, lambda step: same, same, **extra), config)
    assert len(trial.curve) == 12
    assert min(trial.curve[6:]) < 0.9 * trial.curve[0]


def test_state_that_is_no_parameter_goes_on_from_step_to_step():
    network = _network.network(task(with_noise), CONFIG, Cell("mup", 16))
    params, rest = network.draw(jax.random.key(0))
    model, left = network.instance.bind(Parts(params, rest))
    model(EVALUATION[0])
    before, after = (
        jax.tree.leaves(nnx.to_pure_dict(rest)),
        jax.tree.leaves(nnx.to_pure_dict(left())),
    )
    assert len(before) == len(after) > 2
    assert any(np.any(x != y) for x, y in zip(before, after, strict=True))


def test_the_models_that_have_a_name():
    tokens = np.arange(60, dtype=np.uint8)
    text = language_model(jaxmup.data.Text("numbers", tokens, tokens[:20]), context=8, sequences=2)
    digits = jaxmup.data.digits()
    cases = {
        # Embedding and readout of 256 tokens, 3 norms; 4 kernels of 8 x 8 and 3 of 8 x 16.
        "gpt": (text, 2 * 256 * 8 + 3 * 8 + 4 * 64 + 3 * 128, (3, 4, 8)),
        # A convolution of 3 x 3 to 8 features with its bias and norm, and the readout.
        "cnn": (images(digits), 9 * 8 + 8 + 16 + 8 * 10 + 10, (3, 4, 8, 8, 1)),
        "mlp": (classification(digits), 64 * 8 + 8 + 8 * 10 + 10, (3, 4, 64)),
    }
    for name, (of, size, shape) in cases.items():
        config = dataclasses.replace(CONFIG, model=name, depth=1)
        assert _network.network(of, config, Cell("mup", 8)).num_parameters == size
        batches = _task.run_batches(of.batches, 0, 3, {"batch_size": 4})
        assert batches[0].shape == shape
        assert batches[1].shape == (shape if name == "gpt" else shape[:2])


# --- Other hyper-parameters


def test_numbers_share_a_program_and_arrive():
    config = dataclasses.replace(
        CONFIG, sweep={"b2": (0.9, 0.999), "weight_decay": (0.0, 0.5), "hidden_std": (1.0, 4.0)}
    )
    settings = _search.settings(config)
    assert len(settings) == 8
    cells = [Cell("mup", 16, setting) for setting in settings]
    assert len({_train.program_of(config, cell) for cell in cells}) == 1
    trials = _train.train(task(layers_nnx), config, cells, Store())
    assert [t.others for t in trials] == settings
    assert len({t.loss for t in trials}) == 8
    assert len({t.curve[0] for t in trials}) == 2  # the initial values alone decide the first loss
    plain = {t.others: t for t in trials}[("b2", 0.999), ("hidden_std", 1.0), ("weight_decay", 0.0)]
    [expected] = train(task(layers_nnx))
    require_close(np.array(plain.curve), np.array(expected.curve), *RUN)


def test_a_parameter_of_the_factory_and_sizes_are_swept():
    sizes = []

    def batches(seed: int, step: int, batch_size: int):
        sizes.append(batch_size)
        return batch(seed, step, batch_size)

    config = dataclasses.replace(
        CONFIG, sweep={"gain": (1.0, 2.0), "steps": (1, 2), "batch_size": (3, 4)}
    )
    cells = [Cell("mup", 16, s) for s in _search.settings(config)[::7]]
    trials = _train.train(task(layers_nnx, batches), config, cells, Store())
    assert [len(t.curve) for t in trials] == [dict(t.others)["steps"] for t in trials]
    assert set(sizes) == {3, 4}
    assert len({t.curve[0] for t in trials}) == len(trials)


def test_a_random_search_draws_from_the_grid():
    config = dataclasses.replace(CONFIG, sweep={"b1": (0.5, 0.9), "b2": (0.9, 0.95, 0.99)})
    grid = _search.settings(config)
    drawn = _search.settings(dataclasses.replace(config, search="random", samples=4))
    assert len(drawn) == len(set(drawn)) == 4
    assert set(drawn) < set(grid)
    assert drawn == sorted(drawn, key=grid.index)


def test_halving_trains_the_better_half_twice_as_long_and_the_best_at_every_width():
    config = dataclasses.replace(
        CONFIG, steps=20, sweep={"b2": (0.1, 0.2, 0.3, 0.4, 0.5)}, search="halving"
    )
    seen = []

    def pretend(cells):
        seen.append([(c.width, dict(c.setting).get("steps"), dict(c.setting)["b2"]) for c in cells])
        return [
            transfer.Trial("mup", c.width, 0.05, 0, abs(dict(c.setting)["b2"] - 0.31), c.setting)
            for c in cells
        ]

    trials = _search.search(config, pretend)
    assert seen == [
        [(8, 2, 0.1), (8, 2, 0.2), (8, 2, 0.3), (8, 2, 0.4), (8, 2, 0.5)],
        [(8, 5, 0.2), (8, 5, 0.3), (8, 5, 0.4)],
        [(8, 10, 0.3), (8, 10, 0.4)],
        [(8, None, 0.3), (16, None, 0.3)],
    ]
    assert len(trials) == 12


def test_halving_prefers_any_loss_to_a_diverged_one():
    trials = [transfer.Trial("mup", 8, rate, 0, loss) for rate, loss in ((0.1, None), (0.2, 3.0))]
    assert _search.best_loss(trials, 8) == 3.0
    assert _search.best_loss(trials[:1], 8) == math.inf


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sweep": {"learning_rate": (1.0,)}}, "Use `learning_rates`"),
        ({"sweep": {"b2": ()}}, "must hold at least 1 value"),
        ({"sweep": {"b2": (0.9, 0.9)}}, "must not repeat a value"),
        ({"sweep": {"b2": (1.0,)}}, "number of at least 0 and below 1. Got 1.0"),
        ({"sweep": {"eps": (-1e-8,)}}, "a finite number of at least 0. Got -1e-08"),
        ({"sweep": {"output_std": (0.0,)}}, "a finite number above 0. Got 0.0"),
        ({"sweep": {"depth": (0,)}}, "an integer of at least 1. Got 0"),
        ({"sweep": {"gain": (math.nan,)}}, "a finite number. Got nan"),
        ({"sweep": {"momentum": (0.9,)}}, "hyper-parameters that adam has"),
        ({"search": "halving"}, "at least 2 settings"),
        ({"search": "random", "sweep": {"b2": (0.9,)}}, "must have `samples`"),
        ({"search": "random", "sweep": {"b2": (0.9,)}, "samples": 2}, "at most the 1 settings"),
        ({"search": "bayes"}, "must be one of 'grid', 'random', 'halving'"),
        ({"model": "gpt", "data": "digits"}, "`data` must be left out"),
        ({"context": 0}, "`context` must be an integer of at least 1"),
    ],
)
def test_a_bad_search_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_another_type_in_a_sweep_is_refused():
    with pytest.raises(TypeError, match=r"`sweep\['depth'\]` must be an integer .* Got 1.5"):
        dataclasses.replace(CONFIG, sweep={"depth": (1.5,)})
    with pytest.raises(TypeError, match=r"`sweep\['gain'\]` must be a real number. Got True"):
        dataclasses.replace(CONFIG, sweep={"gain": (True,)})


@pytest.mark.parametrize("loss_fn", [None, 1.0, "cross_entropy"])
def test_a_loss_that_is_no_function_is_refused(loss_fn):
    with pytest.raises(TypeError, match="`loss_fn` must be a function of a model and a batch"):
        task(loss_fn=loss_fn)


# --- Bad input: refused before anything is trained


def raising(width: int, rngs):
    raise RuntimeError(f"no memory for {width}")


@pytest.mark.parametrize(
    ("make_model", "message"),
    [
        (lambda width, rngs: plain_nnx(8, rngs), "larger|grow|differ"),
        (raising, "`width` = 8. It raised RuntimeError: no memory for 8"),
        (lambda width: "model", "must return an NNX module, a Linen module or a tree of arrays"),
        (lambda width: None, "must return an NNX module, a Linen module or a tree of arrays"),
        (lambda width, parametrization: jaxmup.linen.Dense(8), "larger model for a larger width"),
    ],
    ids=["ignores the width", "raises", "text", "none", "layers of one width"],
)
def test_a_bad_factory_is_refused(make_model, message):
    with pytest.raises(ValueError, match=message):
        transfer.measure(CONFIG, task(make_model))


def test_a_sweep_of_a_std_that_acts_on_nothing_is_refused():
    def make_model(width: int, rngs: nnx.Rngs) -> nnx.Module:
        zeros = nnx.initializers.zeros
        hidden, readout = nnx.Linear(5, width, rngs=rngs), {"kernel_init": zeros, "rngs": rngs}
        return nnx.Sequential(hidden, nnx.relu, nnx.Linear(width, 3, **readout))

    for name in ("output_std", "hidden_std"):  # starts at zero; there is none
        config = dataclasses.replace(CONFIG, sweep={name: (1.0, 2.0)})
        with pytest.raises(ValueError, match=f"no matrix of role {name[:6]} starts away from zero"):
            transfer.measure(config, task(make_model))


def test_a_sweep_of_what_the_factory_lacks_is_refused():
    config = dataclasses.replace(CONFIG, sweep={"gian": (1.0, 2.0)})
    with pytest.raises(ValueError, match="parameters of `make_model`, which has no gian"):
        transfer.measure(config, task())


def short(seed: int):
    return (batch(seed, step) for step in range(2))


def indexed(step: int):
    return [batch(0, 0), batch(0, 1)][step]


def shrinking(seed: int, step: int):
    return batch(seed, step, 4 - step)


def broken(seed: int, step: int):
    inputs, labels = batch(seed, step)
    inputs[2, 3] = np.nan if step == 1 else 0.0
    return inputs, labels


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (short, "last for 3 steps. They ran out at step 2 of seed 0"),
        (indexed, "ran out at step 2"),
        ([batch(0, 0)], "ran out at step 1"),
        (shrinking, "That of step 1 of seed 0 has"),
        (broken, r"batch of step 1 of seed 0 holds nan at \[2, 3\]"),
    ],
)
def test_bad_data_are_refused(batches, message):
    with pytest.raises(ValueError, match=message):
        transfer.measure(CONFIG, task(batches=batches))


def test_an_evaluation_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="The evaluation holds inf"):
        transfer.measure(CONFIG, task(evaluation=(np.full((2, 5), np.inf), np.zeros(2, int))))


def test_an_iterator_gives_every_run_the_same_batches():
    stream = (batch(0, step) for step in itertools.count())
    batches = _task.replayable(stream)
    first = _task.run_batches(batches, 0, 3, {})
    again = _task.run_batches(batches, 1, 2, {})
    assert first[0].shape == (3, 4, 5)
    assert np.array_equal(first[0][:2], again[0])
    assert np.array_equal(first[1][1], batch(0, 1)[1])


def test_cross_entropy_is_that_of_optax():
    inputs, labels = EVALUATION
    expected = optax.losses.safe_softmax_cross_entropy(inputs, jax.nn.one_hot(labels, 5)).mean()
    require_close(transfer.cross_entropy(lambda x: x, (inputs, labels)), expected, *RUN)


class Noisy(linen.Module):
    """Has statistics that change, draws random numbers, and takes a flag."""

    width: int

    @linen.compact
    def __call__(self, x, train=True):
        x = linen.BatchNorm(use_running_average=not train)(linen.Dense(self.width)(x))
        x = linen.Dropout(0.1, deterministic=not train)(linen.relu(x))
        return linen.Dense(5)(x)


def test_a_linen_module_keeps_statistics_draws_noise_and_trains_in_part():
    model = Model(Noisy, wrt="*/kernel")
    network = _network.network(task(model), CONFIG, Cell("mup", 8))
    assert set(network.shapes) == {"Dense_0/kernel", "Dense_1/kernel"}
    start = network.draw(jax.random.key(0))
    bound, left = network.instance.bind(start)
    first = bound(EVALUATION[0])
    bound, _ = network.instance.bind(Parts(start.params, left()))
    assert not np.array_equal(first, bound(EVALUATION[0]))  # another key, other statistics
    [trial] = train(task(model), CONFIG)
    assert math.isfinite(trial.loss)
