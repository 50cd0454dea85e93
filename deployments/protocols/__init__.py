"""Bytes to tensors and back: the Open Inference Protocol, its gRPC form, and the task's own JSON (`predict`)."""
