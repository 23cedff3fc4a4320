"""The NumPyro adapter: programs on JAX, guides and models of NumPyro."""
