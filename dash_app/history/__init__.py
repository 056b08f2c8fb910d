"""What users keep on the server: the list of their runs, and collections of views."""
