"""What things cost: each module prints ratios measured in one run."""
