"""What the ``Engine`` protocol promises, on a real Docker Engine."""

from __future__ import annotations

import io
import tarfile
import time
from dataclasses import replace

import docker
import pytest
from containers import MakeSpec
from sweep_command import wait_for

from hydra_plugins.hydra_docker_launcher._boundary_values import CAPABILITIES, FLAGS
from hydra_plugins.hydra_docker_launcher._docker_engine import DockerEngine
from hydra_plugins.hydra_docker_launcher._engine import ContainerSpec
from hydra_plugins.hydra_docker_launcher._errors import EngineError, ImageError
from hydra_plugins.hydra_docker_launcher._option_values import Logging
from hydra_plugins.hydra_docker_launcher._options import Restart


@pytest.fixture(scope="module")
def engine(api: docker.APIClient) -> DockerEngine:
    return DockerEngine()


def run(engine: DockerEngine, spec: ContainerSpec) -> str:
    container = engine.create(spec)
    engine.start(container)
    return container


def test_host(engine: DockerEngine, api: docker.APIClient) -> None:
    """The engine's machine is described by its own words; its bridge has an address there."""
    info, host = api.info(), engine.host()
    assert (host.name, host.cpus, host.memory) == (info["Name"], info["NCPU"], info["MemTotal"])
    assert host.engine == f"Docker {info['ServerVersion']}"
    subnet = api.inspect_network("bridge")["IPAM"]["Config"][0]["Subnet"]
    assert host.gateway is not None
    assert host.gateway.split(".")[:2] == subnet.split(".")[:2]


def test_name_that_is_taken(
    engine: DockerEngine, make_spec: MakeSpec, api: docker.APIClient
) -> None:
    """A container whose name is taken gets another one."""
    spec = make_spec("true")
    names = [api.inspect_container(engine.create(spec))["Name"] for _ in range(2)]
    assert names[0] == f"/{spec.name}"
    assert names[1].startswith(f"/{spec.name}-")


def test_containers(
    engine: DockerEngine, make_spec: MakeSpec, mark: str, api: docker.APIClient
) -> None:
    """Containers are found by their labels, whatever their status; all the labels must be there."""
    before = time.time()
    specs = [
        replace(make_spec(command, f"{mark}-{job}"), labels=((mark, ""), ("job", job)))
        for job, command in (("0", "true"), ("1", "exit 3"), ("2", "exec sleep 60"))
    ]
    created = [engine.create(spec) for spec in specs]
    for container in created[1:]:
        engine.start(container)
    api.wait(created[1])

    found = {container.name: container for container in engine.containers({mark: None})}
    assert [found[f"{mark}-{job}"].id for job in range(3)] == created
    assert [found[f"{mark}-{job}"].status for job in range(3)] == ["created", "exited", "running"]
    last = found[f"{mark}-2"]
    assert last.labels.items() >= dict(specs[2].labels).items()
    assert last.image == api.inspect_image(specs[2].image)["Id"]
    assert int(before) <= last.created <= time.time()
    times = [container.created for container in engine.containers({"job": None, mark: ""})]
    assert times == sorted(times)
    wanted = {mark: "", "job": "1"}
    assert [container.id for container in engine.containers(wanted)] == [created[1]]
    assert engine.containers({mark: None, "job": "3"}) == ()
    assert engine.containers({mark: "another value"}) == ()


def test_log_lines(engine: DockerEngine, make_spec: MakeSpec) -> None:
    """Lines come with their times, both streams, the last one without an end as well."""
    container = run(engine, make_spec("echo one; echo two >&2; printf three"))
    lines = list(engine.log_lines(container, None))
    assert sorted(line.split(b" ", 1)[1] for line in lines) == [b"one", b"three", b"two"]
    times = [line.split(b" ", 1)[0].decode() for line in lines]
    assert list(engine.log_lines(container, max(times))) == []
    assert len(list(engine.log_lines(container, min(times)))) == 2


def test_log_lines_follow(engine: DockerEngine, make_spec: MakeSpec) -> None:
    """Lines come while the container runs."""
    container = run(engine, make_spec("echo started; exec sleep 60"))
    lines = engine.log_lines(container, None)
    assert next(lines).endswith(b" started")
    state = engine.state(container)
    assert state is not None
    assert state.running
    engine.stop(container, 0)
    assert list(lines) == []


def test_log_that_is_rotated(engine: DockerEngine, make_spec: MakeSpec) -> None:
    """Who follows gets every line once; who comes later gets the last ones, as far as they are."""
    words = "x" * 60
    script = (
        f"i=0; while [ $i -lt 2000 ]; do echo $i {words}; i=$((i+1)); "
        "[ $((i%50)) = 0 ] && sleep 0.03; done; true"
    )
    rotated = Logging("json-file", (("max-file", "3"), ("max-size", "40k")))
    container = run(engine, replace(make_spec(script), logging=rotated))
    lines = list(engine.log_lines(container, None))
    assert [line.split()[1:] for line in lines] == [
        [str(number).encode(), words.encode()] for number in range(2000)
    ]
    left = list(engine.log_lines(container, lines[0].split()[0].decode()))
    assert left == lines[-len(left) :]
    assert 200 < len(left) < 1500


