"""Programs as JAX traces them: opened, evaluated, followed and cut, in one place.

- `_jax` is the only file that touches what is private in JAX or differs between its versions.
- `_calls`, `_loops` say which equations run other programs, and open them.
- `_einsum` keeps products of many arrays in one order, whatever their sizes.
- `_evaluate` runs a program with a hook for each equation, or interprets it over anything else.
- `_insert` runs a program with factors on values of it, which may be inside of calls and loops.
- `_flow` follows values and cuts programs; `_flatten` makes one list of programs of several sizes.
- `_digest` tells programs apart, wherever their code stands; `_same` finds equal ones at once.
- `_unsharded` takes out of a program what it says of devices.
- `_random` draws bits in a way that compiles quickly.
- `_source` finds the user's line that an equation comes from.
"""

from jaxmup._program._calls import called as called
from jaxmup._program._calls import is_call as is_call
from jaxmup._program._calls import is_checkpoint as is_checkpoint
from jaxmup._program._calls import is_plain_call as is_plain_call
from jaxmup._program._digest import digest as digest
from jaxmup._program._digest import digest_of_arrays as digest_of_arrays
from jaxmup._program._einsum import one_order_of_products as one_order_of_products
from jaxmup._program._evaluate import evaluate as evaluate
from jaxmup._program._evaluate import inlined as inlined
from jaxmup._program._evaluate import interpret as interpret
from jaxmup._program._evaluate import run_inside as run_inside
from jaxmup._program._flatten import Flat as Flat
from jaxmup._program._flatten import Node as Node
from jaxmup._program._flatten import Repeat as Repeat
from jaxmup._program._flatten import flatten as flatten
from jaxmup._program._flow import dependencies as dependencies
from jaxmup._program._flow import followers as followers
from jaxmup._program._flow import number_of_uses as number_of_uses
from jaxmup._program._flow import part as part
from jaxmup._program._flow import parts as parts
from jaxmup._program._flow import piece as piece
from jaxmup._program._flow import signature as signature
from jaxmup._program._flow import split as split
from jaxmup._program._flow import variables as variables
from jaxmup._program._insert import evaluate_with_factors as evaluate_with_factors
from jaxmup._program._insert import is_open as is_open
from jaxmup._program._jax import Atom as Atom
from jaxmup._program._jax import ClosedJaxpr as ClosedJaxpr
from jaxmup._program._jax import Equation as Equation
from jaxmup._program._jax import Jaxpr as Jaxpr
from jaxmup._program._jax import Literal as Literal
from jaxmup._program._jax import Primitive as Primitive
from jaxmup._program._jax import ShapedArray as ShapedArray
from jaxmup._program._jax import Var as Var
from jaxmup._program._jax import as_function as as_function
from jaxmup._program._jax import bind as bind
from jaxmup._program._jax import bind_primitive as bind_primitive
from jaxmup._program._jax import inner_programs as inner_programs
from jaxmup._program._jax import scopes as scopes
from jaxmup._program._jax import without_dead_code as without_dead_code
from jaxmup._program._loops import Choice as Choice
from jaxmup._program._loops import Loop as Loop
from jaxmup._program._loops import While as While
from jaxmup._program._loops import is_choice as is_choice
from jaxmup._program._loops import is_scan as is_scan
from jaxmup._program._loops import is_while as is_while
from jaxmup._program._random import with_quick_bits as with_quick_bits
from jaxmup._program._same import Same as Same
from jaxmup._program._source import Line as Line
from jaxmup._program._source import line_of as line_of
from jaxmup._program._source import line_of_error as line_of_error
from jaxmup._program._source import lines_of as lines_of
from jaxmup._program._trace import Traced as Traced
from jaxmup._program._trace import trace as trace
from jaxmup._program._trace import traced as traced
from jaxmup._program._types import Shaped as Shaped
from jaxmup._program._types import aval_of as aval_of
from jaxmup._program._types import is_inexact as is_inexact
from jaxmup._program._types import type_of as type_of
from jaxmup._program._unsharded import no_mesh as no_mesh
from jaxmup._program._unsharded import unsharded as unsharded
