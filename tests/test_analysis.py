"""The statistics of a transfer measurement: optima, intervals, drift, penalty, verdict."""

import dataclasses
import math
import re

import numpy as np
import pytest
from helpers import TOL, cases

from jaxmup import transfer
from jaxmup.transfer import Trial, analyze
from jaxmup.transfer import _statistics as statistics
from jaxmup.transfer._findings import Interval
from jaxmup.transfer._optimum import minima

EXACT = TOL["rule", "float64"].rtol
SOLVED = TOL["least squares", "float64"].rtol
X = np.arange(-9.0, -1.0, 0.5)


def trials(table, name="mup"):
    """Trials of one seed from losses at the learning rates 2^-2, 2^-1, ..."""
    return [
        Trial(name, width, 2.0 ** (i - 2), 0, loss)
        for width, losses in table.items()
        for i, loss in enumerate(losses)
    ]


def parabolas(optima, seeds=4, noise=0.0, seed=0, scale=1.0):
    """Trials on `X` whose losses are parabolas about the optima of widths 64, 128, ..."""
    rng = np.random.default_rng(seed)
    found = []
    for i, optimum in enumerate(optima):
        for s in range(seeds):
            losses = 1 + 0.1 * (X - optimum) ** 2 + noise * rng.standard_normal(len(X))
            losses += 0.3 * rng.standard_normal()  # a lucky or an unlucky seed moves no optimum
            found += [
                Trial("mup", 64 * 2**i, 2.0**x, s, scale * float(y))
                for x, y in zip(X, losses, strict=True)
            ]
    return found


# --- The optimum


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    cases(
        {
            "symmetric": ([0, 1, 2], [1, 0, 1], 1),
            "(x + 2.25)^2": ([-3, -2, -1], [1, 0, 3], -2.25),
            "uneven spacing": ([0, 1, 4], [4, 1, 4], 2),
            "flat": ([0, 1, 2], [1, 1, 1], 0),  # the first of equals
            "one side flat": ([0, 1, 2], [0.0, 0.0, 1.0], 0),
            "two equals": ([-2, -1, 0, 1], [2, 1, 1, 2], -0.5),
            "first": ([0, 1, 2], [1, 2, 3], 0),
            "last": ([0, 1, 2], [3, 2, 1], 2),
            "diverged to the right": ([0, 1, 2, 3], [3, 1, math.inf, math.inf], 1),
            "diverged to the left": ([0, 1, 2, 3], [math.inf, 1, 2, 3], 1),
            # (x - 1/4)^2, and least squares through 5 points of |x|: 0 by symmetry
            "five points": ([-1, -0.5, 0, 0.5, 1], [1.5625, 0.5625, 0.0625, 0.0625, 0.5625], 0.25),
            "no parabola": ([-1, -0.5, 0, 0.5, 1], [1, 0.5, 0, 0.5, 1], 0),
            # A wall: the fifth point is 100 times as high as (x - 1/4)^2 and is left out.
            "wall": ([-1, -0.5, 0, 0.5, 1], [1.5625, 0.5625, 0.0625, 0.0625, 56.25], 0.25),
            "a hump": ([-1, -0.5, 0, 0.5, 1], [0.1, 5, 0, 4, 0.1], 0),  # bends the wrong way
            "far from the basin": ([-3, -1, -0.5, 0, 0.5, 1], [0.5, 1, 0.25, 0, 0.25, 1], 0),
        }
    ),
)
def test_minimum(x, y, expected):
    found = minima(np.array(x, float), np.array([y], float))
    assert found.at[0] == pytest.approx(expected, rel=SOLVED, abs=SOLVED)


def test_without_a_parabola_the_grid_leaves_half_a_step_open():
    x = np.array([0.0, 1.0, 3.0])
    losses = np.array([[2.0, 1.0, math.inf], [2.0, 1.0, 2.0], [math.inf] * 3])
    found = minima(x, losses)
    assert found.uncertainty[:2].tolist() == [1.0, 0.0]
    assert math.isnan(found.at[2])


def test_the_parabola_of_a_parabola():
    losses = (3 + 0.5 * (X + 4.2) ** 2)[None]
    # Around the best of the grid, -4: from -5 to -3.
    expected = [-4.2, 3.0, 0.5, -5.0, -3.0]
    assert minima(X, losses).parabola[0] == pytest.approx(expected, rel=SOLVED)


