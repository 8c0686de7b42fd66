"""Speech and text emotion recognition in JAX."""
