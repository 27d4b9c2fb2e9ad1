"""The exponents that muP gives every quantity, from the roles of the parameters.

They are muP's own, whatever the parametrization under check: features and their changes keep their
size, and everything else follows from that.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jaxmup._parametrization import Parametrization
from jaxmup._physics import MUP, Physics
from jaxmup._power import GAIN, ONE, Power
from jaxmup._scaling import Scaling
from jaxmup._spec import ParamSpec
from jaxmup._tree import PathName
from jaxmup.coord_check._signs import ALIGNED, Signs
from jaxmup.coord_check._slopes import log_slope
from jaxmup.coord_check._sums import Measured, Quantity
from jaxmup.coord_check._training import owner


@dataclasses.dataclass(frozen=True)
class Expected:
    """The exponents from `low` to `high`, which are one where theory leaves nothing open."""

    low: float
    high: float

    @classmethod
    def exactly(cls, exponent: float) -> "Expected":
        """One exponent."""
        return cls(exponent, exponent)

    @classmethod
    def between(cls, one: float, other: float) -> "Expected":
        """All exponents between two, in any order."""
        return cls(min(one, other), max(one, other))

    def off(self, exponent: float) -> float:
        """The distance of an exponent from the nearest of these; 0 within."""
        return max(exponent - self.high, self.low - exponent, 0.0)

    def __str__(self) -> str:
        ends = [f"{round(end, 2) + 0.0:+g}" for end in (self.low, self.high)]
        return " to ".join(dict.fromkeys("0" if end == "+0" else end for end in ends))


FLAT = Expected.exactly(0.0)


class Place(NamedTuple):
    """The place of a value or parameter in a stack of layers.

    Args:
      first_layer: Whether it is in the first layer.
      writes: Whether it is the output of a whole layer.
    """

    first_layer: bool = False
    writes: bool = False


ANYWHERE = Place()


@dataclasses.dataclass(frozen=True)
class Theory:
    """The exponents to expect of the models of all sizes.

    Args:
      sizes: Widths or depths.
      specs: Spec of each parameter by name, for the model of each size.
      scalings: Scaling of each parameter by name, for the model of each size.
      parametrization: Parametrization under check, of which the optimizer's family and the exponent
        of depth are used.
      signs: Sums of random signs in the model and in its gradients.
    """

    sizes: tuple[float, ...]
    specs: tuple[Mapping[str, ParamSpec], ...]
    scalings: tuple[Mapping[str, Scaling], ...]
    parametrization: Parametrization
    signs: Signs = ALIGNED

    def of_output(self, of_sizes: Sequence[Measured]) -> Expected:
        """The exponent of a module's output at initialization.

        One whose shape does not grow is read out of features: it sums over them with random signs
        until it has learned, which makes it fall as `width^-1/2`.
        """
        of_logits = of_sizes[0].quantity.startswith("logits")
        if len({one.shape for one in of_sizes}) > 1 and not of_logits:
            carried = self._carried(of_sizes)
            return Expected(carried - self._short_at_first(of_sizes), carried)
        name = owner(of_sizes[0].name)
        kernels = [f"{name}/kernel", f"{name.removesuffix('/logits')}/query/kernel"]
        if kernels[0] in self.specs[0] and self.specs[0][kernels[0]].role == "output":
            exponent = -self._growth(kernels[0], lambda spec: spec.r_in) / 2
            return Expected(exponent - self._narrows, exponent)
        if of_logits and kernels[1] in self.specs[0]:
            exponent = -self._growth(kernels[1], lambda spec: spec.axes[-1].ratio) / 2
            return Expected(exponent - 2 * self._narrows, exponent)
        return Expected(-max(self._widest / 2, self._short_at_first(of_sizes)), 0.0)

    def _short_at_first(self, of_sizes: Sequence[Measured]) -> float:
        """The exponent by which random signs make an output fall short at initialization."""
        short = max(self._narrows, self.signs.outputs.get(of_sizes[0].name, 0.0))
        return max(short, self._blocks_fall_short)

    def of_change(self, of_sizes: Sequence[Measured], place: Place = ANYWHERE) -> Expected:
        """The exponent of the change of a module's output.

        It is that of the output itself, since steps align weights with the features that they are
        learned on. What the loss does not see is computed by those weights from other features: a
        sum of random signs. So is, at first, what residual blocks add up to. Inside of one, its own
        weights add less the deeper the model, by `depth^(alpha - 1)`, to what its inputs do; and
        the norm that it begins with divides by a stream that falls short at first.
        """
        carried, name = self._carried(of_sizes), of_sizes[0].name
        kernel = f"{owner(name)}/kernel"
        low = carried - (self._widest / 2 if name in self.signs.unseen else 0.0)
        low = min(low, carried - self._blocks_fall_short)
        high = carried
        if self._is_in_a_block(name) and not place.writes:
            low = min(low, carried - self._own_weights_fall_short)
            high += self._blocks_fall_short
        if kernel in self.common:  # the step of SGD is as small as the gradient
            family = self.parametrization.family.at(self.specs[0][kernel].role)
            low = min(low, carried - self._open(kernel) * family.gradient_degree)
        return Expected(low, high)

    def of_logits_change(self, of_sizes: Sequence[Measured]) -> Expected:
        """The exponent of the change of attention logits.

        They keep their size once queries and keys have aligned; a few steps may not do that.
        """
        low = min(self.of_output(of_sizes).low, -self._own_weights_fall_short)
        return Expected(low, self._blocks_fall_short)

    def _carried(self, of_sizes: Sequence[Measured]) -> float:
        """The exponent of a module's output once it has learned.

        It is 0, unless the weight carries a factor that the forward pass lacks: such are the
        queries of a plain model that divides its logits by `sqrt(d)`, as muP divides them by `d`.
        """
        kernel = f"{owner(of_sizes[0].name)}/kernel"
        if kernel not in self.common:
            return 0.0
        return self._growth(kernel, lambda spec: spec.forward_gain)

    @property
    def _blocks_fall_short(self) -> float:
        """The exponent by which the sum over residual blocks falls short at initialization.

        Each adds `depth^-alpha` with a random sign, together `depth^(1/2 - alpha)`, to a stream
        that starts with the embedding: that of all together is anywhere between that and 0.
        """
        return self._deepens * max(0.0, self._alpha - 0.5)

    @property
    def _alpha(self) -> float:
        return self.parametrization.depth_alpha or 0.0

    @property
    def _deepens(self) -> float:
        """The exponent of the number of residual blocks, where a rule scales them; else 0."""
        if not self._alpha:
            return 0.0
        return max(self._growth(name, lambda spec: spec.depth_ratio) for name in self.common)

    @property
    def _own_weights_fall_short(self) -> float:
        """The exponent by which a residual block's own weights add less to changes inside of it."""
        return self._deepens * (1 - self._alpha)

    def _is_in_a_block(self, name: str) -> bool:
        """True of a module all of whose parameters deepen; its parent's, if it has none itself."""
        module = owner(name)
        for prefix in (f"{module}/", f"{module.rpartition('/')[0]}/"):
            inside = [one for one in self.common if one.startswith(prefix)]
            if inside:
                return all(self._growth(one, lambda spec: spec.depth_ratio) > 0 for one in inside)
        return False

    @property
    def _widest(self) -> float:
        return max(self._growth(name, lambda s: max(s.r_in, s.r_out)) for name in self.common)

    @property
    def _narrows(self) -> float:
        """The exponent by which features may fall at initialization, until they have learned.

        muP's initial weights have a spectral norm of order 1. Where a layer's outputs grow less
        than its inputs, the inputs set that norm: the weights are then so small that a sum of
        inputs with random signs falls with the width. The exponent of that sum is the weights' plus
        half the inputs'. Negative ones add up over the layers; once features and weights have
        aligned, all sums are of order 1.
        """
        hidden = [name for name in self.common if self.specs[-1][name].role == "hidden"]
        starts = [
            self._of(name, MUP.weight) + self._growth(name, lambda s: s.r_in) / 2 for name in hidden
        ]
        return -sum(min(0.0, start) for start in starts)

    @property
    def common(self) -> list[PathName]:
        """The parameters that the models of all sizes have."""
        return [name for name in self.specs[0] if all(name in one for one in self.specs)]

    def of_parameter(
        self, quantity: Quantity, name: PathName, decays: bool, place: Place = ANYWHERE
    ) -> Expected:
        """The exponent of a quantity of a parameter.

        Args:
          quantity: Quantity.
          name: Name of the parameter.
          decays: Whether there is weight decay.
          place: Place of the parameter in a stack of layers.
        """
        weight, step = self._of(name, MUP.weight * GAIN), self._step(name)
        match quantity:
            case "weight":
                return Expected.exactly(weight)
            case "weight_change" if decays:  # the decay of the initial values is part of it
                return Expected.between(step.low, max(step.high, weight))
            case "weight_change" | "update":
                return step
            case "gradient" | "scaled_gradient":
                return self._gradient(name, quantity, place)
            case "update_ratio":
                return Expected(step.low - weight, step.high - weight)
            case "decay_ratio":
                d = weight + self._decay(name)
                return Expected(d - step.high, d - step.low)
            case "decay":
                return Expected.exactly(self._decay(name))
            case _:  # eps stands beside the gradient
                return Expected(-self._open(name), self._amplified(place))

    def _of(self, name: PathName, power: Power) -> float:
        """The exponent in the sizes of a power of a parameter's ratios."""
        return self._growth(
            name,
            lambda s: power.at(s.r_in, s.r_out, depth_ratio=s.depth_ratio, gain=s.forward_gain),
        )

    def _growth(self, name: PathName, value: Callable[[ParamSpec], float]) -> float:
        """The exponent in the sizes of a number that each spec of a parameter gives."""
        return log_slope(self.sizes, [value(specs[name]) for specs in self.specs])

    @property
    def _physics(self) -> Physics:
        """muP, with the rule for depth of the parametrization under check."""
        alpha = self.parametrization.depth_alpha
        return MUP.in_depth(alpha) if alpha else MUP

    def _step(self, name: PathName) -> Expected:
        """A step moves every entry as muP says.

        The step of an orthogonalizing optimizer has other parts than the one that acts on
        activations: up to as many as the matrix has rows or columns. The step of SGD is as large as
        its gradient.
        """
        step = self._of(name, self._physics.step * GAIN)
        spec = self.specs[0][name]
        family = self.parametrization.family.at(spec.role)
        if family.unit != ONE:
            return Expected.between(
                step, step + self._growth(name, lambda s: min(s.r_in, s.r_out)) / 2
            )
        return Expected(step - self._open(name) * family.gradient_degree, step)

    def _decay(self, name: PathName) -> float:
        return self._of(name, self._physics.decay)

    def _gradient(self, name: PathName, quantity: Quantity, place: Place) -> Expected:
        gradient = self._of(name, self._physics.gradient / GAIN)
        of_name = [scalings[name] for scalings in self.scalings]
        gradient += log_slope(self.sizes, [scaling.multiplier for scaling in of_name])
        if quantity == "scaled_gradient":
            gradient += log_slope(self.sizes, [scaling.grad for scaling in of_name])
        return Expected(gradient - self._open(name), gradient + self._amplified(place))

    def _amplified(self, place: Place) -> float:
        """The exponent by which norms may amplify gradients at first, as depth grows.

        The gradient of what a norm takes is divided by its size. The last norm takes a stream that
        falls short. And where the embedding is small beside what one block adds, the stream that
        the first block writes is as small, while that at the end is `depth^1/2` times as large:
        gradients gain what the stream does.
        """
        return self._blocks_fall_short + (self._deepens / 2 if place.first_layer else 0.0)

    def _open(self, name: PathName) -> float:
        """The exponent by which a gradient may fall faster in the first steps than later.

        It is that of the sums of random signs on its way to the loss. A bias of the outputs learns
        from the mean error over the batch too, of which balanced labels leave what the outputs add
        to it: a sum over features. No other gradient does: the error of each example has a part
        that does not fall.
        """
        mean_error = self._widest / 2 if self._is_fixed(name) else 0.0
        # What a gate or an attention logit does depends on what its block's other weights learned.
        learned = self._growth(name, lambda spec: spec.depth_ratio) and self._own_weights_fall_short
        return max(self.signs.gradients.get(name, 0.0), mean_error, learned)

    def _is_fixed(self, name: PathName) -> bool:
        return all(spec[name].role == "fixed" for spec in self.specs)
