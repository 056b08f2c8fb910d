"""Train and evaluate learned lenses."""
