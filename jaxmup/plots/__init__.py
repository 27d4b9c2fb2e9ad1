"""Figures of what the tools measure; matplotlib without its global state.

Each function takes the result of a tool and returns a `matplotlib.figure.Figure`, which belongs to
no window. `png` and `svg` make files of one::

    figure = plots.transfer_figure(transfer.read_record("transfer.json"))
    Path("transfer.png").write_bytes(plots.png(figure))

They need matplotlib: `pip install 'jaxmup[cli]'`.
"""

from jaxmup.plots._coord_check import coord_check_figure as coord_check_figure
from jaxmup.plots._curves import curves_figure as curves_figure
from jaxmup.plots._empirical import empirical_figure as empirical_figure
from jaxmup.plots._memory import memory_figure as memory_figure
from jaxmup.plots._optima import optima_figure as optima_figure
from jaxmup.plots._style import new_figure as new_figure
from jaxmup.plots._style import png as png
from jaxmup.plots._svg import svg as svg
from jaxmup.plots._transfer import transfer_figure as transfer_figure
