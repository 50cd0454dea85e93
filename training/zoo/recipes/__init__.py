"""Ready recipes: each file binds one `recipe`, named as the file is, and imports neither torch nor its net."""
