"""Pictures of results outside the page: for Python, notebooks and files."""
