"""Brings Ray Serve to the desired state: deploy, undeploy, reconcile."""
