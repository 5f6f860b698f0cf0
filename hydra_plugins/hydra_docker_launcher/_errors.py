"""The errors of this project.

DockerLauncherError                 everything below; Hydra prints its message without a stack
├── OptionError                     a hydra.launcher option is unknown, malformed or impossible here
├── SourceError                     no repository, no such revision, uncommitted changes
├── DataError                       a volume's data is not what the commit pins
├── EngineError                     the engine does not answer or refused a request
│   └── ImageError                  an image is missing, cannot be pulled or cannot be built
├── TaskError                       the task function cannot travel into a container
├── TrackingError                   the tracking store cannot be used from here or from a container
├── SweepError                      a sweep cannot be taken up, or somebody looks after it already
├── ReproduceError                  a past run cannot be repeated from what is left of it
└── JobError                        one job did not complete; its message tells which and why

``CompactHydraException`` is what Hydra's command line shows as a message instead of a stack trace
(HYDRA_FULL_ERROR=1 shows the stack as well).
"""

from hydra.errors import CompactHydraException

from ._harmless import plain


class DockerLauncherError(CompactHydraException):
    """Root of all errors that this launcher raises.

    Much of what they say are words of containers, images, engines and other users' files, and who
    catches one prints it: nothing of it does anything to a terminal.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(plain(message))


class OptionError(DockerLauncherError):
    """A ``hydra.launcher`` option is unknown, malformed, or cannot be met on this machine."""


class SourceError(DockerLauncherError):
    """The code of the sweep cannot be pinned to a commit."""


class DataError(DockerLauncherError):
    """Data on disk is not what the commit pins, or cannot be compared with it."""


class EngineError(DockerLauncherError):
    """The container engine does not answer, or refused a request.

    ``transient``: the same request may be granted later. ``answered``: False where the connection
    failed, so that nobody knows whether the request was carried out.
    """

    def __init__(
        self, message: str = "", *, transient: bool = False, answered: bool = True
    ) -> None:
        super().__init__(message)
        self.transient = transient
        self.answered = answered


class ImageError(EngineError):
    """An image is missing, cannot be pulled, cannot be built, or lacks what a job needs."""


class TaskError(DockerLauncherError):
    """The task function cannot be taken into a container."""


class TrackingError(DockerLauncherError):
    """The tracking store cannot be used from here, or not from inside a container.

    ``transient``: asking again later may help (a server that is down, a locked database).
    ``gone``: what it is about is no more, and nothing brings it back.
    """

    def __init__(self, message: str, *, transient: bool = False, gone: bool = False) -> None:
        super().__init__(message)
        self.transient = transient
        self.gone = gone


class SweepError(DockerLauncherError):
    """A sweep that is not over cannot be taken up, or another process looks after it."""


class ReproduceError(DockerLauncherError):
    """A past run cannot be repeated: what is missing, and where it could come from."""


class JobError(DockerLauncherError):
    """A job did not complete: which one, why, where its log is, and what to do next."""