def test_line_without_end(engine: DockerEngine, make_spec: MakeSpec) -> None:
    """A line that is too long to be held in memory comes in several."""
    script = "head -c 3000000 /dev/zero | tr '\\0' y; echo; echo end"
    container = run(engine, make_spec(script))
    lines = [line.partition(b" ")[2] for line in engine.log_lines(container, None)]
    assert b"".join(lines) == b"y" * 3_000_000 + b"end"
    assert max(map(len, lines)) < 2 * 1024**2


def test_state(engine: DockerEngine, make_spec: MakeSpec) -> None:
    """An end by itself, by a signal of somebody's, and by `stop` are told apart."""
    states = []
    for command, end in (
        ("exit 3", None),
        ("echo up; exec sleep 60", lambda container: engine._api.kill(container, "SIGINT")),
        ("echo up; exec sleep 60", lambda container: engine.stop(container, 5)),
    ):
        container = run(engine, make_spec(command))
        if end is not None:
            next(engine.log_lines(container, None))
            end(container)
        engine._api.wait(container)
        state = engine.state(container)
        assert state is not None
        states.append((state.running, state.exit_code, state.signal, state.stopped))
    assert states == [(False, 3, None, False), (False, 130, 2, False), (False, 143, 15, True)]


@pytest.mark.parametrize(("then", "exit_code", "signal"), [("wait", 137, 9), ("exit 3", 3, 1)])
def test_state_after_signals(
    engine: DockerEngine, make_spec: MakeSpec, then: str, exit_code: int, signal: int
) -> None:
    """The signal that it died of is told, not one that it had survived before; else the last."""
    spec = make_spec(f"trap 'echo hup' HUP; sleep 60 & echo up; wait; {then}")
    container = run(engine, spec)
    lines = engine.log_lines(container, None)
    next(lines)
    engine._api.kill(container, "SIGHUP")
    next(lines)
    if signal == 9:
        engine._api.kill(container)
    engine._api.wait(container)
    state = engine.state(container)
    assert state is not None
    assert (state.exit_code, state.signal, state.unseen) == (exit_code, signal, False)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_state_after_much_else(
    engine: DockerEngine, make_spec: MakeSpec, api: docker.APIClient, how: str
) -> None:
    """An engine that has forgotten how a container ended was not down for that."""
    container = run(engine, make_spec("exec sleep 60"))
    getattr(api, how)(container)
    api.wait(container)
    for _ in range(130):  # two events each; it keeps the last 256
        api.create_volume("hydra-docker-test-events")
        api.remove_volume("hydra-docker-test-events")
    state = engine.state(container)
    assert state is not None
    assert state.exit_code in (137, 143)
    assert (state.unseen, state.forgotten) == (False, True)


@pytest.mark.parametrize(
    ("restart", "exit_code", "oom_killed"),
    [(Restart("no"), 4, True), (Restart("on-failure", 1), 5, False)],
)
def test_state_of_the_last_run(
    engine: DockerEngine,
    make_spec: MakeSpec,
    restart: Restart,
    exit_code: int,
    oom_killed: bool,
) -> None:
    """A child that was killed for want of memory is told, but not that of a run before this one."""
    spec = make_spec("test -e /x && exit 5; touch /x; tail /dev/zero; exit 4")
    container = run(engine, replace(spec, restart=restart))
    wait_for(lambda: not engine._api.inspect_container(container)["State"]["Running"], "its end")
    state = engine.state(container)
    assert state is not None
    assert (state.exit_code, state.oom_killed) == (exit_code, oom_killed)
    assert (state.signal, state.stopped, state.unseen) == (None, False, False)


def test_stop_is_for_good(engine: DockerEngine, make_spec: MakeSpec, api: docker.APIClient) -> None:
    """No restart policy starts a container again that was stopped, not even with the engine."""
    for command in ("exec sleep 60", "exit 1"):
        spec = replace(make_spec(command), restart=Restart("always"))
        container = run(engine, spec)
        if command == "exit 1":
            wait_for(lambda: api.inspect_container(container)["RestartCount"], "a restart")  # noqa: B023
        engine.stop(container, 1)
        found = api.inspect_container(container)
        assert not found["State"]["Running"]
        assert not found["State"]["Restarting"]
        assert found["HostConfig"]["RestartPolicy"]["Name"] == "no"
        engine.remove(container)


def test_half_a_second_to_end(engine: DockerEngine, make_spec: MakeSpec) -> None:
    """A container gets the time that it was promised, which the engine counts in whole seconds."""
    container = run(engine, make_spec("trap 'sleep 0.2; exit 7' TERM; echo up; sleep 60 & wait"))
    assert next(engine.log_lines(container, None)).endswith(b" up")
    engine.stop(container, 0.4)
    state = engine.state(container)
    assert state is not None
    assert state.exit_code == 7


