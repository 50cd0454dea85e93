"""The control application at `/`: catalog, health, OpenAPI, the stable address of each model, and gRPC's gateway."""