@pytest.mark.parametrize("factor", [1e-3, 1e4])
def test_a_linear_scale_may_have_any_unit(factor):
    losses = np.array([[1.0, 0.0, 3.0]])
    found = minima(factor * np.array([-3.0, -2.0, -1.0]), losses, reach=0.0)
    assert found.at[0] == pytest.approx(-2.25 * factor, rel=SOLVED)


def test_a_fit_to_many_points_is_steadier_than_to_three():
    rng = np.random.default_rng(0)
    losses = 0.1 * (X + 5.0) ** 2 + 0.001 * rng.standard_normal((4000, len(X)))
    wide, narrow = (np.std(minima(X, losses, reach).at) for reach in (1.0, 0.0))
    # By hand: 0.001 / (2 * 0.1 * √Σu²) with Σu² = 2.5 for five points and 0.5 for three.
    assert wide == pytest.approx(0.005 / math.sqrt(2.5), rel=0.05)
    assert narrow == pytest.approx(0.005 / math.sqrt(0.5), rel=0.05)


# --- Means and intervals


def test_all_resamples_of_three_seeds():
    counts = statistics.resamples(3)
    assert counts[0].tolist() == [1, 1, 1]
    assert counts[1:].sum(axis=1).tolist() == [3] * 27
    assert (counts[1:] == [3, 0, 0]).all(axis=1).sum() == 1
    assert (counts[1:] == [1, 1, 1]).all(axis=1).sum() == 6


def test_many_seeds_are_resampled_at_random_and_alike():
    counts = statistics.resamples(12)
    assert counts.shape == (statistics.RESAMPLES + 1, 12)
    assert np.array_equal(counts, statistics.resamples(12))
    assert counts[1:].var() == pytest.approx(11 / 12, rel=0.05)  # binomial(12, 1/12)


def test_interval_of_a_mean_is_students():
    # 1, 2, 3, 6: mean 3, standard deviation √(14/3), t(3, 0.975) = 3.182446.
    values = np.array([1.0, 2.0, 3.0, 6.0])
    terms = (statistics.resamples(4) @ values / 4)[None]
    found = statistics.interval(terms, 4)
    half = 3.182446 * math.sqrt(14 / 3) / 2
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), rel=1e-6)
    assert statistics.interval(np.array([[1.0, 1.0]]), 1) is None


def test_interval_of_a_difference_is_welchs():
    # Variances 7/6 (as above) and 4 * 7/6 times weights of 1: 35/6. Freedom 3 * 5² / (1 + 4²).
    values = np.array([1.0, 2.0, 3.0, 6.0])
    terms = np.stack([statistics.resamples(4) @ x / 4 for x in (values, 2 * values)])
    found = statistics.interval(terms, 4, uncertainty=0.5, weights=(-1.0, 1.0))
    # t(75 / 17, 0.975) between t(4) = 2.776445 and t(5) = 2.570582, linear in 1 / freedom: 2.6804
    half = 2.6804 * math.sqrt(35 / 6) + 0.5
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), rel=3e-3)


@pytest.mark.parametrize(
    ("losses", "expected"),
    cases(
        {
            "plain": ([[1, 2], [3, 5]], [1.5, 4]),
            "diverged": ([[1, 2], [3, math.inf]], [1.5, math.inf]),
            # The second point ran with the second seed alone, where it was 1 above the first.
            "a seed is missing": ([[1, 2], [math.nan, 3]], [1.5, 2.5]),
            "the first is incomplete": ([[0, math.nan], [2, 4]], [1, 3]),
            "no seed in common": ([[1, math.nan], [math.nan, 3]], [1, math.inf]),
            "all diverged": ([[math.inf, 1], [math.inf, math.nan]], [math.inf] * 2),
        }
    ),
)
def test_means(losses, expected):
    assert statistics.means(np.array(losses, float), np.ones((1, 2))).tolist() == [expected]


def test_a_seed_that_is_not_drawn_did_not_diverge():
    losses = np.array([[1.0, math.inf], [2.0, 4.0]])
    found = statistics.means(losses, np.array([[2, 0], [1, 1]]))
    assert found.tolist() == [[1.0, 2.0], [math.inf, 3.0]]


