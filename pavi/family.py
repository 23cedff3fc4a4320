"""What the variational family should be: encodings, structure, flow. Array-free and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from pavi.errors import FamilyError
from pavi.integers import is_integer

Encoding = Literal["auto", "free", "encoder", "encoder+free"]
Structure = Literal["block", "prior", "mean_field"]
Encoder = Literal["auto", "natural", "deep_set"]
Flow = Literal["auto", "none", "affine", "spline"]

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
        flow: layers on top of the affine conditionals: `"spline"` or `"affine"` masked
            autoregressive flows, `"none"`, or `"auto"`: a spline flow where copies are few.
        encoding_size: width of the deep set's encodings.
        hidden: units of the hidden layers.
        layers: number of autoregressive layers.
        newton_steps: relinearisations of a likelihood that is not Gaussian, in the natural encoder.
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
    flow: Flow = "auto"
    encoding_size: int = 16
    hidden: int = 32
    layers: int = 1
    newton_steps: int = 3
    joint_limit: int = 160
    residual_limit: int = 20_000
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                raise FamilyError(
                    f"Family({name}={getattr(self, name)!r}): expected one of {get_args(choices)}."
                )
        for name in ("encoding_size", "hidden", "layers", "newton_steps"):
            self._check_integer(name, 1, "a positive integer")
        for name in ("joint_limit", "residual_limit"):
            self._check_integer(name, 0, "0 or a positive integer")
        for variable, options in self.overrides.items():
            for option in options:
                if option not in _PER_VARIABLE:
                    raise FamilyError(
                        f"Family(overrides={{{variable!r}: {{{option!r}: ...}}}}): only "
                        f"{_PER_VARIABLE} may differ by variable."
                    )
            replace(self, overrides={}, **options)

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
        out = {f.name: getattr(self, f.name) for f in fields(self)}
        out["overrides"] = {k: dict(v) for k, v in self.overrides.items()}
        return out

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> Family:
        """The family that `to_json` described."""
        return cls(**description)
