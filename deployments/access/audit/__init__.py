"""Audit log: every change and every refusal, in rows that nobody can alter without being found."""