# --- Analysis


def test_by_hand():
    table = {
        256: [1.0, 0.5, 1.0, 2.0, 3.0],  # optimum -1
        64: [4.0, 3.0, 2.0, 1.0, 2.0],  # optimum 1
        128: [3.0, 2.0, 1.0, 2.0, 3.0],  # optimum 0
    }
    found = analyze(trials(table))
    assert [c.width for c in found.curves] == [64, 128, 256]
    assert [c.best for c in found.curves] == [3, 2, 1]
    assert found.drift == pytest.approx(-2.0, rel=EXACT)
    assert found.exponent == pytest.approx(-1.0, rel=EXACT)
    assert (found.transferred_loss, found.best_loss, found.penalty) == (2.0, 0.5, 300.0)
    assert (found.transfers, found.decided) == (False, False)
    assert found.verdict == (
        "mup: the best learning rate seems not to transfer, but one seed is not enough seeds to "
        "decide; it moves by -2.00 octaves from width 64 to 256 (limit ±0.5), and reusing the "
        "best of width 64 costs width 256 300.0 %: a loss of 2 instead of 0.5."
    )


def test_drift_per_doubling_is_fitted_to_all_widths():
    # Optima 0, 1, 0 over log2 widths 0, 1, 3: slope -1/14 by the normal equations.
    table = {1: [2, 1, 0, 1, 2], 2: [3, 2, 1, 0, 1], 8: [2, 1, 0, 1, 2]}
    assert analyze(trials(table)).drift_per_doubling == pytest.approx(-1 / 14, rel=SOLVED)


@pytest.mark.parametrize("beta", [-1.0, -0.37, 0.0, 0.2])
def test_a_known_exponent_is_recovered(beta):
    found = analyze(parabolas([-4.2 + beta * i for i in range(4)]))
    assert found.exponent == pytest.approx(beta, abs=1e-9)
    assert found.drift == pytest.approx(3 * beta, abs=1e-9)
    assert found.transfers is (abs(3 * beta) <= 0.5)
    # Seeds that differ by a constant alone leave nothing in doubt.
    assert found.decided
    assert found.drift_interval.high - found.drift_interval.low < 1e-6


def test_invariances():
    noisy = parabolas([-5.0, -5.3, -5.1], noise=0.02)
    found = analyze(noisy)
    moved = analyze([dataclasses.replace(t, learning_rate=8 * t.learning_rate) for t in noisy])
    scaled = analyze([dataclasses.replace(t, loss=4 * t.loss) for t in noisy])
    renamed = analyze([dataclasses.replace(t, seed=9 - t.seed) for t in reversed(noisy)])
    for other, shift in ((moved, 3), (scaled, 0), (renamed, 0)):
        for a, b in zip(found.curves, other.curves, strict=True):
            assert b.optimum == pytest.approx(a.optimum + shift, rel=SOLVED)
            assert b.interval.low == pytest.approx(a.interval.low + shift, rel=SOLVED)
        assert other.drift_interval.high == pytest.approx(found.drift_interval.high, abs=1e-9)
        assert other.penalty == pytest.approx(found.penalty, rel=1e-9, abs=1e-9)
    assert scaled.best_loss == pytest.approx(4 * found.best_loss, rel=EXACT)
    assert analyze(noisy) == found


def test_intervals_cover_the_truth():
    truth = {"interval": -5.2, "drift": -0.5, "slope": -0.25}
    hits = dict.fromkeys(truth, 0)
    runs = 100
    for seed in range(runs):
        found = analyze(parabolas([-5.2, -5.45, -5.7], noise=0.02, seed=seed))
        intervals = (found.curves[0].interval, found.drift_interval)
        intervals += (found.drift_per_doubling_interval,)
        for (name, value), i in zip(truth.items(), intervals, strict=True):
            hits[name] += i.low <= value <= i.high
    assert min(hits.values()) >= 0.9 * runs, hits
    # An interval that holds everything would cover too: it must see the drift of half an octave.
    assert found.drift_interval.high < 0


