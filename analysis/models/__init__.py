"""Which models there are, how they are loaded, and what a loaded one offers."""
