"""A replica's HTTP server: its layers, its routes, and the same API for calls through Serve handles."""
