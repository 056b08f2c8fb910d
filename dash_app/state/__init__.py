"""The selection: its model, its encoding in the address and the stores, and its one writer."""
