"""The figures of a transfer measurement and of a memory report."""

import math
import sys

import pytest

from jaxmup import fused, plots, transfer

RATES = (0.25, 0.5, 1.0, 2.0)
LOSSES = {
    ("standard", 8): [4.0, 2.0, 1.0, 3.0],
    ("standard", 16): [2.0, 1.0, 2.0, None],
    ("mup", 8): [4.0, 2.0, 1.0, 2.0],
    ("mup", 16): [3.0, 2.0, 1.0, 2.0],
}


def result(losses=LOSSES):
    trials = tuple(
        transfer.Trial(name, width, rate, 0, loss)
        for (name, width), row in losses.items()
        for rate, loss in zip(RATES, row, strict=True)
    )
    config = transfer.Config(widths=(8, 16), learning_rates=RATES, seeds=(0,))
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


def test_minima_are_marked_where_the_analysis_has_them(figure):
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    # Parabolas by hand: through (-1, 2), (0, 1), (1, 3) and (-2, 2), (-1, 1), (0, 2).
    assert [dot.get_xdata()[0] for dot in dots] == pytest.approx([-1 / 6, -1.0])
    assert [dot.get_ydata()[0] for dot in dots] == [1.0, 1.0]


def test_the_title_says_what_was_found(figure):
    assert figure.get_suptitle() == (
        "From width 8 to 16 the best learning rate moves by "
        "-0.8 octaves (standard) and +0.0 octaves (muP)"
    )


def test_a_minimum_at_an_edge_is_hollow_and_explained():
    figure = plots.transfer_figure(result(LOSSES | {("standard", 16): [1.0, 2.0, 3.0, 4.0]}))
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [dot.get_markerfacecolor() for dot in dots][1] == "white"
    assert "edge" in figure.get_supxlabel()


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
