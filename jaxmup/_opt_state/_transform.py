r"""One transform of optax: the fields that it keeps, and their movement with the gauge.

A gauge move stores a parameter as `w / θ` and multiplies it by `θ m` in the forward pass, so that
the effective weight stays. Gradients grow by θ, and the step that is added to `w` must shrink by θ.
Between the two, each transform of a chain receives updates that have grown by some factor u: θ for
a gradient, 1 after Adam has divided by the root of its second moment, 1/θ after the learning rate.
A field of the state, a hyper-parameter and what the transform returns move by powers of u and θ
that depend on the transform alone; its place in the chain says the rest.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias


class Movement(NamedTuple):
    """A factor `u^update · θ^theta · rate^rate`.

    Args:
      update: Power of u, the factor on the updates that come in.
      theta: Power of θ.
      rate: Power of the factor on the learning rate of the optimizer.

    Example:
      >>> Movement(update=1, theta=1).at(update=2.0, theta=4.0)
      8.0
    """

    update: float = 0
    theta: float = 0
    rate: float = 0

    def at(self, update: float, theta: float, rate: float = 1.0) -> float:
        """The factor, from the factors on the updates, on the gauge and on the learning rate."""
        return float(update**self.update * theta**self.theta * rate**self.rate)

    def degree(self, update: float) -> float:
        """The power of θ, where the updates that come in have grown by `θ^update`.

        Example:
          >>> Movement(update=2).degree(1), Movement(update=2).degree(0)
          (2, 0)
        """
        return self.update * update + self.theta


FIXED = Movement()
UPDATE = Movement(update=1)
SQUARE = Movement(update=2)
WEIGHT = Movement(theta=-1)  # moves as the stored weight
DECAY = Movement(update=1, theta=1)  # makes λ w move as the updates do

FieldKind: TypeAlias = Literal[
    "moment", "steps", "position", "gathered", "rates", "schedules", "apart", "other"
]
"""The kind of a field of a state.

- `moment`: arrays for each parameter, such as averages of its gradient.
- `steps`: the number of steps made.
- `position`: where a schedule stands.
- `gathered`: what is alike after any step, and in between holds what has gathered since the last.
- `rates`: the hyper-parameters that `optax.inject_hyperparams` holds, by name.
- `schedules`: states of schedules, by name, each with its position.
- `apart`: the state of transforms that see the parameters in units of their own, which no gauge
  moves.
- `other`: none of these.
"""


@dataclasses.dataclass(frozen=True)
class Transform:
    """The movement of one transform.

    Args:
      states: Names of the types that its state may have.
      fields: Movement of each field of the state; the field `inner` is left out.
      returns: Movement of the updates that it returns.
      hyperparameters: Movement of each; those that stay are left out, and `None` stands for one
        that cannot move and must be 0.
      inner: The field that holds the state of the transforms that this one wraps.
      couples: Whether it mixes parameters, so that only one θ for all of them is a symmetry.
      sets_rate: Whether it is where the learning rate enters.
      kinds: Kind of a field where its movement does not say it: one that moves is a moment.

    Raises:
      TypeError: if `states` are no names, or a movement is no `Movement`.

    Example:
      >>> from jaxmup.gauge import TRANSFORMS
      >>> TRANSFORMS["scale_by_adam"].fields["nu"]
      Movement(update=2, theta=0, rate=0)
    """

    states: tuple[str, ...] = ("EmptyState",)
    fields: Mapping[str, Movement] = dataclasses.field(default_factory=dict)
    returns: Movement = UPDATE
    hyperparameters: Mapping[str, Movement | None] = dataclasses.field(default_factory=dict)
    inner: str | None = None
    couples: bool = False
    sets_rate: bool = False
    kinds: Mapping[str, FieldKind] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.states, str) or not all(isinstance(x, str) for x in self.states):
            raise TypeError(f"`states` must be a tuple of names of types. Got {self.states!r}.")
        given = {f"fields[{name!r}]": x for name, x in self.fields.items()}
        for name, movement in {**given, "returns": self.returns}.items():
            if not isinstance(movement, Movement):
                raise TypeError(
                    f"`{name}` must be a `jaxmup.gauge.Movement`. Got {movement!r}. Use "
                    "`Movement(update=1)` for what moves as the updates do."
                )

    def kind(self, field: str) -> FieldKind:
        """The kind of a field of the state.

        Example:
          >>> from jaxmup.gauge import TRANSFORMS
          >>> adam = TRANSFORMS["scale_by_adam"]
          >>> adam.kind("count"), adam.kind("nu")
          ('steps', 'moment')
        """
        moves = self.fields.get(field, FIXED) != FIXED
        return self.kinds.get(field, "moment" if moves else "other")