def test_an_interval_needs_a_second_seed_and_no_edge():
    alone = analyze(parabolas([-5.0, -5.3], seeds=1))
    assert alone.drift_interval is None
    assert {c.interval for c in alone.curves} == {None}
    edge = analyze(parabolas([-5.0, -1.0]))
    assert edge.edges == (128,)
    assert edge.curves[1].optimum == -1.5  # the last value tried: nothing is extrapolated
    assert (edge.drift_interval, edge.curves[1].interval) == (None, None)
    assert edge.curves[0].interval is not None


def test_a_minimum_beside_divergence_is_known_to_half_a_step():
    losses = [Trial("mup", w, 2.0**x, s, y) for w in (8, 16) for s in (0, 1)
              for x, y in ((0, 2.0), (1, 1.0), (2, None))]  # fmt: skip
    found = analyze(losses)
    assert found.curves[0].interval == Interval(0.5, 1.5)
    assert found.drift_interval == Interval(-1.0, 1.0)
    assert not found.decided


@pytest.mark.parametrize(
    ("large", "transfers", "words"),
    [
        ([2.0, 1.0, 0.9, 1.0, 2.0], True, "seems to transfer, .* it moves by +0.00"),
        ([2.0, 1.0, 0.9, 0.9, 2.0], True, "seems to transfer, .* it moves by +0.50"),
        ([3.0, 2.0, 1.0, 0.9, 1.0], False, "seems not to transfer, .* it moves by +1.00"),
        ([0.5, 1.0, 2.0, 3.0, 4.0], False, "no answer, .* at an edge of the grid at width 128"),
        ([0.9, 0.5, None, None, None], False, "makes width 128 diverge"),
        ([None] * 5, False, "no answer, since every learning rate diverged at width 128"),
    ],
)
def test_verdict(large, transfers, words):
    analysis = analyze(trials({64: [2.0, 1.0, 0.5, 1.0, 2.0], 128: large}))
    assert analysis.transfers is transfers
    assert re.search(words.replace("+", r"\+"), analysis.verdict)


@pytest.mark.parametrize(
    ("optima", "noise", "words"),
    cases(
        {
            "holds": ([-5.0, -5.1], 0.001, "best learning rate transfers; it moves by -0.10"),
            "moves": ([-5.0, -6.5], 0.001, "does not transfer; it moves by -1.50"),
            "noise": ([-5.0, -5.1], 0.1, "but 4 seeds are not enough seeds to decide"),
        }
    ),
)
def test_the_interval_decides(optima, noise, words):
    found = analyze(parabolas(optima, noise=noise))
    assert words in found.verdict
    low, high = found.drift_interval.low, found.drift_interval.high
    assert f"(95 % interval {low:+.2f} to {high:+.2f}, limit ±0.5)" in found.verdict


def test_optima_at_the_edge_of_the_grid_prove_nothing():
    analysis = analyze(trials({64: [1.0, 2.0, 3.0], 128: [1.0, 2.0, 3.0]}))
    assert analysis.drift == 0.0
    assert not analysis.transfers
    assert "at an edge of the grid at width 64, 128; widen the grid" in analysis.verdict


def test_penalty_by_hand():
    # Two seeds; at the small width's best rate (2^0) the large one loses 1.2 and 1.4 against its
    # best 1.0 and 1.0: 30 %. Resamples 20, 30, 30, 40: variance 50, standard error √(50 * 2).
    small = {0: (2.0, 1.0, 2.0), 1: (2.0, 1.0, 2.0)}
    large = {0: (1.0, 1.2, 3.0), 1: (1.0, 1.4, 3.0)}
    made = [
        Trial("mup", width, 2.0 ** (i - 1), seed, loss)
        for width, rows in ((8, small), (16, large))
        for seed, row in rows.items()
        for i, loss in enumerate(row)
    ]
    found = analyze(made)
    assert found.penalty == pytest.approx(30.0, rel=SOLVED)
    assert found.penalty_interval.high == pytest.approx(30 + 12.7062047 * 10, rel=1e-6)
    assert found.penalty_interval.low == 0.0


