"""The page: a Dash app that knows results and figures, and never torch."""
