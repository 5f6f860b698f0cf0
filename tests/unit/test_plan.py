"""Plan: options, commit, image and job become one frozen specification per container."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hydra_plugins.hydra_docker_launcher import _plan
from hydra_plugins.hydra_docker_launcher._engine import (
    Boundary,
    ContainerSpec,
    Host,
    Limits,
    Mount,
)
from hydra_plugins.hydra_docker_launcher._errors import OptionError
from hydra_plugins.hydra_docker_launcher._job import Job
from hydra_plugins.hydra_docker_launcher._options import (
    Gpus,
    JobOptions,
    Restart,
    Ulimit,
    Volume,
)
from hydra_plugins.hydra_docker_launcher._plan import Ground, Identity

GIB = 1024**3
COMMIT = "c" * 40
IMAGE = "sha256:" + "a" * 64
HOST = Host(name="box", engine="Docker 27", cpus=8, memory=32 * GIB)
IDENTITY = Identity(name="ann", uid=1000, gid=100, container="1000:100")
FOLDER = Path("/home/ann/project/multirun/2026-11-22/10-00-00")
GROUND = Ground(
    sweep="20261122-100000-abcdef",
    folder=FOLDER,
    working_dir=Path("/home/ann/project"),
    host=HOST,
    image=IMAGE,
    python="python3",
    commit=COMMIT,
    identity=IDENTITY,
    n_jobs=4,
)
JOB = Job(number=2, name="train", overrides=("lr=0.1",), output_dir=FOLDER / "2", plain={})
OPTIONS = JobOptions(
    cpus=2.0,
    mem_limit=None,
    memswap_limit=None,
    shm_size=None,
    pids_limit=4096,
    gpus=Gpus(),
    ulimits=(),
    cap_add=(),
    cap_drop=("ALL",),
    security_opt=("no-new-privileges:true",),
    read_only=False,
    tmpfs=(),
    devices=(),
    runtime=None,
    network_mode=None,
    extra_hosts=(),
    init=True,
    labels=(),
    volumes=(),
    data_check="warn",
    data_identity="stat",
    environment=(),
    timeout=None,
    stop_grace_period=10.0,
    restart=Restart(),
)
#: What the job cannot rename in its output folder.
GUARDS = (
    Mount(f"{FOLDER}/2/.docker", f"{FOLDER}/2/.docker"),
    *(
        Mount(f"{FOLDER}/2/.docker/{name}", f"{FOLDER}/2/.docker/{name}", read_only=True)
        for name in ("config.yaml", "job.pickle")
    ),
)

SPEC = ContainerSpec(
    name="train-10-00-00-2",
    image=IMAGE,
    command=("python3", "/hydra/worker.py"),
    working_dir="/home/ann/project",
    limits=Limits(
        cpus=2.0, memory=8 * GIB, memory_swap=8 * GIB, shm_size=8 * GIB, pids=4096, ulimits=()
    ),
    boundary=Boundary(
        user="1000:100",
        cap_add=(),
        cap_drop=("ALL",),
        security_opt=("no-new-privileges:true",),
        read_only=False,
        tmpfs=(),
        devices=(),
        runtime=None,
        network_mode=None,
        extra_hosts=(),
        init=True,
    ),
    gpus=Gpus(),
    environment=(
        ("PYTHONUNBUFFERED", "1"),
        ("HOME", "/hydra/home"),
        ("USER", "ann"),
        ("LOGNAME", "ann"),
    ),
    mounts=(
        Mount(f"{FOLDER}/2", f"{FOLDER}/2"),
        Mount(f"{FOLDER}/2/.docker/config.yaml", "/hydra/config.yaml", read_only=True),
        Mount(f"{FOLDER}/2/.docker/job.pickle", "/hydra/job.pickle", read_only=True),
        *GUARDS,
    ),
    labels=(
        ("hydra.docker.sweep", "20261122-100000-abcdef"),
        ("hydra.docker.commit", COMMIT),
        ("hydra.docker.user", "ann"),
        ("org.opencontainers.image.revision", COMMIT),
        ("hydra.docker.job", "2"),
        ("hydra.docker.folder", str(FOLDER)),
    ),
    restart=Restart("no"),
    stop_grace_period=10.0,
)


def planned(ground: Ground = GROUND, **options) -> ContainerSpec:
    return _plan.container(ground, JOB, replace(OPTIONS, **options))


def refusal(ground: Ground = GROUND, **options) -> str:
    with pytest.raises(OptionError) as caught:
        planned(ground, **options)
    return str(caught.value)


def test_plan():
    """Default options: a hardened container of the launching user, at the same paths."""
    assert planned() == SPEC


def test_plan_with_every_option():
    """Every option of a job stands in its specification."""
    spec = planned(
        cpus=0.5,
        mem_limit=2 * GIB,
        memswap_limit=-1,
        shm_size=GIB,
        pids_limit=-1,
        gpus=Gpus(count=1),
        ulimits=(Ulimit("nofile", 1024, 2048),),
        cap_add=("NET_ADMIN",),
        cap_drop=(),
        security_opt=(),
        read_only=True,
        tmpfs=(("/run", "size=1m"),),
        devices=("/dev/null:/dev/null:rwm",),
        runtime="runsc",
        network_mode="none",
        extra_hosts=(("store", "10.0.0.1"),),
        init=False,
        labels=(("team", "vision"),),
        volumes=(
            Volume("/data", "/data", read_only=True, named=False),
            Volume("cache", "/cache", read_only=False, named=True),
        ),
        environment=(("A", "1"), ("HOME", "/data/home")),
        timeout=60.0,
        stop_grace_period=1.5,
        restart=Restart("on-failure", 3),
    )

    assert spec == replace(
        SPEC,
        limits=Limits(
            cpus=0.5,
            memory=2 * GIB,
            memory_swap=-1,
            shm_size=GIB,
            pids=-1,
            ulimits=(Ulimit("nofile", 1024, 2048),),
        ),
        boundary=Boundary(
            user="1000:100",
            cap_add=("NET_ADMIN",),
            cap_drop=(),
            security_opt=(),
            read_only=True,
            tmpfs=(("/run", "size=1m"), ("/hydra/home", "mode=0700,uid=1000,gid=100")),
            devices=("/dev/null:/dev/null:rwm",),
            runtime="runsc",
            network_mode="none",
            extra_hosts=(("store", "10.0.0.1"),),
            init=False,
        ),
        gpus=Gpus(count=1),
        environment=(
            ("PYTHONUNBUFFERED", "1"),
            ("HOME", "/data/home"),
            ("USER", "ann"),
            ("LOGNAME", "ann"),
            ("A", "1"),
        ),
        mounts=(
            *SPEC.mounts[:3],
            Mount("/data", "/data", read_only=True),
            Mount("cache", "/cache", named=True),
            *GUARDS,
        ),
        labels=(("team", "vision"), *SPEC.labels),
        restart=Restart("on-failure", 3),
        stop_grace_period=1.5,
    )


def test_user_of_the_image():
    """The image's own user has a home and a name there; nothing is set."""
    ground = replace(GROUND, identity=replace(IDENTITY, container=None))

    spec = planned(ground, read_only=True)

    assert spec.boundary.user is None
    assert spec.boundary.tmpfs == ()
    assert spec.environment == (("PYTHONUNBUFFERED", "1"),)


