"""Figures of what the tools measure; matplotlib without its global state."""

from jaxmup.plots._coord_check import coord_check_figure as coord_check_figure
from jaxmup.plots._curves import curves_figure as curves_figure
from jaxmup.plots._empirical import empirical_figure as empirical_figure
from jaxmup.plots._memory import memory_figure as memory_figure
from jaxmup.plots._optima import optima_figure as optima_figure
from jaxmup.plots._style import new_figure as new_figure
from jaxmup.plots._style import png as png
from jaxmup.plots._svg import svg as svg
from jaxmup.plots._transfer import transfer_figure as transfer_figure
