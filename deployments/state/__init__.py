"""The database of the desired state."""
