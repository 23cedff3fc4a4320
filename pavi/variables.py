"""The variables of a plate graph: latent, observed, covariate. Frozen, and free of arrays."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pavi import dist as distributions
from pavi import ops
from pavi.dist.spec import Spec
from pavi.errors import GraphError
from pavi.integers import is_integer
from pavi.plates import Names, checked_name, checked_names

Kind = Literal["latent", "observed", "covariate"]
Distribution = Spec | Callable[..., Spec]
Event = int | Sequence[int]


@dataclass(frozen=True, init=False)
class Variable:
    """A random variable or a known quantity of the template, replicated over its plates.

    Attributes:
        name: an identifier, unique in the graph.
        plates: the plates whose product it is replicated over, in the order of its axes.
        event: sizes of its trailing axes; an array of it is `[*plates, *event]`.
        parents: argument names of its distribution function; () for a plain spec.
        kind: "latent", "observed" or "covariate".
    """

    name: str
    plates: tuple[str, ...]
    event: tuple[int, ...]
    parents: tuple[str, ...]
    kind: Kind = field(init=False)

    def __init__(self, name: str, plates: Names, event: Event, parents: tuple[str, ...]) -> None:
        if type(self) is Variable:
            raise GraphError("A Variable is a pavi.Latent, a pavi.Observed or a pavi.Covariate.")
        set_field = object.__setattr__  # the class is frozen
        set_field(self, "name", checked_name(name, "variable"))
        set_field(self, "plates", checked_names(plates, f"Variable {name!r}", "plates"))
        set_field(self, "event", _checked_event(event, name))
        set_field(self, "parents", parents)

    @property
    def axes(self) -> str:
        """The axes of an array of the variable in words: `[home, 3]`."""
        return f"[{', '.join([*self.plates, *map(str, self.event)])}]"

    @property
    def place(self) -> str:
        """The variable, its plates and its event, in words."""
        on = f"plates {self.plates}" if self.plates else "no plates"
        return f"{self.kind} {self.name!r} ({on}, event {self.event})"

    @property
    def rank(self) -> int:
        """Number of axes of an array of the variable, `[*plates, *event]`."""
        return len(self.plates) + len(self.event)


@dataclass(frozen=True, init=False)
class Random(Variable):
    """A variable with a distribution: a `Latent` or an `Observed`."""

    dist: Distribution

    def __init__(
        self, name: str, dist: Distribution, *, plates: Names = (), event: Event = ()
    ) -> None:
        checked_name(name, "variable")
        object.__setattr__(self, "dist", dist)
        super().__init__(name, plates, event, _arguments(name, dist))

    def spec(self, parents: Mapping[str, Any]) -> Spec:
        """The distribution given its parents' values, already aligned to this variable's axes."""
        if isinstance(self.dist, Spec):
            return self.dist
        spec = self.dist(**{name: parents[name] for name in self.parents})
        if _is_foreign(spec):
            raise GraphError(
                f"The distribution function of {self.name!r} returned {_foreign(spec)}, which is "
                f"not a pavi.dist spec. {_own(spec)}"
            )
        if not isinstance(spec, Spec):
            raise GraphError(
                f"The distribution function of {self.name!r} returned {_shown(spec)}, which is not "
                f"a pavi.dist spec. Return one, as in dist.Normal(0.0, 1.0)."
            )
        return spec


class Latent(Random):
    """An unknown to be inferred.

    Args:
        name: an identifier, unique in the graph.
        dist: a `pavi.dist` spec, or a function of the parents, named by its arguments, to a spec.
        plates: a plate's name or a tuple of names.
        event: sizes of trailing axes, over which a scalar distribution is independent.
    """

    kind: Kind = "latent"


class Observed(Random):
    """A random variable whose values are data; NaN in them means missing.

    Args:
        name: an identifier, unique in the graph.
        dist: a `pavi.dist` spec, or a function of the parents, named by its arguments, to a spec.
        plates: a plate's name or a tuple of names.
        event: sizes of trailing axes, over which a scalar distribution is independent.
    """

    kind: Kind = "observed"


class Covariate(Variable):
    """A known quantity: a predictor, a total count, a known standard error.

    Args:
        name: an identifier, unique in the graph.
        plates: a plate's name or a tuple of names.
        event: sizes of trailing axes.
    """

    kind: Kind = "covariate"

    def __init__(self, name: str, *, plates: Names = (), event: Event = ()) -> None:
        super().__init__(name, plates, event, ())


def _shown(value: object) -> str:
    """`value` and its type, in one short line."""
    text = repr(value)
    text = text if len(text) <= 60 and "\n" not in text else f"{text.splitlines()[0][:57]}..."
    return f"{text} of type {type(value).__name__}"


# Functions of NumPy and SciPy that pavi.ops calls otherwise.
_IN_OPS = {
    "expit": "sigmoid",
    "gammaln": "lgamma",
    "psi": "digamma",
    "concatenate": "concat",
    "amax": "max",
}


def not_portable(variable: Random, function: str) -> str:
    """Says that a function that takes NumPy arrays alone was called, and what to call instead."""
    if not function:
        return (
            f"The distribution function of {variable.place} makes one number of a parent, as "
            f"float and the functions of math do, but its parents are arrays with one number for "
            f"each element and draw. Use pavi.ops instead, as in `from pavi import ops` and "
            f"ops.exp(x)."
        )
    name = _IN_OPS.get(function, function)
    remedy = (
        f"Use pavi.ops.{name} instead, as in `from pavi import ops` and ops.{name}(...)."
        if callable(getattr(ops, name, None))
        else "Write it with operators and the functions of pavi.ops, which run on both backends."
    )
    return (
        f"The distribution function of {variable.place} calls NumPy's {function} on its parents, "
        f"but in a fit these are arrays of the backend, which NumPy's functions do not take. "
        f"{remedy}"
    )


def _is_foreign(value: object) -> bool:
    """Whether `value` is another library's distribution, or a class of them."""
    kind = value if isinstance(value, type) else type(value)
    return not issubclass(kind, Spec) and (hasattr(value, "log_prob") or hasattr(value, "logpdf"))


