"""The desired state as strict models: deployments, pipelines, conditions, signatures."""
