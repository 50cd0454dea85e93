"""From what shall run to what runs: deploy, undeploy, reconcile with Ray Serve."""
