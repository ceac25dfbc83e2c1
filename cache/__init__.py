"""What a cached row is, and how it stays safe: seeds, samplers, and the store of rows."""
