"""Storage: the memo on disk, and a bounded cache in memory."""
