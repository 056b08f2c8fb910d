"""Background jobs: the manager that Dash calls, progress in the page, and the views' callbacks."""
