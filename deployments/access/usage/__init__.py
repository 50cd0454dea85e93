"""Usage: what each answered request came to, counted once: from a replica's outbox to the database and the bill."""
