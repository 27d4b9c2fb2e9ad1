"""The state of an optimizer: what it consists of, what each part is, and whose it is.

- `walk` takes a state apart into its transforms, by the table `TRANSFORMS` and `WRAPPERS`; each
  has its fields, with their kind and their movement.
- `described` names the transforms that states leave open.
- `Owners` says which leaf belongs to which parameter.
- `with_fields` puts other values in.
"""

from jaxmup._opt_state._chains import CHAINS as CHAINS
from jaxmup._opt_state._described import Description as Description
from jaxmup._opt_state._described import described as described
from jaxmup._opt_state._owners import Owners as Owners
from jaxmup._opt_state._rebuild import with_fields as with_fields
from jaxmup._opt_state._table import TRANSFORMS as TRANSFORMS
from jaxmup._opt_state._table import WRAPPERS as WRAPPERS
from jaxmup._opt_state._transform import FIXED as FIXED
from jaxmup._opt_state._transform import SQUARE as SQUARE
from jaxmup._opt_state._transform import FieldKind as FieldKind
from jaxmup._opt_state._transform import Movement as Movement
from jaxmup._opt_state._transform import Transform as Transform
from jaxmup._opt_state._walk import STATELESS as STATELESS
from jaxmup._opt_state._walk import Branches as Branches
from jaxmup._opt_state._walk import Chain as Chain
from jaxmup._opt_state._walk import Field as Field
from jaxmup._opt_state._walk import Link as Link
from jaxmup._opt_state._walk import StatePath as StatePath
from jaxmup._opt_state._walk import Walked as Walked
from jaxmup._opt_state._walk import walk as walk
from jaxmup._opt_state._walk import where as where
