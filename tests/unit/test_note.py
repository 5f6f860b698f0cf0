"""Note: image, commit and config of a run, and two ways to run it again."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from past import COMMIT, IMAGE, OPTIONS, ROOT, a_past_job, a_record

from hydra_plugins.hydra_docker_launcher._engine import Image
from hydra_plugins.hydra_docker_launcher._note import config, note
from hydra_plugins.hydra_docker_launcher._source import Source
from hydra_plugins.hydra_docker_launcher._task import Task

DIGEST = f"registry/train@sha256:{'2' * 64}"


def of(**changes):
    return note(a_past_job(record=a_record(**changes)), "config-aaaaaaaa.yaml")


def docker_line(**options):
    """Return the options of ``docker run``, one in each line."""
    text = of(options={**OPTIONS, **options})
    return [line.strip().removesuffix(" \\") for line in text.splitlines()[11:]]


def test_whole():
    """What is in no registry is named by its id, a repository without remote by its path."""
    assert (
        of()
        == f"""\
image:  {IMAGE.id}  (train:1; in no registry)
commit: {COMMIT}  (/home/ada/project)
config: config-aaaaaaaa.yaml

# with hydra-docker-launcher, in a clone of the repository
hydra-docker reproduce --image {IMAGE.id} --commit {COMMIT} --config config-aaaaaaaa.yaml \
--script train.py

# with git and docker alone, in an empty folder that has the config
git clone /home/ada/project code
git -C code checkout {COMMIT}
mkdir outputs
docker run --rm --workdir /home/ada/project \\
    --init \\
    --cap-drop ALL \\
    --cpus 1.5 --pids-limit 4096 \\
    --memory 2g --memory-swap 2g --shm-size 1g \\
    --volume "$PWD/code":/home/ada/project \\
    --volume "$PWD"/config-aaaaaaaa.yaml:/hydra/config-aaaaaaaa.yaml:ro \\
    --volume "$PWD/outputs":/outputs \\
    --entrypoint python3 {IMAGE.id} /home/ada/project/train.py --config-path /hydra \
