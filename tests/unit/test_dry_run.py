"""Dry run: the ``docker run`` line that is equal to a plan."""

from __future__ import annotations

import shlex

from hydra_plugins.hydra_docker_launcher._dry_run import docker_run
from hydra_plugins.hydra_docker_launcher._engine import Boundary, ContainerSpec, Limits, Mount
from hydra_plugins.hydra_docker_launcher._option_values import Gpus, Restart, Ulimit

BARE = ContainerSpec(
    name="train-0",
    image="sha256:abc",
    command=("python3", "/hydra/worker.py"),
    working_dir="/work",
    limits=Limits(cpus=1.0, memory=1024, memory_swap=-1, shm_size=512, pids=-1),
    boundary=Boundary(user=None, init=False),
)


def test_bare():
    """What is not set is not on the line."""
    assert docker_run(BARE) == (
        "docker run --detach --name train-0 \\\n"
        "    --workdir /work \\\n"
        "    --cpus 1 \\\n"
        "    --memory 1024 \\\n"
        "    --memory-swap -1 \\\n"
        "    --shm-size 512 \\\n"
        "    --pids-limit -1 \\\n"
        "    --stop-timeout 10 \\\n"
        "    --restart no \\\n"
        "    --log-driver json-file \\\n"
        "    --log-opt max-file=5 \\\n"
        "    --log-opt max-size=10m \\\n"
        "    --entrypoint python3 \\\n"
        "    sha256:abc /hydra/worker.py"
    )


def test_full():
    """Everything that a specification can hold, each argument quoted for a shell."""
    spec = ContainerSpec(
        name="train-0",
        image="sha256:abc",
        command=("python3", "/hydra/worker.py", "a b"),
        working_dir="/my work",
        limits=Limits(
            cpus=1.5,
            memory=2048,
            memory_swap=4096,
            shm_size=1024,
            pids=100,
            ulimits=(Ulimit("nofile", 1024, 2048), Ulimit("core", 0, -1)),
        ),
        boundary=Boundary(
            user="1000:100",
            cap_add=("NET_ADMIN",),
            cap_drop=("ALL",),
            security_opt=("no-new-privileges:true", 'seccomp={"a": 1}'),
            read_only=True,
            tmpfs=(("/tmp", "size=64m"), ("/run", "")),
            devices=("/dev/null:/dev/null:rwm",),
            runtime="runsc",
            network_mode="none",
            extra_hosts=(("store", "::1"),),
            init=True,
        ),
        gpus=Gpus(ids=("GPU-1", "GPU-2")),
        environment=(("A", "1"), ("TEXT", "it's $HOME")),
        mounts=(
            Mount("/out/lr=1,b=2", "/out/lr=1,b=2"),
            Mount("/c.yaml", "/hydra/config.yaml", read_only=True),
            Mount("cache", "/cache", read_only=True, named=True),
        ),
        labels=(("hydra.docker.job", "0"),),
        restart=Restart("on-failure", 3),
        stop_grace_period=0.2,
    )

    assert docker_run(spec) == (
        "docker run --detach --name train-0 \\\n"
        "    --workdir '/my work' \\\n"
        "    --cpus 1.5 \\\n"
        "    --memory 2048 \\\n"
        "    --memory-swap 4096 \\\n"
        "    --shm-size 1024 \\\n"
        "    --pids-limit 100 \\\n"
        "    --ulimit nofile=1024:2048 \\\n"
        "    --ulimit core=0:-1 \\\n"
        "    --gpus '\"device=GPU-1,GPU-2\"' \\\n"
        "    --user 1000:100 \\\n"
        "    --runtime runsc \\\n"
        "    --network none \\\n"
        "    --cap-drop ALL \\\n"
        "    --cap-add NET_ADMIN \\\n"
        "    --security-opt no-new-privileges:true \\\n"
        "    --security-opt 'seccomp={\"a\": 1}' \\\n"
        "    --device /dev/null:/dev/null:rwm \\\n"
        "    --tmpfs /tmp:size=64m \\\n"
        "    --tmpfs /run \\\n"
        "    --add-host store:::1 \\\n"
        "    --read-only \\\n"
        "    --init \\\n"
        "    --stop-timeout 1 \\\n"
        "    --restart on-failure:3 \\\n"
        "    --log-driver json-file \\\n"
        "    --log-opt max-file=5 \\\n"
        "    --log-opt max-size=10m \\\n"
        "    --env A=1 \\\n"
        "    --env 'TEXT=it'\"'\"'s $HOME' \\\n"
        '    --mount \'type=bind,"source=/out/lr=1,b=2","target=/out/lr=1,b=2"\' \\\n'
        "    --mount type=bind,source=/c.yaml,target=/hydra/config.yaml,readonly \\\n"
        "    --mount type=volume,source=cache,target=/cache,readonly \\\n"
        "    --label hydra.docker.job=0 \\\n"
        "    --entrypoint python3 \\\n"
        "    sha256:abc /hydra/worker.py 'a b'"
    )
    assert "TEXT=it's $HOME" in shlex.split(docker_run(spec))


def test_gpus():
    """A number of GPUs, or all of them."""
    from dataclasses import replace

    assert "--gpus 2 " in docker_run(replace(BARE, gpus=Gpus(count=2)))
    assert "--gpus all " in docker_run(replace(BARE, gpus=Gpus(all=True)))
