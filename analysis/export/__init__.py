"""Results to take away: tables, files, a summary for notebooks, recipes and scripts."""
