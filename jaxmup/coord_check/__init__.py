"""Does everything in a model grow with its width (or depth) as muP says? Trains it, and measures.

`coord_check` trains a model of several widths and compares how every output, weight, step and
gradient grows with what muP's theory expects; `assert_coord_check` is the same as a test::

    def test_coordinates():
        assert_coord_check(make_model, (64, 128, 256, 512), (inputs, labels), make_tx)

Nothing is asked of the model but that it can be made in several widths: outputs of Flax modules are
recorded by their paths, those of a plain function where it calls `tag`.

`line_check` looks at every value of the program that JAX traces, and says at which line one first
outgrows what `jaxmup.infer` predicts.
"""

from jaxmup.coord_check._assert import assert_coord_check as assert_coord_check
from jaxmup.coord_check._assert import failure_message as failure_message
from jaxmup.coord_check._coord_check import MakeTx as MakeTx
from jaxmup.coord_check._coord_check import coord_check as coord_check
from jaxmup.coord_check._expected import Expected as Expected
from jaxmup.coord_check._line_record import read_line_record as read_line_record
from jaxmup.coord_check._line_record import write_line_record as write_line_record
from jaxmup.coord_check._lines import EXCESS as EXCESS
from jaxmup.coord_check._lines import LineCheck as LineCheck
from jaxmup.coord_check._lines import LineGrowth as LineGrowth
from jaxmup.coord_check._lines import line_check as line_check
from jaxmup.coord_check._record import read_record as read_record
from jaxmup.coord_check._record import to_lines as to_lines
from jaxmup.coord_check._record import write_record as write_record
from jaxmup.coord_check._result import Conclusion as Conclusion
from jaxmup.coord_check._result import CoordCheck as CoordCheck
from jaxmup.coord_check._slopes import Slope as Slope
from jaxmup.coord_check._sums import QUANTITIES as QUANTITIES
from jaxmup.coord_check._sums import Quantity as Quantity
from jaxmup.coord_check._tags import tag as tag
from jaxmup.coord_check._verdict import TOLERANCE as TOLERANCE
from jaxmup.coord_check._verdict import Outcome as Outcome
from jaxmup.coord_check._verdict import Verdict as Verdict
