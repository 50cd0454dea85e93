"""The bundle, the one contract between training and serving: written, sealed, verified, loaded."""
