"""Shoal's outside: settings, command line, lifecycle, jobs."""
