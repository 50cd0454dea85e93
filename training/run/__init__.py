"""The driver of a training run: preflight, Ray Train, progress, failures, publication.

Other packages use `train` and `run_training` (driver.py), `RunOptions` (options.py) and what shows a run to a person:
progress_display.py and profile_report.py. `python -m training.run` is a run as one job.
"""
