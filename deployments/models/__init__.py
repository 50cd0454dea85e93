"""Model replicas: a verified bundle, its variant, batching, text generation."""
