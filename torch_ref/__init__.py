"""An independent PyTorch reference for abcd parametrizations, Adam variants and their tools.

Written from the papers, with torch and numpy only, to be compared with; it shares no code with
what it is compared with, and favours plain formulas over speed.
"""

from torch_ref import counterexample as counterexample
from torch_ref.empirical import EmpiricalScale as EmpiricalScale
from torch_ref.empirical import tune as tune
from torch_ref.gpt2 import GPT2 as GPT2
from torch_ref.gradient import scale_gradient as scale_gradient
from torch_ref.layerwise import three_layers as three_layers
from torch_ref.layerwise import train_by_hook as train_by_hook
from torch_ref.layerwise import train_by_layer as train_by_layer
from torch_ref.layerwise import train_whole as train_whole
from torch_ref.linear import MuLinear as MuLinear
from torch_ref.linear import ScaledLinear as ScaledLinear
from torch_ref.linear import param_groups as param_groups
from torch_ref.optim import Adam as Adam
from torch_ref.optim import AMSGrad as AMSGrad
from torch_ref.redundancy import ABSORPTIONS as ABSORPTIONS
from torch_ref.redundancy import Absorption as Absorption
from torch_ref.redundancy import redundancy_gap as redundancy_gap
from torch_ref.resnet import ResNet as ResNet
from torch_ref.scale import ParameterScale as ParameterScale
from torch_ref.scale import width_scale as width_scale
from torch_ref.tables import ADAM as ADAM
from torch_ref.tables import SGD as SGD
from torch_ref.tables import TABLES as TABLES
from torch_ref.tables import Exponents as Exponents
from torch_ref.tables import Table as Table
from torch_ref.tables import exponents as exponents
