"""The figures of a transfer measurement and of a memory report."""

import dataclasses
import itertools
import math
import re
import sys
from unittest import mock

import pytest

from jaxmup import fused, plots, transfer
from jaxmup.coord_check import CoordCheck
from jaxmup.plots._labels import Label, label_ends
from jaxmup.plots._style import new_figure

RATES = (0.25, 0.5, 1.0, 2.0)
LOSSES = {
    ("standard", 8): [4.0, 2.0, 1.0, 3.0],
    ("standard", 16): [2.0, 1.0, 2.0, None],
    ("mup", 8): [4.0, 2.0, 1.0, 2.0],
    ("mup", 16): [3.0, 2.0, 1.0, 2.0],
}


def result(losses=LOSSES, seeds=(0,)):
    """Seeds after the first differ by a tenth at the last learning rate but one."""
    trials = tuple(
        transfer.Trial(name, width, rate, seed, loss and loss + 0.1 * seed * (rate == 1.0))
        for (name, width), row in losses.items()
        for seed in seeds
        for rate, loss in zip(RATES, row, strict=True)
    )
    config = transfer.Config(widths=(8, 16), learning_rates=RATES, seeds=seeds)
    analyses = (
        transfer.analyze(t for t in trials if t.parametrization == name)
        for name in config.parametrizations
    )
    return transfer.Result(config, trials, tuple(analyses))


@pytest.fixture(scope="module")
def figure():
    return plots.transfer_figure(result())


def test_a_panel_per_parametrization_with_one_loss_axis(figure):
    assert [axis.get_title(loc="left")[:5] for axis in figure.axes] == ["stand", "muP: "]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert figure.axes[0].get_yscale() == "log"


def test_a_line_per_width_against_log2_of_the_learning_rate(figure):
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(lines["16"].get_xdata()) == [-2, -1, 0, 1]
    assert list(lines["8"].get_ydata()) == [4.0, 2.0, 1.0, 3.0]
    assert math.isnan(lines["16"].get_ydata()[-1])
    assert lines["8"].get_color() != lines["16"].get_color()


def test_depth_and_batch_are_named_of_models_that_take_them(figure):
    def caption(figure):
        return figure.texts[-1].get_text().partition(", mean")[0]

    own = dataclasses.replace(result().config, model="package.module:make_model")
    assert caption(figure) == "Adam, depth 3, batch 128"
    assert caption(plots.transfer_figure(dataclasses.replace(result(), config=own))) == "Adam"


def test_minima_are_marked_where_the_analysis_has_them(figure):
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    # Through (-1, 2), (0, 1), (1, 3): 1 + x/2 + 3x²/2. Through (-2, 2), (-1, 1), (0, 2): symmetric.
    assert [dot.get_xdata()[0] for dot in dots] == pytest.approx([-1 / 6, -1.0])
    assert [dot.get_ydata()[0] for dot in dots] == pytest.approx([1 - 1 / 24, 1.0])


def test_the_title_says_what_was_found(figure):
    assert figure.get_suptitle() == (
        "From width 8 to 16 the best learning rate moves by "
        "−0.8 octaves (standard) and +0.0 octaves (muP)"
    )


def test_a_minimum_at_an_edge_is_hollow_and_explained():
    figure = plots.transfer_figure(result(LOSSES | {("standard", 16): [1.0, 2.0, 3.0, 4.0]}))
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [dot.get_markerfacecolor() for dot in dots][1] == "white"
    assert "edge" in figure.get_supxlabel()


def test_the_line_through_the_optima_has_the_slope_of_the_analysis():
    # Optima by hand: -1/6 and -1 under the standard parametrization, 0 and 0 under muP.
    axis = plots.optima_figure(result()).axes[0]
    lines = {line.get_label()[:8]: line for line in axis.lines if len(line.get_xdata()) > 1}
    assert list(lines["standard"].get_ydata()) == pytest.approx([-1 / 6, -1.0])
    assert list(lines["muP: β ="].get_ydata()) == pytest.approx([0.0, 0.0])
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ["standard: β = −0.83", "muP: β = +0.00"]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["8", "16"]


def test_intervals_and_band_are_those_of_the_analysis():
    found = result(seeds=(0, 1))
    (standard, _), axis = found.analyses, plots.optima_figure(found).axes[0]
    bars = [line for line in axis.lines if line.get_linewidth() == 4]
    ends = [tuple(bar.get_ydata()) for bar in bars[:2]]
    assert ends == [(c.interval.low, c.interval.high) for c in standard.curves]
    band = axis.collections[0].get_paths()[0].vertices
    slope = standard.drift_per_doubling_interval
    middle = sum(c.optimum for c in standard.curves) / 2
    assert band[:, 1].min() == pytest.approx(middle + slope.low / 2)  # half a doubling away


