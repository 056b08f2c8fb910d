"""Who may use the page, how much of it, and what a browser may do with its answers."""
