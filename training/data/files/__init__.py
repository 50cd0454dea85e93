"""Files: rows in Parquet, CSV, JSON Lines and image files, scanned once and then streamed by Ray Data.

`scan` is what other packages use; the other modules run in its tasks and import neither torch nor Ray.
"""