def test_training_curves_are_those_at_the_transferred_rate():
    found = result(seeds=(0, 1))
    trials = tuple(
        dataclasses.replace(
            t, curve=(3.0 + t.seed, t.learning_rate, None if t.width == 16 else 1.0)
        )
        for t in found.trials
    )
    axis = plots.curves_figure(dataclasses.replace(found, trials=trials)).axes[0]
    narrow, wide = axis.lines
    assert list(narrow.get_ydata()) == [3.5, 1.0, 1.0]  # mean of 3 and 4; 1.0 is the best rate
    assert list(wide.get_ydata()[:2]) == [3.5, 1.0]
    assert math.isnan(wide.get_ydata()[2])
    assert list(narrow.get_xdata()) == pytest.approx([100 / 3, 200 / 3, 100])


def test_svg_is_the_same_every_time_and_takes_its_colors_from_the_page(figure):
    drawn = [plots.svg(figure, "loss", 'a "label"', {"#1f2328": "var(--ink)"}) for _ in "ab"]
    assert drawn[0] == drawn[1]
    assert drawn[0].startswith('<svg viewBox="0 0')
    assert "#1f2328" not in drawn[0]
    assert "var(--ink)" in drawn[0]
    ids = re.findall(r'id="([^"]*)"', drawn[0])
    assert ids
    assert all(i.startswith("loss-") for i in ids)


def test_divergence_everywhere_still_gives_a_figure():
    nothing = dict.fromkeys(LOSSES, [None] * 4)
    figure = plots.transfer_figure(result(nothing))
    assert figure.get_suptitle() == "Every learning rate diverged"
    assert plots.png(figure)


def test_png_and_no_global_state(figure):
    assert plots.png(figure, dots_per_inch=40).startswith(b"\x89PNG")
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )


@pytest.mark.parametrize(("dots", "error"), [(0, ValueError), (None, TypeError)])
def test_a_picture_of_no_dots_is_refused(figure, dots, error):
    with pytest.raises(error, match="`dots_per_inch` must be"):
        plots.png(figure, dots)


def test_a_coordinate_check_figure_of_what_was_not_measured_is_refused():
    nothing = mock.create_autospec(CoordCheck, instance=True, verdicts=())
    with pytest.raises(ValueError, match="`quantities` must hold one that was measured"):
        plots.coord_check_figure(nothing, ["decay"])


def test_a_bar_for_each_form_adds_up_to_its_peak():
    gib = 2**30
    plain = fused.Memory(2 * gib, 4 * gib, 3 * gib, 2 * gib, 6 * gib, 12 * gib)
    ours = fused.Memory(2 * gib, 4 * gib, 3 * gib, gib, 2 * gib, 8 * gib)
    figure = plots.memory_figure(fused.MemoryReport({"plain": plain, "fused": ours}))
    (axis,) = figure.axes
    widths = {bar.get_label(): [p.get_width() for p in bar] for bar in axis.containers}
    assert widths["parameters"] == [2, 2]
    assert widths["gradients"] == [2, 1]
    assert widths["activations"] == [3, 1]  # of three GiB, one is left beside the gradients
    assert widths["other temporaries"] == [1, 0]
    assert [text.get_text() for text in axis.texts] == ["12.0", "8.0"]
    assert axis.get_xlabel() == "peak of a step (GiB)"


@pytest.mark.parametrize("count", [3, 40])
def test_labels_at_the_ends_of_lines_do_not_overlap(count):
    figure = new_figure(3, 2.5)
    axis = figure.subplots()
    axis.set_yscale("log", base=2)
    axis.set_ylim(0.5, 2)
    labels = [Label(f"module {i}", 1.0, 1 + i / 1000, "red") for i in range(count)]
    label_ends(axis, labels, height=1.6)
    figure.draw_without_rendering()
    boxes = sorted((text.get_window_extent() for text in axis.texts), key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 for low, high in itertools.pairwise(boxes))
    inside = axis.get_window_extent()
    assert inside.y0 <= boxes[0].y0
    assert boxes[-1].y1 <= inside.y1
    hidden = count - len(boxes) + 1
    assert axis.texts[-1].get_text() == (f"... and {hidden} more" if hidden > 1 else "module 2")
