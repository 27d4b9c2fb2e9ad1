"""Figures of what the tools measure; matplotlib without its global state."""

from jaxmup.plots._coord_check import coord_check_figure as coord_check_figure
from jaxmup.plots._style import png as png
from jaxmup.plots._transfer import transfer_figure as transfer_figure
