"""One forward pass: capture, interventions, generation, heads, tokens."""
