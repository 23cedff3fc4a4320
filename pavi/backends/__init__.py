"""Backend adapters: the same plan on NumPyro and on TensorFlow Probability."""
