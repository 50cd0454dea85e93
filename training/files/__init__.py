"""Rows in files: found, cut into units, read, checked and divided; streamed to the workers by Ray Data.

Train walk: training.run -> [survey.py -> passes.py -> source.py -> formats.py -> columns.py] -> training.feed
"""
