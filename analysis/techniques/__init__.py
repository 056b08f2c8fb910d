"""One technique, one file: ``compute(model, trace, spec) -> Result``."""
