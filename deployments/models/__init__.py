"""Models as replicas serve them: bundle, variant, batching, generation."""