def _foreign(value: object) -> str:
    kind = value if isinstance(value, type) else type(value)
    return f"{'the class ' if kind is value else ''}{kind.__name__} of {kind.__module__}"


def _own(value: object) -> str:
    """The spec to use instead of another library's distribution."""
    kind = value if isinstance(value, type) else type(value)
    if kind.__name__ in distributions.__all__:
        return f"Use pavi.dist.{kind.__name__}."
    return "Use one of pavi.dist, such as pavi.dist.Normal(0.0, 1.0)."


def _checked_event(event: object, name: str) -> tuple[int, ...]:
    sizes = (event,) if isinstance(event, int) else event
    if not isinstance(sizes, Sequence) or isinstance(sizes, str):
        raise GraphError(f"Variable {name!r}: `event` must be a tuple of sizes, got {event!r}.")
    for size in sizes:
        if not is_integer(size, 1):
            raise GraphError(
                f"Variable {name!r}: `event` must hold positive integers, got {event!r}. "
                f"Write event=() for a scalar and event=(3,) for a vector of three."
            )
    return tuple(int(size) for size in sizes)


def _arguments(name: str, distribution: object) -> tuple[str, ...]:
    """The parents that a distribution names: the arguments of its function without a default."""
    if isinstance(distribution, Spec):
        return ()
    if _is_foreign(distribution):
        raise GraphError(
            f"The distribution of {name!r} is {_foreign(distribution)}, which is not a pavi.dist "
            f"spec or a function of its parents that returns one. {_own(distribution)}"
        )
    if not callable(distribution):
        raise GraphError(
            f"The distribution of {name!r} must be a pavi.dist spec or a function of its parents "
            f"that returns one, got {_shown(distribution)}."
        )
    try:
        arguments = inspect.signature(distribution).parameters.values()
    except (TypeError, ValueError) as error:
        raise GraphError(
            f"The argument names of the distribution function of {name!r} cannot be read, and they "
            f"name its parents. Wrap it in a lambda. ({error})"
        ) from error
    for argument in arguments:
        if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            raise GraphError(
                f"The distribution function of {name!r} takes `{argument}`, but the names of its "
                f"arguments are the names of its parents. Write every parent out."
            )
        if argument.kind is argument.POSITIONAL_ONLY and argument.default is argument.empty:
            raise GraphError(
                f"The distribution function of {name!r} takes {argument.name!r} by position only, "
                f"but parents are passed by name. Remove the `/`, or wrap it in a lambda."
            )
    return tuple(a.name for a in arguments if a.default is a.empty)


def defaults(variable: Random) -> tuple[str, ...]:
    """Arguments of the distribution function that have a default, and so are no parents."""
    if isinstance(variable.dist, Spec):
        return ()
    arguments = inspect.signature(variable.dist).parameters.values()
    return tuple(a.name for a in arguments if a.default is not a.empty)
