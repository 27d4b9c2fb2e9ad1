"""Empirical initialization: the scales of a model measured in one pass, not derived."""

from jaxmup.empirical._absorb import Absorbed as Absorbed
from jaxmup.empirical._absorb import absorb_scales as absorb_scales
from jaxmup.empirical._calibrate import Calibration as Calibration
from jaxmup.empirical._calibrate import calibrate as calibrate
from jaxmup.empirical._exponents import Exponents as Exponents
from jaxmup.empirical._exponents import ParameterExponents as ParameterExponents
from jaxmup.empirical._exponents import calibrate_exponents as calibrate_exponents
from jaxmup.empirical._intercept import apply as apply
from jaxmup.empirical._rates import learning_rates as learning_rates
from jaxmup.empirical._report import ModuleStatistics as ModuleStatistics
from jaxmup.empirical._report import Report as Report
from jaxmup.empirical._report import report as report
from jaxmup.empirical._report import statistics as statistics
from jaxmup.empirical._scaled import Scale as Scale
from jaxmup.empirical._scaled import Scaled as Scaled
from jaxmup.empirical._wrap import wrap as wrap
