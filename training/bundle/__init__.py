"""The bundle: the one contract between training and serving, and the only thing that a replica loads.

Other packages use `save_bundle` (save.py), `verify_bundle` (verify.py), `load_bundle` (load.py), the manifest's classes
(manifest.py) and the table of tensor datatypes (datatypes.py). The reader of model.pt2 is in program/.
"""
