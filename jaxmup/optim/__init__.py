r"""optax transforms that carry a parametrization through any optimizer chain and any schedule.

The order in a chain is the meaning::

    scale_gradients   r^d, so that the optimizer sees gradients of one size
    (coupled decay)   L2: added to the gradient
    the optimizer     scale_by_adam, optax.trace, ...
    (decoupled decay) multiplied by the learning rate, as the step is
    scale_updates     r^-c, a static factor: no schedule can erase it
    learning rate     a number or a schedule
    (absolute decay)  multiplied by nothing

The ready chains `sgd`, `adam`, `adamw`, `amsgrad` and `muon` are such chains and take `eps` from
the scalings, so they are right in every gauge. `from_direction` makes one of any stock `scale_by_*`
of optax: Lion, RMSProp, Adagrad, NAdam, RAdam, Adamax, AdaBelief, Yogi, Adafactor, LAMB, LARS;
`jaxmup.OPTIMIZERS` says which optimizers share their scalings. SOAP is left out: optax has none,
and its published rule fails the coordinate check (Qiu et al., arXiv:2512.05620).

A stock optax optimizer as a whole has one `eps`: put it between `scale_gradients` and
`scale_updates` in the gauge `tp4b`, whose gradients have one size at every width (in `cellarium`
the updates need no factor either). In `table3`, `table8`, `table9` and `unit` the right `eps`
differs from leaf to leaf.
"""

from jaxmup.optim._adagrad import scale_by_adagrad as scale_by_adagrad
from jaxmup.optim._adam import Convention as Convention
from jaxmup.optim._adam import scale_by_adam as scale_by_adam
from jaxmup.optim._chains import adam as adam
from jaxmup.optim._chains import adamw as adamw
from jaxmup.optim._chains import amsgrad as amsgrad
from jaxmup.optim._chains import sgd as sgd
from jaxmup.optim._clip import clip_by_global_norm as clip_by_global_norm
from jaxmup.optim._direction import from_direction as from_direction
from jaxmup.optim._muon import muon as muon
from jaxmup.optim._muon import muon_dimension_numbers as muon_dimension_numbers
from jaxmup.optim._reference import in_reference_gauge as in_reference_gauge
from jaxmup.optim._scale import scale_gradients as scale_gradients
from jaxmup.optim._scale import scale_updates as scale_updates
from jaxmup.optim._shardings import state_shardings as state_shardings
from jaxmup.optim._weight_decay import WeightDecayMode as WeightDecayMode
