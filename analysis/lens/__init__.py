"""The logit lens and its variants: states decoded to tokens."""
