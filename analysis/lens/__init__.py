"""The logit lens and its variants: hidden states read as tokens."""
