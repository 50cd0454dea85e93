"""Ingress layers: each an ASGI application around another, each to be left out or replaced by itself."""
