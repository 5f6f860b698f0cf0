"""Preflight: what one short container tells about an image, before job 0."""

from __future__ import annotations

import json
import os
import platform

import hydra
import omegaconf
import pytest
from fakes import FakeEngine

from hydra_plugins.hydra_docker_launcher._engine import Boundary, ContainerSpec, Image, Limits
from hydra_plugins.hydra_docker_launcher._errors import EngineError, ImageError, OptionError
from hydra_plugins.hydra_docker_launcher._option_values import NO_GPUS, Gpus
from hydra_plugins.hydra_docker_launcher._preflight import (
    QUESTIONS,
    Facts,
    check_function_by_value,
    check_gpus,
    check_user,
    check_versions,
    inspect_image,
)

MIB = 1024**2
IMAGE = Image("sha256:" + "1" * 64, "train:1")
NO_PYTHON = EngineError('exec: "python3": executable file not found in $PATH')
FACTS = Facts(
    executable="python3",
    python="3.11.2",
    hydra=hydra.__version__,
    omegaconf=omegaconf.__version__,
    uid=1000,
    gid=100,
    packages=("hydra-core==1.3.8", "omegaconf==2.3.0"),
    gpus=(),
    system="Debian GNU/Linux 12 (bookworm)",
    libc="glibc-2.36",
)


def said(**values):
    """Return what the container prints, but for ``values``."""
    content = {
        "python": "3.11.2",
        "uid": 1000,
        "gid": 100,
        "hydra": hydra.__version__,
        "omegaconf": omegaconf.__version__,
        "packages": list(FACTS.packages),
        "gpus": [],
        "system": FACTS.system,
        "libc": FACTS.libc,
    }
    return 0, f"a warning of the image\n@facts@{json.dumps({**content, **values})}"


@pytest.fixture
def engine():
    return FakeEngine(answer=lambda spec: said())


@pytest.fixture
def inspect(engine, tmp_path):
    def ask(user="1000:100", *, gpus=False, runtime=None):
        cache = tmp_path / "cache"
        return inspect_image(engine, IMAGE, user=user, gpus=gpus, runtime=runtime, cache=cache)

    return ask


def refusal(inspect, kind=ImageError, **options):
    with pytest.raises(kind) as caught:
        inspect(**options)
    return str(caught.value)


def test_facts(engine, inspect):
    """The image is asked by its own Python, as the jobs' user, hardened and without a network."""
    assert inspect(runtime="runsc") == FACTS
    assert engine.probes == [
        ContainerSpec(
            name=f"hydra-docker-preflight-{os.getpid()}",
            image=IMAGE.id,
            command=("python3", "-c", QUESTIONS),
            working_dir="/",
            limits=Limits(1, 512 * MIB, 512 * MIB, 512 * MIB, 256),
            boundary=Boundary(
                user="1000:100",
                cap_drop=("ALL",),
                security_opt=("no-new-privileges:true",),
                network_mode="none",
                runtime="runsc",
                init=False,
            ),
            gpus=NO_GPUS,
            environment=(("HOME", "/"), ("PYTHONDONTWRITEBYTECODE", "1")),
        )
    ]


def test_questions(capsys):
    """The questions are a program that any Python can run: here, this one."""
    exec(compile(QUESTIONS, "<questions>", "exec"), {})

    facts = json.loads(capsys.readouterr().out.rpartition("\n@facts@")[2])
    assert facts["python"] == platform.python_version().rstrip("+")
    assert (facts["hydra"], facts["omegaconf"]) == (hydra.__version__, omegaconf.__version__)
    assert f"hydra-core=={hydra.__version__}" in facts["packages"]
    assert (facts["uid"], facts["gid"]) == (os.getuid(), os.getgid())
    assert facts["libc"] == "-".join(platform.libc_ver())
    assert facts["system"] == platform.freedesktop_os_release()["PRETTY_NAME"]


