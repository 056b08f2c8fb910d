"""Parts that all views share."""
