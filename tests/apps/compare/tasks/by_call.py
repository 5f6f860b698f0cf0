"""Calls hydra.main from another file, with a task function that it has imported."""

from caller import start
from work import work

if __name__ == "__main__":
    start(work)
