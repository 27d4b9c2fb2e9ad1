"""Does everything in a model grow with its width (or depth) as muP says? Trains it, and measures.
"""

from jaxmup.coord_check._check import CoordCheck as CoordCheck
from jaxmup.coord_check._check import coord_check as coord_check
from jaxmup.coord_check._tags import tag as tag
