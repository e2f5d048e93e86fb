"""The training engine: one loop, and what it needs around it."""
