"""Rules on an optimizer chain, by what it does to gradients and weights of chosen sizes."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from jaxmup._families import FAMILIES, Family
from jaxmup._lint._finding import Finding
from jaxmup._lint._probe import Probe
from jaxmup._power import ONE
from jaxmup._scaling import Scaling

# Sizes of the gradients that are tried, in the unit of the base model's.
_LARGE = (1e6, 1e3, 1.0, 1e-3)  # an eps is negligible beside some, a clip does nothing to others
_SMALL = (1e-3, 1e-6, 1e-9)  # an eps is not
_USUAL = 1e-3
_TOLERANCE = 0.03  # wrong factors are powers of width ratios, right ones agree to rounding


@dataclasses.dataclass(frozen=True)
class Chain:
    """A probed chain and what a parametrization asks of it, as arrays over the parameters.

    Args:
      probe: the transform.
      scalings: those of `probe.paths`, in order.
      family: the family that all of them are for.
    """

    probe: Probe
    scalings: tuple[Scaling, ...]
    family: Family

    def of(self, field: str) -> np.ndarray:
        """A field of the scaling of each parameter."""
        return np.array([getattr(scaling, field) for scaling in self.scalings])

    @property
    def paths(self) -> np.ndarray:
        """Path of each parameter."""
        return np.array(self.probe.paths, object)

    @property
    def gradients(self) -> np.ndarray:
        """Gradients that the optimizer sees as equals beside its eps, before any factor."""
        return self.of("eps") / self.of("grad")

    @property
    def weights(self) -> np.ndarray:
        """Weights of equal size; small, so that weight decay is not seen beside a step."""
        return np.full(len(self.scalings), 0.01 if self.family.weight_degree else 0.0)


def check_chain(chain: Chain) -> Iterator[Finding]:
    """All rules on a chain.

    A chain that takes the steps of another family is only told that.
    """
    other = list(_family(chain))
    if other:
        yield from other
        return
    yield from _steps(chain)
    if not chain.family.weight_degree:
        yield from _weight_decay(chain)
    yield from _global_clip(chain)


def can_be_probed(family: Family | None) -> bool:
    """Whether steps on tiny parameters say anything about those on large ones."""
    return family is not None and family.unit == ONE and family.gradient_degree in (0, 1)


def family_named(name: str) -> Family | None:
    """The family of this name; `None` for one of the user's own."""
    return FAMILIES.get(name)


def _same(x: np.ndarray) -> bool:
    """Whether all numbers are one, within the tolerance."""
    return x.size == 0 or bool(np.all(np.abs(x - np.median(x)) <= _TOLERANCE * abs(np.median(x))))


def _family(chain: Chain) -> Iterator[Finding]:
    """By how much the step grows with gradient and weight."""

    def growth(sizes: tuple[float, float], weights: tuple[float, float]) -> float:
        """By how much steps grow from one size of gradient or weight to the other."""
        steps = []
        for size, weight in zip(sizes, weights, strict=True):
            gradients, of_weight = size * chain.gradients, np.full(len(chain.scalings), weight)
            ahead, back = (chain.probe.run([(g, of_weight)])[0] for g in (gradients, -gradients))
            steps.append(np.abs(ahead - back))  # without what decay takes off
        moved = _moving(steps[0]) & _moving(steps[1])
        return float(np.median(steps[1][moved] / steps[0][moved])) if moved.any() else 1.0

    weight = chain.weights[0]
    small, large = (growth(pair, (weight, weight)) for pair in ((1e-6, 1e-3), (1e-3, 1.0)))
    # An eps makes the step follow the gradient where it is small, a clip keeps it from doing so
    # where it is large: one decade of three has to be beyond doubt.
    follows_gradient = small > 500 and large > 500
    ignores_gradient = small < 2 and large < 2
    heavier = growth((1.0, 1.0), (0.01, 0.02))
    degrees = {
        "gradient": (chain.family.gradient_degree, follows_gradient, ignores_gradient),
        "weight": (chain.family.weight_degree, heavier > 1.9, heavier < 1.1),
    }
    for what, (degree, follows, ignores) in degrees.items():
        if (degree == 0 and follows) or (degree == 1 and ignores):
            does, asked = ("grows", "does not") if follows else ("does not grow", "does")
            yield Finding(
                "family-mismatch",
                f"The step {does} in proportion to the {what}; in the family "
                f"{chain.family.name!r}, which the scalings are for, it {asked}.",
                (),
                "Learning rates, eps and decay of one family are wrong for another.",
                "Resolve the specs with `jaxmup.parametrization(name, family)` for the optimizer "
                "that is used.",
            )


