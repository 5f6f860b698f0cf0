"""The options of ``hydra/launcher=docker``: names, defaults, and what each one means.

Where an option exists in the Compose specification, its name and format are the ones there.
This module is imported whenever any Hydra app starts, so it imports nothing heavy. Hydra executes
it before it is in ``sys.modules``, where ``dataclasses`` look up annotations that are strings:
hence no ``from __future__ import annotations`` here.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from hydra.core.config_store import ConfigNode, ConfigStore
from omegaconf import DictConfig, OmegaConf


@dataclass
class BuildConf:
    """How to build the image, always from the pinned commit (Compose: ``build``)."""

    # Folder of the repository that is sent to the builder, relative to the repository's root.
    # null: the root if `dockerfile` is given, else the folder of the Dockerfile that is nearest to
    # the script (its own folder, then the parents up to the root).
    context: Optional[str] = None

    # The Dockerfile, relative to `context`. null: Dockerfile
    dockerfile: Optional[str] = None

    # The stage of a multi-stage Dockerfile to build. null: the last one
    target: Optional[str] = None

    # Build arguments. A name with a null value takes the value of the host's environment.
    # Not for secrets: an image's history shows them to everybody.
    args: Dict[str, Any] = field(default_factory=dict)

    # Network of the RUN instructions: default, host, none, or a network's name.
    network: Optional[str] = None

    # Where the commit has no Dockerfile, one is made from the requirements file nearest to the
    # script: uv.lock, poetry.lock, pylock.toml, requirements.lock, requirements.txt, or the
    # dependencies of pyproject.toml. This is the image that it starts from.
    # null: python:3.11-slim, with the minor version of the Python that launches
    base: Optional[str] = None


@dataclass
class CloneConf:
    """What a container may show to the remote (`delivery: clone`).

    It gets there as files that only the job's user can read, under /hydra/secrets, and these are
    removed when the job has ended. They are in no variable, no image and no log.
    """

    # Private key file on this host, without a passphrase, for a remote that is reached by ssh
    # (a deploy key that may only read is enough).
    ssh_key: Optional[str] = None

    # File with the keys of known ssh servers. null: ~/.ssh/known_hosts
    known_hosts: Optional[str] = None

    # Name of the variable of this host's environment that holds a token or password, for a remote
    # that is reached by https. (A password in the remote's URL in .git/config is used as well.)
    token: Optional[str] = None


@dataclass
class MlflowConf:
    """What is recorded in MLflow."""

    # false: nothing is recorded, and MLflow is not imported.
    enabled: bool = True

    # null: MLFLOW_TRACKING_URI, else MLflow's own default in the launch folder (mlflow.db).
    tracking_uri: Optional[str] = None

    # null: the job's name (hydra.job.name)
    experiment_name: Optional[str] = None

    # Name of the sweep's run; its jobs' runs are called after their overrides.
    # null: the name of the sweep's folder
    run_name: Optional[str] = None

    # Tags for the sweep's run and for every job's run.
    tags: Dict[str, Any] = field(default_factory=dict)


@dataclass
class RetriesConf:
    """How often a job that did not complete is run again, in the same output folder.

    Each cause has a number of its own. A job that somebody stopped is never run again.
    """

    # After it was out of memory.
    oom: int = 0

    # After it could not be started, or was lost (the engine's fault, not the job's).
    infra: int = 0

    # After its task function raised an exception, or its process ended without a result.
    error: int = 0

    # After timeout_min. SIGTERM and stop_grace_period are its time to write a checkpoint.
    timeout: int = 0

    # Time before the second attempt: 5s, 1m30s, or seconds. Doubled for each further one, up to 5m.
    backoff: str = "5s"

    # mem_limit is multiplied by this after each attempt that was out of memory, up to what the
    # engine's machine has (memswap_limit and shm_size too, where they are as mem_limit).
    mem_factor: float = 1.0


@dataclass
class LoggingConf:
    # The engine's logging driver: json-file, local or journald. From those the launcher can read
    # what it has missed, should it be killed.
    driver: str = "json-file"

    # Options of the driver. With json-file and local, unless they say otherwise: {max-size: 10m,
    # max-file: 5}, so that the engine keeps no more than that of each container.
    options: Dict[str, Any] = field(default_factory=dict)


@dataclass
class DockerLauncherConf:
    _target_: str = "hydra_plugins.hydra_docker_launcher.docker_launcher.DockerLauncher"

    # ---- What runs -------------------------------------------------------------------------------

    # Image to run: a name, name:tag, name@sha256:… or an id. Resolved to an id once per sweep.
    # null: built as `build` says, or from the Dockerfile that is nearest to the script.
    image: Optional[str] = None

    build: BuildConf = field(default_factory=BuildConf)

    # When to pull `image` (or the base image of a build): always, missing, never.
    pull_policy: str = "missing"

    # Repository to push the image to, once, before the jobs: team/train, host:port/team/train. Its
    # tag is a hash of what it was built from; where the registry has it, it is pulled, not built.
    # null: it stays on this engine, and only this engine can run it again.
    push: Optional[str] = None

    # Any git revision: a branch, a tag, a commit, HEAD~2 (which Hydra's command line wants quoted:
    # "hydra.launcher.commit='HEAD~2'").
    commit: str = "HEAD"

    # Uncommitted changes. error: refuse to start. ignore: run the commit without them, and say so.
    # snapshot: run them, as a commit of the working tree (all that .gitignore does not name) that
    # only a hidden ref leads to: branch, index, stash and files stay as they are.
    # What counts: anything that would change the code. Not config YAML, not output folders.
    dirty: str = "error"

    # The largest untracked file that a snapshot takes: 10m, 1g, or bytes. Larger ones are refused
    # by name.
    snapshot_limit: str = "10m"

    # How the commit's files get in. copy: as one layer on top of the image, made for this sweep.
    # image: as one image per commit with the files in it, which stays and is used again.
    # clone: each container clones `remote` at the commit; that needs git in the image.
    delivery: str = "copy"

    # For delivery=clone: the name of a remote, or a URL.
    remote: str = "origin"

    clone: CloneConf = field(default_factory=CloneConf)

    # ---- Limits of each container ----------------------------------------------------------------

    # CPUs, as a decimal number.
    cpus: float = 1.0

    # Memory: 512m, 2g, 1.5g, or bytes. null: an equal share of the engine's memory for each of the
    # jobs that can run at once.
    mem_limit: Optional[str] = None

    # Memory plus swap. null: as mem_limit, so the container cannot swap. -1: unlimited swap.
    memswap_limit: Optional[str] = None

    # Size of /dev/shm, which data loaders use (it counts as memory). null: as mem_limit.
    shm_size: Optional[str] = None

    # Processes and threads. -1: unlimited
    pids_limit: int = 4096

    # GPUs: a number, all, or a list of device ids ([0,2] or [GPU-…]).
    gpus: Any = 0

    # true: the job shares its GPUs with other jobs that say so too. false: it has them alone.
    gpu_share: bool = False

    # {nofile: 65536} or {nofile: {soft: 1024, hard: 65536}}
    ulimits: Dict[str, Any] = field(default_factory=dict)

    # ---- Boundary of each container --------------------------------------------------------------

    # host: the launching user's uid and gid, with a HOME and a USER. image: what the image says.
    # Otherwise uid or uid:gid.
    user: str = "host"

    # Capabilities to add and to drop.
    cap_add: List[str] = field(default_factory=list)
    cap_drop: List[str] = field(default_factory=lambda: ["ALL"])

    # no-new-privileges:true, seccomp=…, apparmor=…, label=…
    security_opt: List[str] = field(default_factory=lambda: ["no-new-privileges:true"])

    # true: the container's own file system cannot be written to (volumes, tmpfs and the output
    # folder can).
    read_only: bool = False

    # Memory file systems: a list of `path` or `path:options`, for example [/tmp:size=64m].
    tmpfs: List[str] = field(default_factory=list)

    # Devices: host_path[:container_path[:rwm]]
    devices: List[str] = field(default_factory=list)

    # The OCI runtime, for example nvidia or runsc. null: the engine's default
    runtime: Optional[str] = None

    # bridge, host, none, container:…, or the name of a network, which must exist.
    # null: the engine's default
    network_mode: Optional[str] = None

    # name:address, for /etc/hosts. host-gateway as an address means the host.
    extra_hosts: List[str] = field(default_factory=list)

    # true: an init process forwards signals and reaps zombies.
    init: bool = True

    # Labels for the containers, beside the launcher's own (hydra.docker.*).
    labels: Dict[str, Any] = field(default_factory=dict)

    # ---- Data and environment --------------------------------------------------------------------

    # source:target[:ro]. A source with a slash is a folder or file of the host (relative to the
    # launch folder), which must exist; one without is a named volume, which must exist too.
    volumes: List[str] = field(default_factory=list)

    # Volumes that a DVC file of the commit (*.dvc, dvc.lock) tracks: compare what is on disk with
    # what the commit pins, before the first job. warn: say what differs. error: refuse to start.
    # off: only record what the commit pins. Comparing needs DVC (hydra-docker-launcher[dvc]).
    data_check: str = "warn"

    # How a volume that no DVC file tracks is identified in the record. stat: by names, sizes and
    # times of its files. content: by their content, which is all read. none: not at all.
    data_identity: str = "stat"

    # {NAME: value}, or a list of NAME=value. A name without a value passes the host's value in.
    # (null is none; as a default it lets a config say either form.)
    environment: Any = None

    # A file of NAME=value lines, or a list of them. `environment` wins. What is in there, and
    # variables with names of secrets, reach the job by a file that is gone when the job is.
    env_file: Any = None

    # Globs of further config keys (db.*_pin) and variables whose values are written down nowhere,
    # beside the usual names (*password*, *secret*, *token*, *api_key*, … of docs/security.md).
    # `!model.tokens` is none.
    redact: List[str] = field(default_factory=list)

    # ---- How the sweep runs ----------------------------------------------------------------------

    # Containers at once, at most. -1: as many as fit by cpus, mem_limit and gpus
    n_jobs: int = -1

    # Beside what a job must fit. engine: all that runs on the engine, of everybody, and whoever
    # waits longer: CPUs, memory and GPUs are never promised twice. sweep: this sweep's jobs only,
    # and with n_jobs given not even those, but for GPUs; what others run is not looked at.
    admission: str = "engine"

    # A job that runs longer is stopped, and has failed. null: no limit
    timeout_min: Optional[float] = None

    # Time between SIGTERM and SIGKILL when a job is stopped: 10s, 1m30s, or seconds. The engine
    # counts whole seconds: 500ms is one.
    stop_grace_period: str = "10s"

    # Docker's restart policies: no, on-failure[:times], unless-stopped, always. With the last two a
    # job goes on by itself after a power cut; one that has returned or raised is not run again.
    # Where no number is given, one that dies by itself (out of memory, a signal) is started again 3
    # times: its end then counts for retries.
    restart: str = "no"

    # A job that did not complete is run again by cause: retries.oom, .infra, .error and .timeout.
    # HYDRA_DOCKER_ATTEMPT tells it which attempt it is.
    retries: RetriesConf = field(default_factory=RetriesConf)

    # true: the first job that does not complete stops the sweep.
    fail_fast: bool = False

    # true: the same command with the same hydra.sweep.dir runs what is missing of its sweep: jobs
    # that completed give the result that they had, running ones are watched, failed ones run again.
    resume: bool = False

    # true: the sweep runs in the background, and the command returns at once.
    detach: bool = False

    # At Ctrl-C, SIGTERM, SIGHUP (a terminal that closes). stop: the jobs are stopped. detach: the
    # sweep goes on in the background.
    on_interrupt: str = "stop"

    # true: print what would run, and start nothing.
    dry_run: bool = False

    # Containers that stay after their job: none, failed (but not those that were stopped), all.
    keep: str = "failed"

    # Files that a job wrote in its container and in no mount, which go with the container. warn:
    # name them. collect: copy them to the output folder, below stray/. error: the job has not
    # completed. ignore: do not look. Caches and /tmp do not count.
    stray: str = "warn"

    # For stray=collect: the most that is copied of one job. Files that would be beyond are left.
    stray_limit: str = "1g"

    # true: what each job really uses of CPUs, memory, processes, disk, network and GPUs is measured
    # from outside its container, and recorded: in sweep.json, and as system metrics in MLflow.
    system_metrics: bool = True
    # What the engine keeps of a container's output, as in Compose.
    logging: LoggingConf = field(default_factory=LoggingConf)

    # The most that container.log may have, of all attempts of a job: 100m, 1g, or bytes. What is
    # printed beyond is left out, but for the last lines. null: no limit
    log_limit: Optional[str] = "1g"

    mlflow: MlflowConf = field(default_factory=MlflowConf)


def _open_schema() -> DictConfig:
    """Return the schema with struct=False.

    That lets Hydra hand a misspelt name to the launcher, which says what was meant; Hydra by itself
    would only say that the key is not in the struct. It also spares the user the `+` of
    `+hydra.launcher.environment.NAME=value`.
    """
    schema: DictConfig = OmegaConf.structured(DockerLauncherConf)
    for node in (schema, schema.build, schema.clone, schema.retries, schema.logging, schema.mlflow):
        OmegaConf.set_struct(node, False)
    return schema


class _Entry(ConfigNode):
    """The entry of this launcher in Hydra's config store, made when somebody selects it.

    `app.py --help` copies the whole store for every config group there is; with an ordinary entry
    of this size, it would take a fifth longer in every Hydra app on the machine.
    """

    def __init__(self) -> None:
        self.name = "docker.yaml"
        self.group = "hydra/launcher"
        self.package = None
        self.provider = "docker_launcher"

    def __getattr__(self, name: str) -> DictConfig:
        if name != "node":
            raise AttributeError(name)
        self.node = _open_schema()
        return self.node

    def __deepcopy__(self, memo: Dict[int, Any]) -> "_Entry":
        return self  # nobody changes an entry: Hydra copies `node` before it hands it out


_groups = ConfigStore.instance().repo.setdefault("hydra", {})
_groups.setdefault("launcher", {})["docker.yaml"] = _Entry()
