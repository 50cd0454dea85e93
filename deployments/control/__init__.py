"""The control application at `/`: catalog, health, OpenAPI, /api/v1/models/NAME/predict, and the gRPC gateway."""
