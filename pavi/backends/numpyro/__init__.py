"""The NumPyro adapter: programs on JAX, guides and models of NumPyro."""

from pavi.backends.numpyro.autoguide import AutoPAVI

__all__ = ["AutoPAVI"]
