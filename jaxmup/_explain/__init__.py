"""The numbers of each parameter of a model and their reasons, as a value and as a table."""

from jaxmup._explain._explain import Explanation as Explanation
from jaxmup._explain._explain import explain as explain
from jaxmup._explain._row import ParameterRow as ParameterRow
