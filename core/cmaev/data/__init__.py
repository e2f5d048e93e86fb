"""The video path, from index to batches. Importing this package loads nothing heavy."""
