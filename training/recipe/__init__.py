"""Recipes: what is trained, as a closed model.

Other packages use `Recipe` and its parts (spec.py), and `load_recipe`, `override_recipe` and `import_path` (load.py).
"""
