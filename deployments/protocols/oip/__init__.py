"""The Open Inference Protocol v2 in JSON and in the binary tensor extension."""
