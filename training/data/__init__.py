"""Data: rows are loaded, cleaned, split without leaks, and encoded as the tensors that a net takes.

Imports nothing here, so that `image_types` stays light.
"""
