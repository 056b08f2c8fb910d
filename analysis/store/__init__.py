"""Storage: the memo on disk, and an LRU cache in memory."""
