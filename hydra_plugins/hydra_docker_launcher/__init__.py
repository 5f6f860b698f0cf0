"""Hydra launcher plugin: every job of a sweep in a Docker container of its own."""

__version__ = "0.1.0"