def _steps(chain: Chain) -> Iterator[Finding]:
    """Sizes of steps, over what they should be, for gradients from large to small."""
    relative = {size: _relative_steps(chain, size) for size in (*_LARGE, *_SMALL)}
    agree = {size: all(_same(row[_moving(row)]) for row in r) for size, r in relative.items()}
    if not any(agree[size] for size in _LARGE):
        yield from _learning_rates(chain, relative[_USUAL][0])
        return
    best = next(size for size in reversed(_LARGE) if agree[size])
    for rule, sizes, texts in (
        ("eps", [size for size in _SMALL if size < best], _EPS),
        ("entry-clip", [size for size in _LARGE if size > best], _ENTRY_CLIP),
    ):
        wrong = [size for size in sizes if not agree[size]]
        if wrong:
            at = relative[wrong[-1] if rule == "eps" else wrong[0]][0]
            moving = _moving(at)
            spread = np.max(at[moving]) / np.min(at[moving])
            what, why, mend = texts
            yield Finding(rule, what.format(spread), (), why, mend)


_EPS = (
    "A constant beside the gradient, such as eps, is one for all parameters: where gradients are "
    "small, steps differ by a factor of up to {:.3g} from what they should be.",
    "Gradients shrink with the width at different rates, so the eps that is negligible in the "
    "small model stops some layers of the large one.",
    "Use the chains of `jaxmup.optim`, which scale eps by `Scaling.eps`, or a stock optimizer "
    "between `scale_gradients` and `scale_updates` in the gauge 'tp4b', where one eps is right.",
)
_ENTRY_CLIP = (
    "A clip of single gradients is one for all parameters: where gradients are large, steps differ "
    "by a factor of up to {:.3g} from what they should be.",
    "Gradients shrink with the width at different rates, so the clip acts on other layers in the "
    "large model than in the small one.",
    "Clip between `scale_gradients` and the optimizer in the gauge 'tp4b', or by global norm with "
    "`jaxmup.optim.clip_by_global_norm(max_norm, scalings)`.",
)


def _relative_steps(chain: Chain, size: float) -> np.ndarray:
    """Steps of two periods, over `Scaling.lr` and the gradient where the family follows it."""
    gradients = size * chain.gradients
    expected = chain.of("lr")
    if chain.family.gradient_degree:
        expected = expected * gradients * chain.of("grad")
    period = (gradients, chain.weights)
    return -chain.probe.run([period, period]) / expected


def _moving(x: np.ndarray) -> np.ndarray:
    """Which parameters take a step at all: what is frozen is no mistake."""
    return np.isfinite(x) & (x != 0)


def _learning_rates(chain: Chain, relative: np.ndarray) -> Iterator[Finding]:
    """Which learning rates are not those of the scalings, and how so."""
    moving = _moving(relative)
    lr, relative, paths = chain.of("lr")[moving], relative[moving], chain.paths[moving]
    factor = " Each must be multiplied by its `Scaling.lr` once, after the optimizer."
    scaled = tuple(paths[lr != 1])
    why = "Rates that are not scaled with the width do not transfer: some layers learn too fast."
    for power, what, mend in (
        (
            0,
            "The learning rate is the same for all parameters: the factors of the scalings are "
            "missing, or something after them undoes them.",
            "Use the chains of `jaxmup.optim`, or put `jaxmup.optim.scale_updates(scalings)` after "
            "the optimizer, with nothing behind it that normalizes updates.",
        ),
        (
            2,
            "The factors of the scalings act twice on the learning rates.",
            "Leave out one of them: the chains of `jaxmup.optim` include `scale_updates`.",
        ),
    ):
        if _same(relative * lr / lr**power):
            yield Finding("learning-rate", f"{what}{factor}", scaled, why, mend)
            return
    usual = _most_common(relative)
    for path, ratio in zip(paths, relative / usual, strict=True):
        if abs(ratio - 1) > _TOLERANCE:
            yield Finding(
                "learning-rate",
                f"Its learning rate is {ratio:.3g} times what the scalings ask for, relative to "
                "the other parameters.",
                (path,),
                why,
                "Look for a transform that sets or scales the updates of these parameters. To give "
                "them another rate on purpose, use `lr_scale` of the layer.",
            )


def _most_common(x: np.ndarray) -> float:
    """The number that most others are equal to."""
    votes = [np.count_nonzero(np.abs(x - one) <= _TOLERANCE * np.abs(one)) for one in x]
    return float(x[int(np.argmax(votes))])


