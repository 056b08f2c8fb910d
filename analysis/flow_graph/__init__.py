"""The flow graph: where a state comes from, and whether the picture tells the truth."""
