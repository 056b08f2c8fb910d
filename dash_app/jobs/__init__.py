"""Background callbacks: jobs, progress, errors."""
