"""Recipes: what is trained, as a Pydantic class that refuses unknown keys.

Other packages use `Recipe` and its parts (spec.py), and `load_recipe`, `override_recipe` and `import_path` (load.py).
"""
