"""Ready recipes: each file binds one `recipe`, named like the file."""
