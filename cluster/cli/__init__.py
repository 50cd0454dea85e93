"""The `shoal` command: each command parses, calls one function, prints."""