def _weight_decay(chain: Chain) -> Iterator[Finding]:
    """What is taken off weights when there is no gradient."""
    shrink, doubled = (_shrinkage(chain, weight) for weight in (1.0, 2.0))
    decays = np.isfinite(shrink) & (shrink != 0)
    if not decays.any():
        return
    if np.median(doubled[decays] / shrink[decays]) < 1.5:
        yield from _coupled_decay(chain)  # normalized as the gradient that it was added to
        return
    shrink, paths = shrink[decays], chain.paths[decays]
    if np.any(shrink < 0):
        yield Finding(
            "weight-decay",
            "Weights grow where there is no gradient.",
            tuple(paths[shrink < 0]),
            "The learning rate turns the sign of what comes before it; decay was added after it.",
            "Use the `weight_decay` of `jaxmup.optim.adamw`, with weight_decay_mode='absolute' for "
            "a decay that follows no learning rate.",
        )
        return
    lr = chain.of("lr")[decays]
    allowed = (np.ones_like(lr), lr * chain.of("weight_decay")[decays])
    if any(_same(shrink / each) for each in allowed):
        return
    usual = _most_common(shrink / allowed[1])
    for path, ratio in zip(paths, shrink / allowed[1] / usual, strict=True):
        if abs(ratio - 1) > _TOLERANCE:
            yield Finding(
                "weight-decay",
                f"A step takes {ratio:.3g} times the share off its weights that it takes off the "
                "others'.",
                (path,),
                "Weight decay transfers if it takes the same share per step at every width; inside "
                "the learning-rate factor, that of hidden layers fades away.",
                "Use `weight_decay` of `jaxmup.optim.adamw`, or put `optax.add_decayed_weights` "
                "after `scale_updates` and before the learning rate.",
            )


def _shrinkage(chain: Chain, weight: float) -> np.ndarray:
    """What the first update takes off weights of this size."""
    weights = np.full(len(chain.scalings), weight)
    shrink = -chain.probe.run([(0 * weights, weights)])[0]
    if np.isfinite(shrink).all():
        return shrink
    # Without eps an optimizer divides zero by zero: take a gradient, and what weights add to it.
    with_gradient = [
        chain.probe.run([(_USUAL * chain.gradients, factor * weights)])[0] for factor in (1, 0)
    ]
    return with_gradient[1] - with_gradient[0]


def _coupled_decay(chain: Chain) -> Iterator[Finding]:
    """Decay that was added to the gradient: does it keep its ratio to it?"""
    lr, no_weights = chain.of("lr"), np.zeros(len(chain.scalings))
    weights = 1 / chain.of("weight_decay")
    for size in (1e-1, 1e-3, 1e-5):
        gradients = size * chain.gradients
        step = chain.probe.run([(gradients, no_weights), (gradients, weights)])[1] / lr
        if not _same(step[_moving(step)]):
            yield Finding(
                "weight-decay",
                "Weight decay is added to the gradient before the optimizer, with one coefficient "
                "for all parameters.",
                (),
                "Gradients shrink with the width and weights do not alike, so that L2 takes over "
                "in some layers; an optimizer that normalizes gradients normalizes it too.",
                "Use decoupled decay, `weight_decay` of `jaxmup.optim.adamw`, or its "
                "weight_decay_mode='coupled', which scales the coefficient.",
            )
            return


def _global_clip(chain: Chain) -> Iterator[Finding]:
    """From which size on the gradient of one parameter changes the updates of others."""
    thresholds = {
        chain.paths[i]: _threshold(chain, i) for i in _one_of_each_scaling(chain.scalings)
    }
    coupled = {path: size for path, size in thresholds.items() if size is not None}
    if len(coupled) < 2 or _same(np.array(list(coupled.values()))):
        return
    first, last = (pick(coupled, key=coupled.__getitem__) for pick in (min, max))
    yield Finding(
        "global-clip",
        "Gradients are clipped by a norm over all parameters that changes with the width: relative "
        f"to the base model, {first} weighs {coupled[last] / coupled[first]:.3g} times as much in "
        f"it as {last}.",
        (),
        "The threshold that clips now and then in the small model clips always or never in the "
        "large one.",
        "Use `jaxmup.optim.clip_by_global_norm(max_norm, scalings)`, first in the chain.",
    )


def _one_of_each_scaling(scalings: tuple[Scaling, ...]) -> list[int]:
    first: dict[tuple[float, ...], int] = {}
    for i, scaling in enumerate(scalings):
        first.setdefault((scaling.norm, scaling.grad, scaling.eps), i)
    return list(first.values())


def _threshold(chain: Chain, position: int) -> float | None:
    """The size of one gradient that changes the others' updates, in Table 9's gauge."""
    gradients = 1e-6 * chain.gradients
    others = np.arange(len(gradients)) != position
    quiet = (gradients, chain.weights)
    undisturbed = chain.probe.run([quiet, (-gradients, chain.weights)])[1]
    moving = others & _moving(undisturbed)

    def changes(exponent: float) -> bool:
        loud = np.where(others, -gradients, 10**exponent / chain.of("norm")[position])
        updates = chain.probe.run([quiet, (loud, chain.weights)])[1]
        # `not <=`, so that NaN is a change
        return not np.all(np.abs(updates[moving] / undisturbed[moving] - 1) <= 0.01)

    low, high = -6.0, 6.0
    if not moving.any() or not changes(high):
        return None
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (low, middle) if changes(middle) else (middle, high)
    return 10**high