def test_own_tmpfs_as_home():
    """A user's own tmpfs at the home stays as it is."""
    tmpfs = (("/hydra/home", "size=1g"),)
    assert planned(read_only=True, tmpfs=tmpfs).boundary.tmpfs == tmpfs


@pytest.mark.parametrize(
    ("user", "owner"), [("1000:100", (1000, 100)), ("1000", (1000, 0)), ("0:0", (0, 0))]
)
def test_owner(user, owner):
    """A uid alone has group 0, as Docker has it."""
    assert _plan.owner(user) == owner


# ---- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_jobs", "share"), [(1, 8 * GIB), (4, 8 * GIB), (5, 32 * GIB // 5)])
def test_share_of_memory(n_jobs, share):
    """Without a limit each of the jobs that have CPUs at once gets the same; swap is off."""
    limits = planned(replace(GROUND, n_jobs=n_jobs)).limits
    assert (limits.memory, limits.memory_swap, limits.shm_size) == (share, share, share)


def test_limits_follow_memory():
    """/dev/shm and swap follow a limit that is set."""
    limits = planned(mem_limit=GIB).limits
    assert (limits.memory, limits.memory_swap, limits.shm_size) == (GIB, GIB, GIB)


@pytest.mark.parametrize(
    ("n_jobs", "cpus", "at_once"),
    [(-1, 1.0, 8), (-1, 3.0, 2), (-1, 0.1, 80), (-1, 8.0, 1), (5, 8.0, 5), (1, 1.0, 8)],
)
def test_jobs_at_once(n_jobs, cpus, at_once):
    """Memory is shared by as many as have CPUs, whoever runs them, or by n_jobs if that is more."""
    assert _plan.jobs_at_once(n_jobs, cpus, HOST) == at_once


def test_limits_beyond_the_machine():
    """A limit that the engine's machine cannot give names the job, the limit and the machine."""
    assert refusal(cpus=8.5) == (
        "job #2 (lr=0.1): hydra.launcher.cpus=8.5 is more than box has: 8 CPUs"
    )
    assert refusal(mem_limit=64 * GIB) == (
        "job #2 (lr=0.1): hydra.launcher.mem_limit=64g is more than box has: 32g"
    )


@pytest.mark.parametrize("cpus", [0.1, 0.3, 1.0, 1.5, 3.0, 8.0])
@pytest.mark.parametrize("n_jobs", [-1, 1, 3, 100])
def test_default_shares_are_no_more_than_the_machine(cpus, n_jobs):
    """As many as have CPUs (and n_jobs allows) have no more memory than there is, all together."""
    limits = planned(replace(GROUND, n_jobs=n_jobs), cpus=cpus).limits
    at_once = int(HOST.cpus / cpus + 1e-9)
    assert limits.memory * at_once <= HOST.memory
    assert limits.cpus * at_once <= HOST.cpus + 1e-9


