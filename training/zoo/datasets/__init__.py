"""Data sets of the ready recipes: real ones from files of PyPI packages, and synthetic ones, which are labeled so."""
