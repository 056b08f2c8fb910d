"""What is selected: one model for the address, the stores and every view."""
