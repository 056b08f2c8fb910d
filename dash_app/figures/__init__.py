"""Pure functions from results to plotly figures, as plain dicts. No dash, no input or output."""
