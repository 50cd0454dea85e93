"""The model zoo: recipes that are ready to train, with their nets and data sets, one file each.

A new recipe is a file in recipes/ that binds `recipe` and names net (nets/) and data set (datasets/) by Python path,
without importing them; its minimum score and its classical baseline are in tests/benchmarks/.
"""
