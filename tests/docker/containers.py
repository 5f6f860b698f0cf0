"""Small containers that run a shell command, for the tests of the engine itself."""

from __future__ import annotations

from collections.abc import Callable

from hydra_plugins.hydra_docker_launcher._engine import Boundary, ContainerSpec, Limits

MEMORY = 64 * 1024**2
#: ``make_spec(command, name)``
MakeSpec = Callable[..., ContainerSpec]


def shell(image: str, command: str, mark: str, name: str) -> ContainerSpec:
    """Describe a container that runs a shell command, with the label ``mark``."""
    return ContainerSpec(
        name=name,
        image=image,
        command=("sh", "-c", command),
        working_dir="/",
        limits=Limits(cpus=1, memory=MEMORY, memory_swap=MEMORY, shm_size=MEMORY, pids=64),
        boundary=Boundary(user=None, network_mode="none"),
        labels=((mark, ""),),
    )
