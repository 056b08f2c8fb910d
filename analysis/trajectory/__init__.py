"""A token's trajectory through the rows: when it emerges, and what makes it."""
