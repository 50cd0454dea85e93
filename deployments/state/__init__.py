"""The database of what shall run."""
