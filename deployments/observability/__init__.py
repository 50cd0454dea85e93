"""Observability: what the service tells of itself to Prometheus, OpenTelemetry and Grafana, and in its logs."""
