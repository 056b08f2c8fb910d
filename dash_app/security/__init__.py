"""Access to the page: login, rate limits, request checks, and headers of responses."""
