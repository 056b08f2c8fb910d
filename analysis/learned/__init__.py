"""Learned lenses: an affine translator for each row, trained so that the readout fits the model.

Source: Belrose et al. 2023, "Eliciting Latent Predictions from Transformers with the Tuned Lens",
arXiv 2303.08112.
"""
