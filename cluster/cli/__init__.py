"""The `shoal` command: each verb parses, calls one function, prints."""
