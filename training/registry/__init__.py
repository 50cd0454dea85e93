"""The registry, MLflow's: models, versions, aliases, runs, and where their artifacts are stored."""
