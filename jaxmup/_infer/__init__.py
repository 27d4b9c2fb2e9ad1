"""muP for unmodified models: what their parameters are, and how they must start."""

from jaxmup._infer._corrected import corrected as corrected
from jaxmup._infer._infer import infer as infer
from jaxmup._infer._rescale import rescale as rescale
