"""The control application at `/`: catalog, health, OpenAPI, each model's stable address, and the gRPC gateway."""
