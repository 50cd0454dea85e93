"""Rows: loaded, cleaned, split without leaking, and turned into the tensors that a net takes."""
