"""Figures of what the tools measure; matplotlib without its global state."""

from jaxmup.plots._empirical import empirical_figure as empirical_figure
from jaxmup.plots._style import png as png
from jaxmup.plots._transfer import transfer_figure as transfer_figure
