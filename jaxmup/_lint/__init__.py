"""The mistakes in a set-up: specs, initial values, optimizer chain, optimizer state."""

from jaxmup._finding import Finding as Finding
from jaxmup._lint._lint import lint as lint
