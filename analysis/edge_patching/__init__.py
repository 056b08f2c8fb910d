"""Edges between a model's components: their effects, circuits made of them, and faithfulness."""
