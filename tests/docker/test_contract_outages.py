"""The engine comes and goes: what is asked again, what is not, and that no job runs twice."""

from __future__ import annotations

import io
import logging
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import docker
import pytest
from containers import MakeSpec
from engine_proxy import EngineProxy
from sweep_command import MakeRepository, wait_for

from hydra_plugins.hydra_docker_launcher._docker_engine import DockerEngine
from hydra_plugins.hydra_docker_launcher._engine import BuildRequest, ContainerSpec
from hydra_plugins.hydra_docker_launcher._errors import EngineError, ImageError

CREATE = r"POST .*/containers/create"
START = r"POST .*/containers/\w+/start"
DISK_FULL = "mkdir /var/lib/docker/overlay2/x: no space left on device"
IMAGE_GONE = f"No such image: sha256:{'0' * 64}"


@pytest.fixture
def proxy(api: docker.APIClient) -> Iterator[EngineProxy]:
    with EngineProxy() as proxy:
        yield proxy


@pytest.fixture
def engine(proxy: EngineProxy, monkeypatch: pytest.MonkeyPatch) -> DockerEngine:
    monkeypatch.setenv("DOCKER_HOST", proxy.url)
    return DockerEngine()


def attempt(spec: ContainerSpec, number: int = 1) -> ContainerSpec:
    """Return the specification of an attempt of a job."""
    labels = {"sweep": spec.name, "job": "0", "attempt": str(number)}
    ours = tuple((f"hydra.docker.{name}", value) for name, value in labels.items())
    return replace(spec, labels=(*spec.labels, *ours))


def names(engine: DockerEngine, mark: str) -> list[str]:
    return [container.name for container in engine.containers({mark: None})]


def test_lost_answers(
    engine: DockerEngine, proxy: EngineProxy, make_spec: MakeSpec, mark: str
) -> None:
    """Where the answers to `create` and `start` are lost, one container runs, once."""
    spec = attempt(make_spec("echo run"))
    proxy.lose_answer(CREATE, times=2)
    proxy.lose_answer(START)
    container = engine.create(spec)
    engine.start(container)
    assert names(engine, mark) == [spec.name]
    lines = [line.partition(b" ")[2] for line in engine.log_lines(container, None)]
    assert lines == [b"run"]
    assert (proxy.count(CREATE), proxy.count(START)) == (3, 1)
    assert proxy.unmet == []

    proxy.lose_answer(r"DELETE .*/containers/")
    engine.remove(container)
    assert names(engine, mark) == []
    assert proxy.count("DELETE") == 2


def test_lost_answer_with_a_name_that_is_taken(
    engine: DockerEngine, proxy: EngineProxy, make_spec: MakeSpec, mark: str
) -> None:
    """The second name is the same when it is asked for again."""
    foreign = make_spec("true")
    engine.create(foreign)
    proxy.lose_answer(rf"{CREATE}\?name={foreign.name}-")
    container = engine.create(attempt(foreign))
    assert [found.id for found in engine.containers({"hydra.docker.sweep": foreign.name})] == [
        container
    ]
    assert len(names(engine, mark)) == 2


def test_what_a_launcher_that_died_has_left(
    engine: DockerEngine, make_spec: MakeSpec, mark: str
) -> None:
    """A container of this attempt that never ran is taken, or replaced where it is another."""
    spec = attempt(make_spec("true"))
    first = engine.create(spec)
    assert engine.create(spec) == first
    other = engine.create(replace(spec, working_dir="/tmp"))
    assert other != first
    assert names(engine, mark) == [spec.name]

    engine.start(other)  # from here on it is not touched
    again = engine.create(replace(spec, working_dir="/tmp"))
    second = engine.create(attempt(make_spec("true"), 2))
    assert len({other, again, second}) == 3
    assert len(names(engine, mark)) == 3


