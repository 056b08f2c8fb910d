"""A block's weights, the passes inside one block, and reports on both."""
