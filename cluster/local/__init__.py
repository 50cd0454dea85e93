"""A cluster on this machine: up, join, down, its processes, ports, secrets and Ray's switches."""