CANNOT = {
    "cpus": ("hydra.launcher.cpus=2", "cannot limit CPUs"),
    "memory": ("hydra.launcher.mem_limit=null", "cannot limit memory"),
    "pids": ("hydra.launcher.pids_limit=4096", "cannot limit processes"),
}


@pytest.mark.parametrize("kind", CANNOT)
def test_limits_that_the_engine_cannot_set(kind):
    """What the engine would leave out silently is refused, with what to do about it."""
    option, words = CANNOT[kind]
    host = replace(HOST, cannot_limit=(kind,), cgroup="2", rootless=True)
    assert refusal(replace(GROUND, host=host)) == (
        f"job #2 (lr=0.1): {option}: the engine on box ({host.engine}, cgroup v2) {words}.\n"
        "It runs without root's rights: that takes cgroup v2, and a cgroup that systemd delegates "
        "to its user (Delegate=cpu cpuset io memory pids)."
    )
    host = replace(HOST, cannot_limit=(kind,), warnings=("WARNING: No CPU cfs quota support",))
    said = refusal(replace(GROUND, host=host)).partition("\n")[2]
    assert said.startswith("It says: WARNING: No CPU cfs quota") == (kind == "cpus")


def test_swap_that_the_engine_cannot_limit():
    """Who asks for a limit of swap is refused; by default, containers can swap (and it is told)."""
    ground = replace(GROUND, host=replace(HOST, cannot_limit=("swap",)))
    assert planned(ground).limits.memory_swap == -1
    assert planned(ground, memswap_limit=-1).limits.memory_swap == -1
    assert "boot its kernel with swapaccount=1" in refusal(ground, memswap_limit=40 * GIB)


def test_pids_that_the_engine_cannot_limit():
    """-1 asks for no limit."""
    ground = replace(GROUND, host=replace(HOST, cannot_limit=("pids",)))
    assert planned(ground, pids_limit=-1).limits.pids == -1


def test_runtime():
    """A runtime that the engine has not got is refused before anything starts."""
    ground = replace(GROUND, host=replace(HOST, runtimes=("nvidia", "runc")))
    assert planned(ground, runtime="nvidia").boundary.runtime == "nvidia"
    assert planned(ground, runtime="io.containerd.kata.v2").boundary.runtime is not None
    assert refusal(ground, runtime="nvida") == (
        "job #2 (lr=0.1): hydra.launcher.runtime=nvida: box has no such runtime; valid is: nvidia, "
        "runc"
    )


def test_no_gpus_by_an_image():
    """Where NVIDIA's runtime starts all containers, one without GPUs sees none."""
    ground = replace(GROUND, host=replace(HOST, default_runtime="nvidia"))
    assert dict(planned(ground).environment)["NVIDIA_VISIBLE_DEVICES"] == "void"
    given = planned(ground, gpus=Gpus(count=1))
    assert "NVIDIA_VISIBLE_DEVICES" not in dict(given.environment)
    assert "NVIDIA_VISIBLE_DEVICES" not in dict(planned().environment)


def test_swap_below_memory():
    """memswap_limit is memory plus swap."""
    assert refusal(mem_limit=2 * GIB, memswap_limit=GIB) == (
        "job #2 (lr=0.1): hydra.launcher.memswap_limit=1g is memory plus swap, so it cannot be "
        "less than mem_limit=2g"
    )


def test_all_of_the_machine():
    """All that the machine has may be asked for."""
    limits = planned(cpus=8.0, mem_limit=32 * GIB).limits
    assert (limits.cpus, limits.memory) == (8.0, 32 * GIB)


# ---- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "sweep", "name"),
    [
        ("train", "10-00-00", "train-10-00-00-0"),
        ("my app", "lr=0.1,0.2", "my_app-lr_0.1_0.2-0"),
        ("öl", "x", "job_l-x-0"),
        ("-", "x", "job--x-0"),
    ],
)
def test_container_name(job, sweep, name):
    """Names read well in ``docker ps``, whatever characters job and folder have."""
    assert _plan.container_name(job, sweep, 0) == name


# ---- tracking ----------------------------------------------------------------------------------


def test_with_run():
    """A tracked job reaches its store and knows its run; the user's own variables win."""
    spec = replace(SPEC, environment=(("MLFLOW_RUN_ID", "mine"), ("A", "1")))
    store = Path("/home/ann/project/mlflow-store")
    volume = Path(SPEC.mounts[0].target)

    tracked = _plan.with_run(
        spec,
        "run1",
        (("MLFLOW_RUN_ID", "run1"), ("MLFLOW_TRACKING_URI", "sqlite:///x")),
        (store, volume),
    )

    assert tracked == replace(
        spec,
        environment=(
            ("MLFLOW_RUN_ID", "mine"),
            ("MLFLOW_TRACKING_URI", "sqlite:///x"),
            ("A", "1"),
        ),
        mounts=(*spec.mounts, Mount(str(store), str(store))),
        labels=(*spec.labels, ("hydra.docker.run_id", "run1")),
    )


def test_without_run():
    """A job that is not tracked is as planned."""
    assert _plan.with_run(SPEC, None, (("A", "1"),), (Path("/store"),)) is SPEC
