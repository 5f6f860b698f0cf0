"""Imported, so that there is a __pycache__ in the launch folder."""