def test_boundary_values_of_the_engine(
    api: docker.APIClient, engine: DockerEngine, make_spec: MakeSpec
) -> None:
    """What options may say of capabilities, security and tmpfs, this engine takes."""
    young = ("BPF", "CHECKPOINT_RESTORE", "PERFMON")  # not every engine knows those
    capabilities = tuple(f"CAP_{name}" for name in CAPABILITIES if name not in ("ALL", *young))
    flags = ",".join(("size=1m,mode=1777,uid=1,gid=1,nr_inodes=1k", *FLAGS))
    spec = make_spec("true")
    boundary = replace(
        spec.boundary,
        cap_add=capabilities,
        security_opt=("no-new-privileges", "no-new-privileges=true", "seccomp=unconfined"),
        tmpfs=(("/x", flags),),
    )
    container = engine.create(replace(spec, boundary=boundary))
    assert api.inspect_container(container)["HostConfig"]["Tmpfs"] == {"/x": flags}
    boundary = replace(spec.boundary, security_opt=("systempaths=unconfined",))
    with pytest.raises(EngineError, match="invalid --security-opt"):  # the command line's own word
        engine.create(replace(spec, boundary=boundary))


def test_networks(engine: DockerEngine) -> None:
    """The engine knows its networks by their names."""
    assert {"bridge", "host", "none"} <= set(engine.networks())
    assert engine.network_exists("bridge")
    assert not engine.network_exists("hydra-docker-test-no-such-network")


def test_what_is_gone(engine: DockerEngine, make_spec: MakeSpec) -> None:
    """Stopping and removing what is gone is no error; its state is None."""
    container = run(engine, make_spec("exec sleep 60"))
    engine.remove(container)
    engine.remove(container)
    engine.stop(container, 1)
    assert engine.state(container) is None
    assert not engine.volume_exists("no-such-volume")
    engine.remove_image("hydra-docker-test:no-such-image")
    with pytest.raises(EngineError, match="The engine could not start the container"):
        engine.start(container)


def test_probe(engine: DockerEngine, make_spec: MakeSpec, mark: str, api: docker.APIClient) -> None:
    """A probe returns exit code and output, as much as is wanted, and leaves nothing."""
    assert engine.probe(make_spec("echo hello; exit 4"), 100) == (4, "hello\n")
    assert engine.probe(make_spec("yes | head -c 100000"), 10) == (0, "y\n" * 5)
    assert api.containers(all=True, filters={"label": mark}) == []


def test_layer(
    engine: DockerEngine, base_image: str, make_spec: MakeSpec, api: docker.APIClient
) -> None:
    """A layer has the archive's files with their owners, on an image that stays what it was."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("project/app.py")
        entry.size, entry.uid, entry.gid, entry.mode = 5, 1234, 2345, 0o640
        tar.addfile(entry, io.BytesIO(b"hello"))
    archive.seek(0)
    before = api.inspect_image(base_image)["Id"]
    layer = engine.add_layer(
        before, archive, "hydra-docker-test:layer", {"a": "b"}, fresh="/project"
    )
    try:
        command = "cat /project/app.py; stat -c ' %u %g %a' /project/app.py"
        probe = replace(make_spec(command), image=layer.id)
        assert engine.probe(probe, 100) == (0, "hello 1234 2345 640\n")
        facts = api.inspect_image(layer.id)
        layers = api.inspect_image(before)["RootFS"]["Layers"]
        assert facts["RootFS"]["Layers"][:-1] == layers
        assert facts["Config"]["Labels"]["a"] == "b"
        # An image that a kept container needs stays.
        kept = engine.create(probe)
        engine.remove_image(layer.id)
        assert engine.find_image(layer.id) is not None
        engine.remove(kept)
    finally:
        engine.remove_image(layer.id)
    assert engine.find_image("hydra-docker-test:layer") is None
    assert api.inspect_image(base_image)["Id"] == before


def test_layer_where_files_are(
    engine: DockerEngine, base_image: str, api: docker.APIClient
) -> None:
    """The commit's files are not mixed with files that the image has at the same path."""
    with pytest.raises(ImageError, match="The image has files at /etc already"):
        engine.add_layer(base_image, io.BytesIO(), "hydra-docker-test:refused", {}, fresh="/etc")
    made = {"name": "hydra-docker-layer-refused"}
    assert api.containers(all=True, filters=made) == []


def test_images(engine: DockerEngine, base_image: str, api: docker.APIClient) -> None:
    """An image is found by name and by id; what is not there is None, or cannot be pulled."""
    image = engine.find_image(base_image)
    assert image is not None
    assert image.id == api.inspect_image(base_image)["Id"]
    assert engine.find_image(image.id) == replace(image, reference=image.id)
    assert engine.find_image("hydra-docker-test:no-such-image") is None
    with pytest.raises(ImageError, match="pull the image localhost:1/no-such-image:1"):
        engine.pull("localhost:1/no-such-image:1", print)