@pytest.mark.parametrize(
    "bad",
    [
        [],
        trials({64: [1.0, 2.0]}),
        trials({64: [1.0, 2.0], 128: [1.0]}),
        trials({64: [1.0]}) + trials({128: [1.0]}, name="standard"),
        trials({64: [1.0], 128: [1.0]}) * 2,
    ],
    ids=["none", "one width", "gap", "two parametrizations", "repeated"],
)
def test_analyze_refuses(bad):
    with pytest.raises(ValueError, match="full grid"):
        analyze(bad)


# --- Other hyper-parameters


def swept(losses, name="weight_decay"):
    """Trials over learning rates 2^i and the values of another hyper-parameter."""
    return [
        Trial("mup", width, 2.0**i, 0, loss, others=((name, value),))
        for width, rows in losses.items()
        for value, row in rows.items()
        for i, loss in enumerate(row)
    ]


def test_over_another_hyper_parameter():
    table = {
        64: {0.25: [9, 5, 9], 0.5: [9, 4, 9], 1.0: [9, 5, 9], 2.0: [9, 6, 9]},
        128: {0.25: [9, 9, 6], 0.5: [9, 9, 5], 1.0: [9, 8, 4], 2.0: [9, 9, 5]},
    }
    found = analyze(swept(table), over="weight_decay")
    assert (found.over, found.scale, found.drift) == ("weight_decay", "log2", 1.0)
    assert found.curves[0].others == (("learning_rate", 2.0),)
    assert found.curves[1].others == (("learning_rate", 4.0),)
    # The small width's best point is (decay 0.5, rate 2): loss 9 at the large one, whose best is 4.
    assert (found.transferred_loss, found.best_loss) == (9.0, 4.0)
    assert "the best weight decay seems not to transfer" in found.verdict
    # The learning rate at the best weight decay of each width: 2 inside, 4 at the edge.
    rate = analyze(swept(table))
    assert [c.optimum for c in rate.curves] == [1.0, 2.0]
    assert [c.others for c in rate.curves] == [(("weight_decay", 0.5),), (("weight_decay", 1.0),)]
    assert rate.edges == (128,)


@pytest.mark.parametrize(
    ("name", "values", "scale"),
    [
        ("b2", (0.9, 0.95, 0.99), "linear"),
        ("weight_decay", (0.0, 0.1, 0.2), "linear"),
        ("eps", (1e-10, 1e-8, 1e-6), "log2"),
    ],
)
def test_scales(name, values, scale):
    table = {w: {v: [loss] for v, loss in zip(values, (2, 1, 2), strict=True)} for w in (8, 16)}
    found = analyze(swept(table, name), over=name)
    assert found.scale == scale
    assert (found.exponent is None) is (scale == "linear")
    assert found.transfers


def test_on_a_linear_scale_the_penalty_decides():
    table = {8: {0.1: [2], 0.5: [1], 0.9: [2]}, 16: {0.1: [2], 0.5: [1.02], 0.9: [2]}}
    assert analyze(swept(table, "b1"), "b1").transfers
    worse = {0.1: [2], 0.3: [2], 0.5: [1.02], 0.7: [1.0], 0.9: [2]}
    narrow = {0.1: [2], 0.3: [2], 0.5: [1.0], 0.7: [1.5], 0.9: [2]}
    found = analyze(swept({8: narrow, 16: worse}, "b1"), "b1")
    assert not found.transfers
    assert "costs width 16 2.0 % (limit 1): a loss of 1.02 instead of 1" in found.verdict


def test_settings_and_seeds_may_be_missing():
    full = parabolas([-5.0, -5.1], noise=0.01)
    losing = [t for t in full if t.width == 64]
    losing = [dataclasses.replace(t, others=(("b2", 0.5),), loss=t.loss - 9) for t in losing]
    winning = [dataclasses.replace(t, others=(("b2", 0.9),)) for t in full]
    assert analyze(losing + winning).drift == analyze(full).drift
    # Half of the seeds at every second rate: the seeds' own levels cancel, and little is lost.
    fewer = [t for t in full if t.seed < 2 or round(2 * math.log2(t.learning_rate)) % 2]
    assert analyze(fewer).drift == pytest.approx(analyze(full).drift, abs=0.15)
    assert analyze(fewer).drift_interval is not None


