"""Reports on a model: embeddings, norms, similarities."""
