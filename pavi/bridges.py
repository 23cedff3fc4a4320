"""A plate graph from and to the libraries that backends stand on; no library is loaded before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pavi.data import Data
    from pavi.graph import PlateGraph


class Bridges:
    """What a `PlateGraph` has for TFP's and NumPyro's own tools."""

    @classmethod
    def from_numpyro(cls, model: Any, *args: Any, **kwargs: Any) -> tuple[PlateGraph, Data]:
        """The graph and the data of a NumPyro model, read from one run of it.

        Plates are the model's own, subsampled ones at their full size. An index of a plate's
        latents in another plate, as `theta[county]`, becomes a membership; arrays that meet
        latents become covariates, by the names of the model's arguments where they are these.
        An observed value that is NaN, or masked, is missing.

        Args:
            model: the model.
            args: its arguments, data included.
            kwargs: its named arguments.

        Raises:
            GraphError: something in it cannot be said by a plate graph; the message names the site.
            DataError: an index is out of the range of its plate, or data do not fit otherwise.
            BackendError: NumPyro is not installed.
        """
        found: tuple[PlateGraph, Data] = _adapter("numpyro", "portable").from_numpyro(
            model, *args, **kwargs
        )
        return found

    @classmethod
    def from_tfp(
        cls,
        joint_distribution: Any,
        *,
        plates: Mapping[str, Mapping[Any, int]],
        observations: Any = None,
    ) -> tuple[PlateGraph, Data]:
        """Reads a TFP joint distribution, for `pavi.fit` on either backend.

        Args:
            joint_distribution: a `tfd.JointDistribution`, pinned by `experimental_pin` or not.
            plates: for each plate the parts that lie in it, and which axis of their values it is:
                `{"school": {"theta": 0, "y": 0}}`. Parts go by name, or by their position.
            observations: values of the observed parts, where the joint distribution is not pinned.

        Returns:
            The graph, and its data: observed values, where NaN is a missing one, and the constants
            that lie on plates as covariates and memberships.

        Raises:
            GraphError: the model cannot be read; the message names the part and the remedy.
            BackendError: TFP is not installed.
        """
        read = _adapter("tfp", "portable").read_joint_distribution
        found = read(joint_distribution, plates=plates, observations=observations)
        return found.graph, found.data

    def to_tfp_joint_distribution(self, data: Data, dtype: str = "float32") -> Any:
        """The graph on data as a `tfd.JointDistribution` pinned at what is observed.

        Its `unnormalized_log_prob` is a target for TFP's samplers, and its `.distribution` the
        joint distribution without pins.

        Args:
            data: the observed values, covariates and memberships.
            dtype: floating dtype of the parts.

        Raises:
            DataError: the data do not fit the graph.
            BackendError: TFP is not installed.
        """
        return _adapter("tfp", "model").bound_joint_distribution(self, data, dtype)

    def to_numpyro_model(self, data: Data, dtype: str = "float32") -> Callable[[], None]:
        """The graph on data as a NumPyro model without arguments, for `NUTS` and `Predictive`.

        Args:
            data: the observed values, covariates and memberships.
            dtype: floating dtype of the data.

        Raises:
            DataError: the data do not fit the graph.
            BackendError: NumPyro is not installed.
        """
        model: Callable[[], None] = _adapter("numpyro", "model").bound_model(self, data, dtype)
        return model


def _adapter(backend: str, module: str) -> Any:
    """A module of a backend's adapter, once the backend is known to work here."""
    import_module("pavi.backends.base").get_adapter(backend)
    return import_module(f"pavi.backends.{backend}.{module}")
