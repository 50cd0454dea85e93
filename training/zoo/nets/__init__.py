"""Nets as in the papers that introduced them, one file each; a recipe names one as `training.zoo.nets.FILE:NAME`."""
