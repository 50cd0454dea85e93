"""The JSON form of each task: requests of rows, responses of predictions, and events of a stream."""
