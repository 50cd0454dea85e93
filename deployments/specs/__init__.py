"""The desired state as strict Pydantic classes: deployments, pipelines, conditions, signatures."""
