"""What one training worker does, from the recipe to the bundle; it begins at `loop.train_worker`.

The driver may use `loop`, with its strategies in `gradients` and `finalize`, `build`, `error_classification`,
`progress_channel`, `ray_internals`, and the names of a checkpoint's files and metrics.
"""
