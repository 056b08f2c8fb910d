"""Specs, results, jobs, progress and choices: the base classes that everything else uses."""
