"""Experiments on two prompts: their alignment, and patching sweeps from one to the other."""
