"""Ctrl-C at the moments that matter, whenever a test wants it."""

from __future__ import annotations

import signal
import threading

from fakes import PATIENCE


class LockUnderCtrlC(threading.Condition):
    """Ctrl-C comes just as the main thread has the lock, or is about to give it back."""

    def __init__(self, moment=None):
        super().__init__()
        self.moment = moment

    def __enter__(self):
        got = super().__enter__()
        self.press("entered")
        return got

    def __exit__(self, *raised):
        self.press("left")
        super().__exit__(*raised)

    def press(self, moment):
        if moment == self.moment and threading.current_thread() is threading.main_thread():
            self.moment = None
            signal.raise_signal(signal.SIGINT)

    def is_free(self):
        """Tell whether another thread gets it."""
        free = []

        def take():
            if self.acquire(timeout=PATIENCE):
                free.append(True)
                self.release()

        other = threading.Thread(target=take)
        other.start()
        other.join()
        return free == [True]
