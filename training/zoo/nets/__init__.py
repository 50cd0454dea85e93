"""Nets in the form that the literature gives them, one file each."""
