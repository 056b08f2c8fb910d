"""What a spec, a result and a job are."""
