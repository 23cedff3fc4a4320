"""The TFP adapter: programs on TensorFlow, surrogates and joint distributions of TFP."""
