"""A model with data, of which chosen modules can be measured; the part that both APIs share."""

import abc
import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, Self, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmup._inputs import Call, take_arrays
from jaxmup._tree import Params, PathName, Tree
from jaxmup.empirical._require import require_output, require_parameters
from jaxmup.empirical._tally import Seen, Shape, blank, stacked_axes
from jaxmup.empirical._use import Settings

ModulePath: TypeAlias = tuple[Any, ...]
"""The keys on the way to a module; those of Linen are names."""
ModuleName: TypeAlias = str
"""The keys on the way to a module joined by slashes, such as `"blocks/0/query"`."""
LossFn: TypeAlias = Callable[..., Array]
"""A function of the outputs of a model that returns a scalar."""
Scales: TypeAlias = Mapping[ModuleName, Array | np.ndarray]
"""A packed `Given` of each module."""
Directions: TypeAlias = Mapping[ModuleName, Params]
"""Gradients of the parameters of some modules, over all their uses."""
NamedScales: TypeAlias = Mapping[ModuleName, Mapping[str, Array]]
"""The scales of each module by their names, such as `scale_actv_y`."""
Note: TypeAlias = Callable[[ModuleName, Params, bool, Any], None]
"""Told of each call: name, parameters, if a gradient can leave through the inputs, and outputs."""
Arrays: TypeAlias = tuple[Params, Tree, list[Array]]
"""Parameters, other state and the arrays of the inputs."""
# `pass_(arrays, scales, directions)`: the loss, the packed tallies and the gradients.
Pass: TypeAlias = Callable[
    [Arrays, Scales, Directions], tuple[Array, dict[ModuleName, Array], dict[ModuleName, Params]]
]

M = TypeVar("M", bound="Measurable")


@dataclasses.dataclass(frozen=True)
class Measurable(abc.ABC):
    """A model of one of Flax's APIs without scales, of which modules are chosen, with data.

    Args:
      params: Parameters.
      rest: All other state.
      names: Names of the chosen modules by their paths.
      inputs: Arguments of the model's call.
      loss_fn: Loss of the outputs.
    """

    params: Params
    rest: Tree
    names: Mapping[ModulePath, ModuleName]
    inputs: Call
    loss_fn: LossFn

    @property
    def arrays(self) -> Arrays:
        """All arrays that a pass is a function of."""
        return self.params, self.rest, take_arrays(self.inputs)[0]

    def with_arrays(self, arrays: Arrays) -> Self:
        """The same model and data with other arrays."""
        params, rest, inputs = arrays
        joined = take_arrays(self.inputs)[1].joined(inputs)
        return dataclasses.replace(self, params=params, rest=rest, inputs=joined)

    def observe(self) -> dict[ModuleName, Seen]:
        """The facts about each module, in the order in which an abstract run calls them."""
        seen: dict[ModuleName, Seen] = {}
        parts = self.parts(self.params, tuple(self.names.values()))
        leaves = {name: self.leaves(part) for name, part in parts.items()}
        dtypes = {name: require_parameters(name, found) for name, found in leaves.items()}
        outer = {name: shapes(found) for name, found in leaves.items()}

        def note(name: ModuleName, part: Params, gradient: bool, outputs: Tree) -> None:
            require_output(name, outputs)
            lead = stacked_axes(name, outer[name], shapes(self.leaves(part)))
            before = name in seen and seen[name].gradient
            seen[name] = Seen(lead, gradient or before, dtypes[name])

        jax.eval_shape(lambda arrays: self.with_arrays(arrays).noted(note), self.arrays)
        return seen

    def run(
        self,
        settings: Settings,
        seen: Mapping[ModuleName, Seen],
        scales: Scales,
        directions: Directions,
    ) -> tuple[Array, dict[ModuleName, Array], dict[ModuleName, Params]]:
        """One forward and one backward pass: the loss, the packed tallies, and the gradients.

        The gradients are those of the modules in `directions`, in the same form.
        """

        def loss(tallies: Mapping[ModuleName, Array], params: Params) -> Array:
            return self.measured(params, settings, scales, tallies, directions)

        blanks = {name: blank(one) for name, one in seen.items()}
        value, (tallies, gradients) = jax.value_and_grad(loss, (0, 1))(blanks, self.params)
        return value, tallies, self.parts(gradients, tuple(directions))

    def zeros(self, names: Collection[ModuleName]) -> dict[ModuleName, Params]:
        """Parameters of the named modules that are all zero."""
        return self.parts(jax.tree.map(jnp.zeros_like, self.params), names)

    @abc.abstractmethod
    def noted(self, note: Note) -> Array:
        """The loss of a run that notes each call of a chosen module."""

    @abc.abstractmethod
    def measured(
        self,
        params: Params,
        settings: Settings,
        scales: Scales,
        tallies: Mapping[ModuleName, Array],
        directions: Directions,
    ) -> Array:
        """The loss of a run with these parameters that measures each chosen module."""

    @abc.abstractmethod
    def parts(self, params: Params, names: Collection[ModuleName]) -> dict[ModuleName, Params]:
        """The parameters of the named modules."""

    @abc.abstractmethod
    def leaves(self, part: Params) -> dict[PathName, Array]:
        """The parameters of one module by name."""

    @abc.abstractmethod
    def tied(self) -> frozenset[ModuleName]:
        """The modules that share a parameter with another one."""

    @abc.abstractmethod
    def map_parameters(self, function: Callable[[ModuleName, PathName, Array], Array]) -> Self:
        """The same with `function(module, parameter, values)` in the chosen modules."""

    @abc.abstractmethod
    def scaled(self, scales: NamedScales) -> Any:
        """The NNX module, or the variables of the Linen module, with these scales."""


def shapes(leaves: Mapping[PathName, Array]) -> dict[PathName, Shape]:
    """The shapes of arrays by name."""
    return {name: leaf.shape for name, leaf in leaves.items()}


def compiled(measurable: Measurable, settings: Settings, seen: Mapping[ModuleName, Seen]) -> Pass:
    """One forward and one backward pass as one program, for the arrays of any model like it.

    It is not kept for a later call with the same loss function, which may by then read other data.
    """

    def run(arrays: Arrays, scales: Scales, directions: Directions) -> Any:
        return measurable.with_arrays(arrays).run(settings, seen, scales, directions)

    return jax.jit(run)
