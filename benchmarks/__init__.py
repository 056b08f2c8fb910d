"""Measurements of time and memory; each module compares what it measures in one run."""