def test_questions_about_gpus(capsys, tmp_path, monkeypatch):
    """What nvidia-smi says of each GPU: its id, its model, and the driver of all."""
    command = tmp_path / "nvidia-smi"
    command.write_text(
        '#!/bin/sh\ntest "$1" = --query-gpu=uuid,name,driver_version || exit 1\n'
        "echo 'GPU-1, NVIDIA A100-SXM4-40GB, 550.54'\necho 'GPU-2, Tesla T4, 550.54'\n"
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    exec(compile(QUESTIONS, "<questions>", "exec"), {})

    facts = json.loads(capsys.readouterr().out.rpartition("\n@facts@")[2])
    assert facts["gpus"] == ["GPU-1", "GPU-2"]
    assert facts["gpu_models"] == ["NVIDIA A100-SXM4-40GB", "Tesla T4"]
    assert facts["gpu_driver"] == "550.54"


def test_questions_about_parts_of_gpus(capsys, tmp_path, monkeypatch):
    """nvidia-smi lists the parts of a GPU (MIG) below it."""
    command = tmp_path / "nvidia-smi"
    command.write_text(
        '#!/bin/sh\ntest "$1" = -L || { echo "GPU-1, A100, 550"; exit; }\n'
        "echo 'GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-1)'\n"
        "echo '  MIG 3g.20gb     Device  0: (UUID: MIG-a)'\n"
        "echo '  MIG 3g.20gb     Device  1: (UUID: MIG-GPU-1/2/0)'\n"
        "echo 'GPU 1: Tesla T4 (UUID: GPU-2)'\n"
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    exec(compile(QUESTIONS, "<questions>", "exec"), {})
    facts = json.loads(capsys.readouterr().out.rpartition("\n@facts@")[2])
    assert facts["gpu_parts"] == [["MIG-a", "GPU-1"], ["MIG-GPU-1/2/0", "GPU-1"]]


def test_asked_once(engine, inspect):
    """The same image and user are asked once; another user is another question."""
    assert inspect() == inspect() == FACTS
    assert len(engine.probes) == 1

    inspect(None)
    assert [spec.boundary.user for spec in engine.probes] == ["1000:100", None]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", '{"executable": 1, "uid": "x"}'])
def test_broken_cache(engine, inspect, tmp_path, content):
    """A cache that cannot be read costs a container, no more."""
    inspect()
    (file,) = (tmp_path / "cache").iterdir()
    file.write_text(content)

    assert inspect() == FACTS
    assert len(engine.probes) == 2
    assert inspect() == FACTS
    assert len(engine.probes) == 2


def test_cache_that_cannot_be_written(inspect, tmp_path):
    """A file where the cache's folder should be is no error."""
    (tmp_path / "cache").write_text("")
    assert inspect() == FACTS


def test_second_name_of_python(engine, inspect):
    """Where there is no python3, python is tried."""

    def answer(spec):
        if spec.command[0] == "python3":
            raise NO_PYTHON
        return said()

    engine.answer = answer
    assert inspect().executable == "python"


def test_no_python(engine, inspect):
    """The message says what an image needs."""

    def answer(spec):
        raise NO_PYTHON

    engine.answer = answer
    assert refusal(inspect) == (
        "The image train:1 (111111111111) has no Python: neither python3 nor python is on its "
        "PATH.\nUse an image with Python >= 3.9 and hydra-core."
    )


def test_python_that_does_not_run(engine, inspect):
    """The image's own words are shown."""
    engine.answer = lambda spec: (127, "libpython3.so: cannot open shared object file")
    assert refusal(inspect) == (
        "The image train:1 (111111111111): its python3 does not run (exit code 127): "
        "libpython3.so: cannot open shared object file"
    )


@pytest.mark.parametrize(
    "output",
    ["", "\n@facts@", "\n@facts@[]", '\n@facts@{"python": "3.11"}', '\n@facts@{"python": "x"}'],
)
def test_answer_that_is_none(engine, inspect, output):
    """Whatever an image prints, the answer is an error about that image."""
    engine.answer = lambda spec: (0, output)
    assert refusal(inspect).startswith(
        "The image train:1 (111111111111): its python3 does not run (exit code 0): "
    )


def test_old_python(engine, inspect):
    """The worker needs 3.9."""
    engine.answer = lambda spec: said(python="3.8.10")
    assert refusal(inspect) == (
        "The image train:1 (111111111111) has Python 3.8.10; jobs need >= 3.9"
    )


def test_no_hydra(engine, inspect):
    """The message has the line for the Dockerfile."""
    error = "ModuleNotFoundError: No module named 'hydra'"
    engine.answer = lambda spec: said(hydra=None, omegaconf=None, import_error=error)
    assert refusal(inspect) == (
        "The image train:1 (111111111111) has no hydra-core that works (ModuleNotFoundError: No "
        f"module named 'hydra').\nAdd `RUN pip install hydra-core=={hydra.__version__}` to its "
        "Dockerfile."
    )


def test_engine_that_refuses(engine, inspect):
    """What is not about the image stays the engine's error."""

    def answer(spec):
        raise EngineError("no space left on device")

    engine.answer = answer
    assert refusal(inspect, EngineError) == "no space left on device"


# ---- GPUs ----------------------------------------------------------------------------------------


def test_gpus(engine, inspect):
    """GPUs are asked for afresh each time, by their ids."""
    there = {"gpus": ["GPU-1", "GPU-2"], "gpu_models": ["A100", "T4"], "gpu_driver": "550.54"}
    there |= {"gpu_parts": [["MIG-a", "GPU-1"]]}
    engine.answer = lambda spec: said(**there if spec.gpus else {})

    assert [inspect(gpus=True).gpus for _ in range(2)] == [("GPU-1", "GPU-2")] * 2
    assert [spec.gpus for spec in engine.probes] == [Gpus(all=True)] * 2
    found = inspect(gpus=True)
    assert (found.gpu_models, found.gpu_driver) == (("A100", "T4"), "550.54")
    assert found.gpu_parts == (("MIG-a", "GPU-1"),)
    assert inspect().gpus == ()


def test_engine_without_gpus(engine, inspect):
    """The engine's refusal becomes what to do."""

    def answer(spec):
        raise EngineError('could not select device driver "" with capabilities: [[gpu]]')

    engine.answer = answer
    assert refusal(inspect, OptionError, gpus=True) == (
        "hydra.launcher.gpus: this engine cannot give a container any GPU (could not select "
        'device driver "" with capabilities: [[gpu]]).\nInstall the NVIDIA Container Toolkit on '
        "its machine, or set hydra.launcher.gpus=0."
    )


def test_more_gpus_than_there_are():
    """Where the GPUs are known, no job may ask for more."""
    facts = Facts("python3", "3.11", "1.3", "2.3", 0, 0, (), gpus=("GPU-1",))
    check_gpus(facts, Gpus(count=1))
    check_gpus(FACTS, Gpus(count=9))
    with pytest.raises(OptionError) as caught:
        check_gpus(facts, Gpus(count=2))
    assert str(caught.value) == "hydra.launcher.gpus=2 is more than the engine's machine has: 1"


# ---- versions and users --------------------------------------------------------------------------


def facts(**values):
    from dataclasses import replace

    return replace(FACTS, **values)


def test_versions():
    """An image of the same line, or a newer one, reads the host's configs."""
    check_versions(FACTS)
    check_versions(facts(hydra="9.0.0", omegaconf="9.0.0"))
    with pytest.raises(ImageError) as caught:
        check_versions(facts(hydra="1.1.2", omegaconf="2.1.2"))
    assert str(caught.value).startswith(
        f"This host has hydra-core {hydra.__version__} (omegaconf {omegaconf.__version__}), the "
        "image has hydra-core 1.1.2 (omegaconf 2.1.2)"
    )


def test_function_by_value():
    """A serialized function needs the same Python on both sides."""
    host = ".".join(platform.python_version_tuple()[:2])
    check_function_by_value(facts(python=f"{host}.99"), "task")
    with pytest.raises(ImageError) as caught:
        check_function_by_value(facts(python="3.7.1"), "task")
    assert str(caught.value) == (
        "The task function task is in no script and cannot be imported, so it is sent by value; "
        f"that needs the same Python on both sides, but this host has {host} and the image has "
        f"3.7.\nPut it into a module of the repository, or use an image with Python {host}."
    )


@pytest.mark.parametrize(
    ("uid", "launching", "cap_add"),
    [(1000, 1000, ()), (5, 0, ()), (0, 0, ()), (0, 1000, ("DAC_OVERRIDE",))],
)
def test_user_that_can_write(uid, launching, cap_add):
    """The launching user's own uid, any for root, root with the capability for it."""
    check_user(facts(uid=uid), launching, cap_add)


def test_user_that_cannot_write():
    """Another user could not write to the output folders."""
    with pytest.raises(OptionError) as caught:
        check_user(facts(uid=5), 1000, ("DAC_OVERRIDE",))
    assert str(caught.value) == (
        "hydra.launcher.user: the containers would run as uid 5, which cannot write to the output "
        "folders of uid 1000.\nUse hydra.launcher.user=host."
    )
    with pytest.raises(OptionError, match=r"cap_add=\[DAC_OVERRIDE\]\.$"):
        check_user(facts(uid=0), 1000, ())


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (("MIG-b",), "the engine's machine has no GPU MIG-b; valid is: 0 to 0, or GPU-1, MIG-a"),
        (("MIG-a", "0"), "MIG-a is a part of GPU-1"),
    ],
)
def test_parts_of_gpus_that_there_are_not(ids, message):
    """Where the driver tells of parts, those are meant; a GPU has all its parts already."""
    parts = (("MIG-a", "GPU-1"),)
    facts = Facts("python3", "3.11", "1.3", "2.3", 0, 0, (), gpus=("GPU-1",), gpu_parts=parts)
    check_gpus(facts, Gpus(ids=("MIG-a",)))
    with pytest.raises(OptionError) as caught:
        check_gpus(facts, Gpus(ids=ids))
    assert str(caught.value) == f"hydra.launcher.gpus: {message}"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (("2",), "the engine's machine has no GPU 2; valid is: 0 to 1, or GPU-1, GPU-2"),
        (("GPU-9",), "the engine's machine has no GPU GPU-9; valid is: 0 to 1, or GPU-1, GPU-2"),
        (("0", "GPU-1"), "GPU-1 is there twice"),
    ],
)
def test_gpus_that_there_are_not(ids, message):
    """Ids, or numbers, of GPUs are those of the machine."""
    facts = Facts("python3", "3.11", "1.3", "2.3", 0, 0, (), gpus=("GPU-1", "GPU-2"))
    check_gpus(facts, Gpus(ids=("0", "GPU-2")))
    check_gpus(facts, Gpus(ids=("MIG-1",)))
    with pytest.raises(OptionError) as caught:
        check_gpus(facts, Gpus(ids=ids))
    assert str(caught.value) == f"hydra.launcher.gpus: {message}"
