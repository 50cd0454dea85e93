"""Rows in files: scanned once, cut into units of work, read, checked, split, and streamed by Ray Data."""
