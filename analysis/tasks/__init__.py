"""Tasks: many prompts whose answers are known, and what a model does inside on all of them."""
