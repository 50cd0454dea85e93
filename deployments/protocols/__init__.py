"""Wire formats: the Open Inference Protocol (`oip`), its gRPC messages, and the task's own JSON (`predict`)."""
