"""Running the page: request ids, logs, health checks, metrics, the memo's upkeep."""
