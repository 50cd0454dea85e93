"""The Open Inference Protocol's gRPC messages, and their translation to the REST form."""
