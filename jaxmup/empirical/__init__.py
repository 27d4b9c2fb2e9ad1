"""Empirical initialization: the scales of a model measured in one pass, not derived."""

from jaxmup.empirical._calibrate import Calibration as Calibration
from jaxmup.empirical._calibrate import calibrate as calibrate
from jaxmup.empirical._linen import apply as apply
from jaxmup.empirical._nnx import Scale as Scale
from jaxmup.empirical._nnx import Scaled as Scaled
