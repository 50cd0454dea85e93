"""Shoal's training side: data, nets, the Ray Train loop, bundles and the registry."""
