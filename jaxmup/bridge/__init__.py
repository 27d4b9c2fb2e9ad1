"""Between PyTorch and JAX: checkpoints of one framework for the other.

- `from_torch` and `to_torch` convert weights; `plan` shows what they do with each tensor.
- `conversion` does the same from file to file, one tensor at a time.
- `optimizer_from_torch` and `optimizer_to_torch` convert the state of an optimizer, so that a run
  goes on; `parameter_groups` and `schedule_position` say where it stands.
- `from_mup` and `mup_parameters` read models of microsoft/mup; `abcd_multipliers` and `to_abcd` are
  for layers with constant multipliers (c = 0).
- `load` and `save` read and write files of a state dict, as arrays of numpy; `as_tensors` makes
  tensors of PyTorch of them.
"""

from jaxmup.bridge._abcd import AbcdLayer as AbcdLayer
from jaxmup.bridge._abcd import abcd_multipliers as abcd_multipliers
from jaxmup.bridge._abcd import to_abcd as to_abcd
from jaxmup.bridge._base_shapes import read_base_shapes as read_base_shapes
from jaxmup.bridge._conversion import Conversion as Conversion
from jaxmup.bridge._conversion import conversion as conversion
from jaxmup.bridge._convert import from_torch as from_torch
from jaxmup.bridge._convert import plan as plan
from jaxmup.bridge._convert import to_torch as to_torch
from jaxmup.bridge._layouts import Layout as Layout
from jaxmup.bridge._mup import MupParameter as MupParameter
from jaxmup.bridge._mup import from_mup as from_mup
from jaxmup.bridge._mup import mup_parameters as mup_parameters
from jaxmup.bridge._optimizer import optimizer_from_torch as optimizer_from_torch
from jaxmup.bridge._optimizer import optimizer_to_torch as optimizer_to_torch
from jaxmup.bridge._optimizer import parameter_groups as parameter_groups
from jaxmup.bridge._optimizer import schedule_position as schedule_position
from jaxmup.bridge._plan import Entry as Entry
from jaxmup.bridge._plan import Place as Place
from jaxmup.bridge._plan import Plan as Plan
from jaxmup.bridge._plan import Source as Source
from jaxmup.bridge._safetensors import save as save
from jaxmup.bridge._sources import load as load
from jaxmup.bridge._tensors import as_tensors as as_tensors