def test_errors_that_pass(
    engine: DockerEngine,
    proxy: EngineProxy,
    make_spec: MakeSpec,
    mark: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Every request that changes nothing, or nothing twice, is made again; the user is told."""
    caplog.set_level(logging.INFO)
    for pattern in (
        "GET .*/info",
        "GET .*/images/.*/json",
        "GET .*/volumes/",
        CREATE,
        START,
        "GET .*/containers/json",
        "GET .*/containers/.*/json",
        "POST .*/stop",
        "POST .*/update",
        "DELETE ",
    ):
        proxy.fail(pattern, 500, "closing: unavailable")
    spec = make_spec("exec sleep 60")
    assert engine.host().name
    assert engine.find_image(spec.image) is not None
    assert not engine.volume_exists("hydra-docker-test-no-such-volume")
    container = engine.create(spec)
    engine.start(container)
    assert names(engine, mark) == [spec.name]
    state = engine.state(container)
    assert state is not None
    assert state.running
    engine.stop(container, 0)
    engine.remove(container)
    assert names(engine, mark) == []
    assert [request.status for request in proxy.log if request.fault] == [500] * 10
    told = "The engine could not remove the container: closing: unavailable; trying again for"
    assert caplog.messages[-2:] == [f"{told} up to 30 s", "The engine works again"]
    assert len(caplog.messages) == 2 * 9  # to start it again, one looks at it first


def test_outage(
    engine: DockerEngine,
    proxy: EngineProxy,
    make_spec: MakeSpec,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An engine that starts again is waited for, and the user is told once."""
    caplog.set_level(logging.INFO)
    container = engine.create(make_spec("true"))
    proxy.refuse(1.5)
    assert engine.state(container) is not None
    told, back = caplog.messages
    assert told.startswith("No Docker engine answers (it was asked to look up a container): No")
    assert told.endswith("; trying again for up to 120 s")
    assert back == "The engine works again"


def test_output_through_an_outage(
    engine: DockerEngine, proxy: EngineProxy, make_spec: MakeSpec
) -> None:
    """Whose connection is cut while it follows the output reads on behind what it has."""
    container = engine.create(make_spec("for n in 1 2 3 4 5 6 7 8 9; do echo $n; sleep 0.2; done"))
    engine.start(container)
    lines: list[bytes] = []
    cuts = 0
    while True:
        try:
            for line in engine.log_lines(
                container, lines[-1].split()[0].decode() if lines else None
            ):
                lines.append(line)
                if len(lines) in (2, 4) and cuts < len(lines) / 2:
                    cuts += 1
                    proxy.cut()
        except EngineError as error:
            assert error.transient  # noqa: PT017  (the test goes on)
        state = engine.state(container)
        assert state is not None
        if not state.running:
            break
    assert cuts == 2
    assert [line.split()[1] for line in lines] == [b"%d" % n for n in range(1, 10)]


def test_no_engine_at_the_start(proxy: EngineProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an engine a sweep does not begin; nobody waits for one."""
    monkeypatch.setenv("DOCKER_HOST", proxy.url)
    with proxy.outage(), pytest.raises(EngineError, match="No Docker engine answers: No such file"):
        DockerEngine()
    assert proxy.log == []


def test_refusals(
    engine: DockerEngine, proxy: EngineProxy, make_spec: MakeSpec, tmp_path: Path
) -> None:
    """What is final is asked once, and says what to do."""
    spec = make_spec("true")
    proxy.fail(CREATE, 500, DISK_FULL)
    with pytest.raises(EngineError, match="`docker system df` shows what takes the space") as full:
        engine.create(spec)
    gone = replace(spec, image=f"sha256:{'0' * 64}")
    with pytest.raises(ImageError, match=r"removed after the sweep had begun.*resume=true"):
        engine.create(gone)
    assert not full.value.transient
    assert proxy.count(CREATE) == 2

    text = f"FROM {spec.image}\nRUN echo 'tar: x: No space left on device'; exit 1\n"
    request = BuildRequest("hydra-docker-test:full", "Dockerfile", text, None, (), "none", ())
    with pytest.raises(ImageError, match=r"exit 1(.|\n)*`docker system df` shows what takes"):
        engine.build(request, tmp_path, print)


def test_layer(
    engine: DockerEngine,
    proxy: EngineProxy,
    make_spec: MakeSpec,
    base_image: str,
    mark: str,
    api: docker.APIClient,
) -> None:
    """A layer whose every step is asked twice is one image with the files in it."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("project/app.py")
        entry.size = 5
        tar.addfile(entry, io.BytesIO(b"hello"))
    archive.seek(0)
    proxy.lose_answer(CREATE)
    proxy.lose_answer("GET .*/archive")
    proxy.fail("PUT .*/archive")
    proxy.lose_answer("POST .*/commit")
    labels, tag = {mark: ""}, f"{mark}:outages"
    image = engine.add_layer(base_image, archive, tag, labels, fresh="/project")
    try:
        made = api.images(filters={"label": mark})
        assert [found["Id"] for found in made] == [image.id]
        assert [found["RepoTags"] for found in made] == [[tag]]
        assert engine.containers(dict(labels)) == ()
        probe = replace(make_spec("cat /project/app.py"), image=image.id)
        assert engine.probe(probe, 100) == (0, "hello")
        assert proxy.count("POST .*/commit") == 1
        assert proxy.unmet == []
    finally:
        engine.remove_image(image.reference)


def test_sweep(make_repository: MakeRepository, proxy: EngineProxy, tmp_path: Path) -> None:
    """Jobs complete, each of one run, whatever the engine fails to do for the moment."""
    repository = make_repository("once", n_jobs="2", network_mode="none")
    proxy.delay = 0.05
    for pattern in (rf"{CREATE}\?name=.*-0$", START, "POST .*/wait", "GET .*/containers/.*/json"):
        proxy.fail(pattern, 500, "context deadline exceeded")
    proxy.lose_answer(rf"{CREATE}\?name=.*-1$")
    proxy.lose_answer("POST .*/commit")
    # Nothing is known of the image: it is asked.
    environment = {"DOCKER_HOST": proxy.url, "XDG_CACHE_HOME": str(tmp_path)}
    command = repository.start("+n=0,1,2", environment=environment)
    wait_for(lambda: proxy.count(rf"{CREATE}\?name=.*-1$") == 2, "job #1 is created again")
    wait_for(lambda: list(command.folder.glob("1/runs.txt")), "job #1 runs")
    proxy.lose_answer(START)
    proxy.refuse(2)
    finished = command.finish()
    assert finished.status == 0, finished.output
    assert finished.outcomes == ["completed"] * 3
    for number in range(3):
        job = finished.job(number)
        assert (job.folder / "runs.txt").read_text() == "run\n"
        assert [line.split(" ", 1)[1] for line in job.log.splitlines()] == [
            f"line {line}" for line in range(10)
        ]
    assert finished.output.count("No Docker engine answers") >= 2
    assert proxy.unmet == []


def test_sweep_that_is_refused(make_repository: MakeRepository, proxy: EngineProxy) -> None:
    """A full disk, and an image that is gone, end the job that meets them, at once and clearly."""
    repository = make_repository("once", n_jobs="3", network_mode="none")
    proxy.fail(rf"{CREATE}\?name=.*-1$", 500, DISK_FULL)
    proxy.fail(rf"{CREATE}\?name=.*-2$", 404, IMAGE_GONE)
    finished = repository.sweep("+n=0,1,2", environment={"DOCKER_HOST": proxy.url})
    assert finished.status == 1
    assert finished.outcomes == ["completed", "could not start", "could not start"]
    assert "`docker system df` shows what takes the space" in finished.output
    assert "The image was removed after the sweep had begun" in finished.output
    assert proxy.count(rf"{CREATE}\?name=.*-[12]$") == 2
