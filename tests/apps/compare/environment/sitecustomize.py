"""Stands for `pip install --editable` of the toy repository: a finder, and nothing on sys.path.

This folder is outside of the repository and not in the image, as an environment's site-packages.
"""

import os
import sys
from importlib.machinery import PathFinder


class EditableFinder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in ("package", "conf", "dump") and "EDITABLE" in os.environ:
            return PathFinder.find_spec(name, [os.environ["EDITABLE"]])
        return None


sys.meta_path.insert(0, EditableFinder)
