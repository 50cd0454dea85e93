"""One training worker from start to finish: build, feed, step, synchronize, checkpoint, finalize."""
