"""The Open Inference Protocol's gRPC messages, and their translation to and from its REST form."""
