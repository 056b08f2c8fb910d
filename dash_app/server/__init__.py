"""Run the page: server, logs, health, metrics, commands."""
