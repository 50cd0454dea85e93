"""Shoal's serving side: Serve applications, ingress layers, codec, batching and replicas."""
