"""Models: the catalogue, loading, the residual stream, the readout."""
