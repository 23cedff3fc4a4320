"""What the variational family should be: encodings, structure, flow. Array-free and frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from pavi.errors import FamilyError
from pavi.integers import is_integer

Encoding = Literal["auto", "free", "encoder", "encoder+free"]
Structure = Literal["block", "prior", "mean_field"]
Encoder = Literal["auto", "natural", "deep_set"]
Layer = Literal["affine", "spline", "coupling", "iaf"]
Flow = Literal["auto", "none", Layer]

_CHOICES = {"encoding": Encoding, "structure": Structure, "encoder": Encoder, "flow": Flow}
_PER_VARIABLE = ("encoding", "encoder", "flow")


@dataclass(frozen=True)
class Family:
    """A plate-amortized variational family (paper, section 3; `docs/method.md`).

    Args:
        encoding: how the copies of a latent are told apart. `"free"`: a trained table with one row
            for each copy (PAVI-F). `"encoder"`: computed from the data of each copy (PAVI-E).
            `"encoder+free"`: both, the row being a residual. `"auto"`: free for the globals,
            the encoder for what lies in plates, with a residual while the copies are few.
        structure: `"block"`: latents of the same plates have one joint density, conditioned on the
            coarser ones. `"prior"`: one density a variable, conditioned on its parents in the model
            (the paper's). `"mean_field"`: independent Gaussians on the unconstrained scale.
        encoder: `"natural"`: the evidence of each child enters as the Gaussian potential of its
            likelihood, and evidence adds. `"deep_set"`: a learned, permutation-invariant network.
            `"auto"`: natural, unless there are likelihoods that it cannot read and no free
            residual to make up for them.
        flow: layers on top of the affine conditionals, `"none"`, or `"auto"`: a spline flow where
            copies are few. A layer is `"spline"` or `"affine"`, masked autoregressive flows whose
            density is one pass; `"iaf"`, an inverse autoregressive affine flow, whose draws are one
            pass; or `"coupling"`, splines of one half of the vector given the other half (of a
            vector of size 1, a spline given the context alone). A list of layers, as in
            `["coupling", "spline"]`, is applied in that order from the base noise on; every
            second layer takes the dimensions from the last to the first. Kept as a tuple.
        encoding_size: width of the deep set's encodings.
        hidden: units of the hidden layers.
        layers: how often the layers of `flow` are repeated.
        newton_steps: relinearisations of a likelihood that is not Gaussian, in the natural encoder;
            5 at least where nothing is learned that would correct them.
        joint_limit: largest number of dimensions for which a small plate that crosses another one
            is given one joint density over all of its elements.
        residual_limit: largest number of copies that `"auto"` gives a free residual row.
        overrides: `{"variable": {"encoding": "free"}}`, for `encoding`, `encoder` and `flow`.

    Raises:
        FamilyError: a value that is not one of the above; `overrides` of another option.
    """

    encoding: Encoding = "auto"
    structure: Structure = "block"
    encoder: Encoder = "auto"
    flow: Flow | Sequence[Layer] = "auto"
    encoding_size: int = 16
    hidden: int = 32
    layers: int = 1
    newton_steps: int = 3
    joint_limit: int = 160
    residual_limit: int = 20_000
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if isinstance(self.flow, list | tuple):
            self._check_layers(self.flow)
            object.__setattr__(self, "flow", tuple(self.flow))
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            listed = name == "flow" and isinstance(value, tuple)
            if not listed and value not in get_args(choices):
                raise FamilyError(f"Family({name}={value!r}): expected one of {get_args(choices)}.")
        for name in ("encoding_size", "hidden", "layers", "newton_steps"):
            self._check_integer(name, 1, "a positive integer")
        for name in ("joint_limit", "residual_limit"):
            self._check_integer(name, 0, "0 or a positive integer")
        overrides = {}
        for variable, options in self.overrides.items():
            for option in options:
                if option not in _PER_VARIABLE:
                    raise FamilyError(
                        f"Family(overrides={{{variable!r}: {{{option!r}: ...}}}}): only "
                        f"{_PER_VARIABLE} may differ by variable."
                    )
            own = replace(self, overrides={}, **options)
            overrides[variable] = {option: getattr(own, option) for option in options}
        object.__setattr__(self, "overrides", overrides)

    def _check_layers(self, names: Sequence[object]) -> None:
        """Raises unless `names` are layers that the structure can have."""
        known = get_args(Layer)
        if not names:
            raise FamilyError(
                f"Family(flow={names!r}): a list names one layer or more, of {known}. For no flow "
                "write flow='none'."
            )
        for name in names:
            if name in ("auto", "none"):
                raise FamilyError(
                    f"Family(flow={names!r}): {name!r} is no layer. Write flow={name!r} without a "
                    f"list, or list layers of {known}."
                )
            if name not in known:
                raise FamilyError(
                    f"Family(flow={names!r}): {name!r} is no layer; expected one of {known}."
                )
        if self.structure == "mean_field":
            raise FamilyError(
                f"Family(flow={names!r}): structure='mean_field' is independent Gaussians and has "
                "no flow. Use structure='block' or 'prior', or leave out flow."
            )

    def _check_integer(self, name: str, least: int, wanted: str) -> None:
        value = getattr(self, name)
        if not is_integer(value, least):
            raise FamilyError(f"Family({name}={value!r}) must be {wanted}.")
        object.__setattr__(self, name, int(value))  # JSON has no integers of NumPy's

    def of(self, variable: str, option: str) -> Any:
        """The value of `option` for `variable`, with its override if there is one."""
        return self.overrides.get(variable, {}).get(option, getattr(self, option))

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready description, from which `from_json` builds an equal family."""
        out = {f.name: _jsonable(getattr(self, f.name)) for f in fields(self)}
        out["overrides"] = {
            variable: {option: _jsonable(value) for option, value in options.items()}
            for variable, options in self.overrides.items()
        }
        return out

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> Family:
        """The family that `to_json` described."""
        return cls(**description)


def _jsonable(value: Any) -> Any:
    """A tuple as the list that JSON reads back."""
    return list(value) if isinstance(value, tuple) else value
