"""The HTTP server of a replica: its layers, its routes, and the same methods for Serve's handles."""
