"""The Open Inference Protocol over gRPC: a gateway in front of all models, on a port of its own."""
