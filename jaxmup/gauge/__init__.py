"""The symmetry of abcd-parametrizations, as an exact tool.

A parameter with effective weight `W = m · w` may be stored in any gauge: `θ m` and `w / θ` are the
same model, and if the hyper-parameters and the state of the optimizer move along, the same run.

- `regauge` and `regauge_run` move a model and its running optimizer; `equivalent` says whether two
  parametrizations are one physics.
- `regauge_scalings` and `reference_scalings` move the numbers that a chain of `jaxmup.optim` is
  built from; `fold` and `unfold` take the multipliers into the weights and out again.
- `in_reference_gauge` makes a transform that is not invariant by itself independent of the gauge.
- `as_arguments` and `from_arguments` make gauges that differ by powers of two agree to the last
  bit.
- `TRANSFORMS`, `WRAPPERS` and `CHAINS` are the tables behind it: how every transform of optax
  moves, and what its optimizers are made of.
"""

from jaxmup._opt_state import CHAINS as CHAINS
from jaxmup._opt_state import TRANSFORMS as TRANSFORMS
from jaxmup._opt_state import WRAPPERS as WRAPPERS
from jaxmup._opt_state import Movement as Movement
from jaxmup._opt_state import Transform as Transform
from jaxmup.gauge._equivalent import Difference as Difference
from jaxmup.gauge._equivalent import Equivalence as Equivalence
from jaxmup.gauge._equivalent import equivalent as equivalent
from jaxmup.gauge._fold import fold as fold
from jaxmup.gauge._fold import unfold as unfold
from jaxmup.gauge._regauge import Regauged as Regauged
from jaxmup.gauge._regauge import regauge as regauge
from jaxmup.gauge._regauge import regauge_run as regauge_run
from jaxmup.gauge._scalings import as_arguments as as_arguments
from jaxmup.gauge._scalings import from_arguments as from_arguments
from jaxmup.gauge._scalings import reference_scalings as reference_scalings
from jaxmup.gauge._scalings import regauge_scalings as regauge_scalings
from jaxmup.optim import in_reference_gauge as in_reference_gauge
