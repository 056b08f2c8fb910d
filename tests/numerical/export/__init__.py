"""Results as tables, files, summaries, recipes and scripts."""
