"""Parts of the page as pure functions: values in, Dash components out."""
