"""What shall run, as closed models: deployments, pipelines, conditions, signatures."""
