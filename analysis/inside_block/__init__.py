"""One block at one position, opened: from the state that comes in to the one that goes out."""