def test_over_must_name_what_varies():
    with pytest.raises(ValueError, match="they vary learning_rate, weight_decay"):
        analyze(swept({8: {0.1: [1]}, 16: {0.1: [1]}}), over="b1")
    with pytest.raises(ValueError, match=r"A log2 scale needs values above 0\. Got 0"):
        analyze(swept({8: {0.0: [1]}, 16: {0.0: [1]}}), "weight_decay", scale="log2")
    with pytest.raises(ValueError, match="`scale` must be one of None, 'log2', 'linear'"):
        analyze(parabolas([-5.0, -5.0]), scale="log")


# --- Wider is better


def with_curves(excess, seeds=4, noise=0.01):
    """Two widths; the wider one's training loss is above by `excess[i]` at the i-th step."""
    rng = np.random.default_rng(0)
    made = []
    for width, above in ((64, np.zeros(len(excess))), (128, np.array(excess))):
        for t in parabolas([-5.0], seeds, seed=1):
            losses = 2.0 + t.seed + above + noise * rng.standard_normal(len(above))
            made.append(dataclasses.replace(t, width=width, curve=tuple(losses.tolist())))
    return made


@pytest.mark.parametrize(
    ("excess", "found"),
    cases(
        {
            "wider is better": ([0.0, -0.5, -0.5, -0.5], []),
            "no more than noise": ([0.005, -0.5, 0.005, -0.5], []),
            "worse once": ([0.0, -0.5, 0.5, -0.5], [(64, 128, 0.75, 0.5, True)]),
            "the worst is named": ([0.0, 0.5, 0.0, 0.9], [(64, 128, 1.0, 0.9, True)]),
            "too short": ([0.0, 0.5, *[-0.5] * 18], []),  # one of 20 steps
            "lasting": ([0.0, 0.5, 0.5, *[-0.5] * 17], [(64, 128, 0.1, 0.5, True)]),
        }
    ),
)
def test_crossings(excess, found):
    seen = analyze(with_curves(excess)).crossings
    assert [(c.narrow, c.wide, c.certain) for c in seen] == [(*row[:2], row[4]) for row in found]
    assert [c.excess for c in seen] == pytest.approx([row[3] for row in found], abs=0.03)
    if len(excess) == 4:
        assert [c.at for c in seen] == [row[2] for row in found]


def test_an_excess_that_may_be_noise_is_seen_but_not_certain():
    made = with_curves([0.0, 0.0], noise=0.0)
    # Above by 0, 0, 0 and 0.4 at the end: mean 0.1, standard error 0.1, t(3, 0.99) = 4.5407.
    odd = [
        dataclasses.replace(t, curve=(t.curve[0], t.curve[1] + 0.4))
        if (t.width, t.seed) == (128, 3)
        else t
        for t in made
    ]
    (crossing,) = analyze(odd).crossings
    assert (crossing.at, crossing.certain) == (1.0, False)
    assert crossing.excess == pytest.approx(0.1, rel=SOLVED)
    assert crossing.noise == pytest.approx(0.45407, rel=1e-5)
    assert "trains worse" not in analyze(odd).verdict
    assert "; width 128 trains worse than 64." in analyze(with_curves([0.0, 0.5])).verdict


def test_a_wider_network_that_diverges_is_worse():
    made = with_curves([-9.0, -9.0])
    worse = [dataclasses.replace(t, curve=(2.0, None)) if t.width == 128 else t for t in made]
    (crossing,) = analyze(worse).crossings
    assert (crossing.at, crossing.excess, crossing.certain) == (1.0, None, True)
    better = [dataclasses.replace(t, curve=(2.0, None)) if t.width == 64 else t for t in made]
    assert analyze(better).crossings == ()
    both = [dataclasses.replace(t, curve=(2.0, None)) for t in made]
    assert analyze(both).crossings == ()


def test_crossings_need_curves_and_two_seeds():
    assert analyze(parabolas([-5.0, -5.0])).crossings is None
    assert analyze(with_curves([0.0], seeds=1)).crossings is None


def test_training_curves_by_width_and_seed():
    made = [t for t in with_curves([0.0, 0.0], seeds=2) if t.learning_rate == 2.0**-5]
    curves = transfer.training_curves(made)
    assert {w: sorted(c) for w, c in curves.items()} == {64: [0, 1], 128: [0, 1]}
    assert curves[64][1].shape == (2,)
