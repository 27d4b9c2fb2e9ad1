"""The stricter verdict of transfer, in made-up worlds whose answers are known."""

import math

import numpy as np
import pytest

from jaxmup.transfer import Trial, quality

WIDTHS, OCTAVES, SEEDS = (8, 16, 32, 64), range(-4, 5), (0, 1, 2)
BEND = 0.1


def world(loss, widths=WIDTHS, seeds=SEEDS, noise=0.0, draw=0):
    """Trials of `loss(width, log2 of the learning rate)`, with noise of each run."""
    random = np.random.default_rng(draw)
    return [
        Trial(
            "mup", n, 2.0**x, s, None if (y := loss(n, x)) is None else y + noise * random.normal()
        )
        for n in widths
        for x in OCTAVES
        for s in seeds
    ]


def stays(n, x):
    """The best value is 1 at every width; wider is better; the limit is 1."""
    return 1 + 8 / n + BEND * x**2


def moves_once(n, x):
    """The best value is an octave higher at all widths but the smallest."""
    return 1 + 8 / n + BEND * (x - (n > 8)) ** 2


def test_half_an_octave_costs_a_quarter_of_the_bend():
    # By hand: 0.1 / 4 over the best losses 2, 1.5, 1.25 and 1.125.
    found = quality(world(stays)).robustness
    costs = [100 * 0.025 / best for best in (2, 1.5, 1.25, 1.125)]
    assert [one.below for one in found] == pytest.approx(costs)
    assert [one.above for one in found] == pytest.approx(costs)


def test_what_is_beyond_the_grid_or_diverges_has_no_cost():
    def cliff(n, x):
        return None if x > 0 else 1 + BEND * x**2

    (first, *_) = quality(world(cliff)).robustness
    # No parabola at an edge: halfway between the losses 1 and 1.1 of the two neighbors.
    assert first.below == pytest.approx(5.0)
    assert first.above is None


def test_the_limit_of_a_power_law():
    limit = quality(world(stays)).limit
    assert (limit.tuned, limit.reused, limit.power) == pytest.approx((1.0, 1.0, 1.0))
    assert limit.penalty == pytest.approx(0.0, abs=1e-9)


def test_the_penalty_at_infinite_width():
    # By hand: the reused losses lie above the tuned ones by 0, 0.1, 0.1, 0.1 at 1/8, 1/16, 1/32 and
    # 1/64. The line through these has the value 0.13043 at 0.
    limit = quality(world(moves_once)).limit
    assert limit.penalty == pytest.approx(13.043, abs=1e-3)
    assert limit.penalty_interval.low == pytest.approx(limit.penalty)


@pytest.mark.parametrize(
    ("trials", "why"),
    [
        (world(stays, widths=(8, 16, 32)), "takes 4 widths, there are 3"),
        (world(lambda n, x: 2 + math.log(n) + BEND * x**2), "no power law that settles"),
        (world(lambda n, x: None if n == 64 else stays(n, x)), "diverged"),
    ],
)
def test_a_limit_that_cannot_be_told(trials, why):
    found = quality(trials)
    assert found.limit is None
    assert why in found.why_no_limit
    assert why in str(found)


def test_tuning_at_equal_compute():
    # By hand, with a cost of width²: 9 runs of width 8 and one of 64 cost 1.14 of the latter, 9 of
    # width 32 and one 3.25. The median of one of the losses 0, .1, .1, .4, .4, .9, .9, 1.6, 1.6
    # above the best is 0.4. Of the best of three it is 0.1: it is the best of all with 28 of 84,
    # at most the second with 49.
    eight, _, thirty_two = quality(world(stays)).tuning
    assert (eight.runs, thirty_two.runs) == (1, 3)
    assert (eight.small, eight.large) == pytest.approx((1.125, 1.525))
    assert (thirty_two.small, thirty_two.large) == pytest.approx((1.125, 1.225))
    assert {eight.pays, thirty_two.pays} == {"yes"}
    # Where all widths cost the same, the grid of the largest is affordable, and as good.
    equal = quality(world(stays), cost=lambda width: 1.0).tuning[0]
    assert (equal.runs, equal.large) == (9, pytest.approx(1.125))
    assert equal.pays == "undecided"


def test_tuning_small_does_not_pay_where_the_best_value_runs_away():
    found = quality(world(lambda n, x: 1 + BEND * (x - 3 * math.log2(n / 32)) ** 2, (16, 32)))
    assert found.tuning_small_pays == "no"
    diverges = quality(world(lambda n, x: None if n == 64 and x == 0 else stays(n, x)))
    assert diverges.tuning_small_pays == "no"


@pytest.mark.parametrize(
    ("loss", "seeds", "noise", "answer"),
    [
        (stays, SEEDS, 0.001, "yes"),
        (lambda n, x: 1 + n / 64 + BEND * x**2, SEEDS, 0.001, "no"),
        (lambda n, x: stays(min(n, 32), x) + (n == 64) * 0.1, SEEDS, 0.001, "no"),
        (lambda n, x: 1 + BEND * x**2, SEEDS, 0.01, "undecided"),
        (stays, (0,), 0.0, "undecided"),
        (lambda n, x: None if n == 64 and x == 0 else stays(n, x), SEEDS, 0.001, "no"),
    ],
)
def test_wider_is_better(loss, seeds, noise, answer):
    assert quality(world(loss, seeds=seeds, noise=noise)).wider_is_better == answer


def test_equal_widths_are_told_apart_by_chance_in_one_of_twenty():
    """All pairs together: 100 worlds without a difference, of which 5 are expected."""

    def flat(n, x):
        return 1 + BEND * x**2

    found = [quality(world(flat, noise=0.01, draw=i)).wider for i in range(100)]
    assert sum(any(one.better != "undecided" for one in each) for each in found) <= 11


def test_worse_in_the_middle_of_the_run_is_no():
    def curve(n, seed):
        return tuple(
            2 - i / 10 + 0.001 * seed + (0.3 if n == 64 and i < 5 else 0) for i in range(10)
        )

    trials = [
        Trial(
            t.parametrization, t.width, t.learning_rate, t.seed, t.loss, (), curve(t.width, t.seed)
        )
        for t in world(stays, noise=0.001)
    ]
    found = quality(trials)
    assert {one.better for one in found.wider} == {"yes"}
    assert found.wider_is_better == "no"


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="`cost` must be"):
        quality(world(stays), cost=2.0)
    with pytest.raises(ValueError, match=r"`cost` must be .* Got 0"):
        quality(world(stays), cost=lambda width: 0.0)
    trials = [Trial("mup", n, 0.1, 0, 1.0 + b, (("b2", b),)) for n in (8, 16) for b in (0.9, 0.99)]
    with pytest.raises(ValueError, match="linear scale"):
        quality(trials, "b2")