--config-name config-aaaaaaaa.yaml hydra.run.dir=/outputs"""
    )


def test_digest_and_remote():
    """A digest says all of the image, a remote where the commit is."""
    source = Source(ROOT, COMMIT, "main", "https://host/ada/project")
    lines = of(image=Image(IMAGE.id, "train:1", DIGEST), source=source).splitlines()
    assert lines[:2] == [f"image:  {DIGEST}", f"commit: {COMMIT}  (https://host/ada/project)"]
    assert lines[8] == "git clone https://host/ada/project code"
    assert f" {DIGEST} " in lines[-1]


def test_snapshot():
    """No clone has a snapshot: git makes it of parent and patch, this project of the run."""
    source = Source(ROOT, COMMIT, "main", "https://host/project", parent="b" * 40)
    job = a_past_job(record=a_record(source=source))
    lines = note(job, "config.yaml", "changes.patch").splitlines()
    assert lines[1] == f"commit: {COMMIT}  (changes.patch on bbbbbbbbbbbb; https://host/project)"
    assert lines[4:12] == [
        "# with hydra-docker-launcher, from the run",
        f"hydra-docker reproduce {'a' * 32}",
        "",
        "# with git and docker alone, in an empty folder that has the config and the patch",
        "git clone https://host/project code",
        f"git -C code checkout {'b' * 40}",
        "git -C code apply --index ../changes.patch",
        "mkdir outputs",
    ]


def test_module():
    """What ran as ``python -m`` does so again, with its modules where they were."""
    path = (str(ROOT), str(ROOT / "src"))
    text = of(task=Task("module", "tools.train", ("x",), path))
    assert text.splitlines()[5].endswith(" --config config-aaaaaaaa.yaml --module tools.train")
    assert "    --env PYTHONPATH=/home/ada/project/src \\\n" in text
    assert f"--entrypoint python3 {IMAGE.id} -m tools.train --config-path" in text


@pytest.mark.parametrize("kind", ["function", "value"])
def test_no_script(kind):
    """A function of no script can only be had from its run."""
    assert of(script=None, task=Task(kind, "train:main", (), ())).splitlines()[3:] == [
        "",
        "# train:main was in no script: only its run can be run again",
        f"hydra-docker reproduce {'a' * 32}",
    ]


def test_options():
    """What a container may, has and sees is as it was; a size that is not even is in bytes."""
    lines = docker_line(
        user="host",
        init=False,
        read_only=True,
        mem_limit=12638255104,
        memswap_limit=-1,
        gpus=["0", "GPU-1"],
        network_mode="host",
        devices=["/dev/kvm"],
        security_opt=["no-new-privileges:true"],
        volumes=["/my data:/data:ro", "../raw:/raw", "raw/x:/x", "cache:/c"],
        tmpfs=["/tmp:size=64m"],
        env_file=["my.env", "/etc/env"],
    )
    assert lines[1:15] == [
        '--user "$(id -u):$(id -g)" --env HOME=/tmp --env USER="$(id -un)"',
        "--read-only",
        "--cap-drop ALL",
        "--security-opt no-new-privileges:true",
        "--device /dev/kvm",
        "--tmpfs /tmp:size=64m",
        "--network host",
        "--cpus 1.5 --pids-limit 4096",
        "--memory 12638255104 --memory-swap -1 --shm-size 1g",
        "--gpus '\"device=0,GPU-1\"'",
        "--env-file /home/ada/project/my.env",
        "--env-file /etc/env",
        '--volume "$PWD/code":/home/ada/project',
        '--volume "$PWD"/config-aaaaaaaa.yaml:/hydra/config-aaaaaaaa.yaml:ro',
    ]
    assert lines[16] == "--volume '/my data:/data:ro'"
    assert lines[17:20] == [
        "--volume /home/ada/project/../raw:/raw",
        "--volume /home/ada/project/raw/x:/x",
        "--volume cache:/c",
    ]
    assert "--gpus all" in docker_line(gpus="all")
    assert "--user 1:2" in docker_line(user="1:2")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"A": 1, "B": "x y", "FLAG": True}, ["A=1", "'B=x y'", "FLAG=true"]),
        ({"A": None}, ["A"]),
        (["A=1", "B"], ["A=1", "B"]),
        ({"A": "${oc.env:TOKEN}"}, ['A="${TOKEN:?}"']),
        ({"A": "is ${oc.env:X,a $b}!"}, ["'A=is '\"${X:-a \\$b}\"'!'"]),
    ],
)
def test_environment(environment, words):
    """A value stands as it is; what came from the host of then comes from the host of now."""
    lines = docker_line(environment=environment)
    assert [line for line in lines if line.startswith("--env ")] == [f"--env {w}" for w in words]


def test_words_for_the_shell():
    """The shell reads what was meant."""
    (line,) = (
        line
        for line in docker_line(environment={"A": "'q' ${oc.env:X,`a` \"$b\" \\c} ${oc.env:Y}"})
        if line.startswith("--env ")
    )
    script = f"printf %s {line.removeprefix('--env ')}"
    done = subprocess.run(
        ("bash", "-c", script), env={"Y": "y $y"}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "A='q' `a` \"$b\" \\c y $y"


def test_odd_names():
    """Paths with spaces are quoted."""
    root = Path("/home/ada/my project")
    source = Source(root, COMMIT, None, None)
    record = a_record(
        source=source,
        script=root / "the train.py",
        task=Task("script", f"{root}/the train.py", (), (str(root),)),
        working_dir=root,
    )
    lines = note(a_past_job(record=record), "a config.yaml").splitlines()
    assert lines[5].endswith(" --config 'a config.yaml' --script 'the train.py'")
    assert lines[8] == "git clone '/home/ada/my project' code"
    assert lines[11] == "docker run --rm --workdir '/home/ada/my project' \\"
    assert "    --volume \"$PWD\"/'a config.yaml':'/hydra/a config.yaml':ro \\" in lines
    assert lines[-1].startswith(f"    --entrypoint python3 {IMAGE.id} '/home/ada/my project/the tr")


def test_config():
    """The config is YAML, as the run has it."""
    job = replace(a_past_job(), plain={"lr": 0.1, "later": "???", "text": "\\${x}"})
    assert config(job) == "lr: 0.1\nlater: ???\ntext: \\${x}\n"
