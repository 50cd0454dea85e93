"""Access: who calls, what the caller may do, and the record of what was done."""
