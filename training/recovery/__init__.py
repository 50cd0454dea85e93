"""What a run is brought back with when something dies: a worker, a machine, its driver, the store."""
