"""The data sets that ready recipes train on: real ones that PyPI packages ship, and generated ones that say so."""
