"""A real registry on this machine's loopback, which engines accept without TLS.

It is started on a free port, has its data in a folder of the test, and ends with it.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import docker
import pytest
from docker.errors import APIError

SCRIPT = Path(__file__).parents[2] / "scripts" / "registry"
#: The image that is run where there is no binary for this machine.
IMAGE = "registry:2"
USER, PASSWORD = "ada", "secret"
#: Of that password, by bcrypt, which is all that the registry reads.
HTPASSWD = f"{USER}:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"
LISTENING = re.compile(r"listening on 127\.0\.0\.1:(\d+)")
PATIENCE = 30  # seconds that it has to begin


@contextmanager
def running_registry(api: docker.APIClient, folder: Path, *, login: bool = False) -> Iterator[str]:
    """Run a registry with its data in ``folder``, and give its ``host:port``.

    ``login``: only for ``USER``.
    """
    found = subprocess.run((SCRIPT,), check=False, capture_output=True, text=True)
    if found.returncode == 0:
        with _process(found.stdout.strip(), folder, login=login) as address:
            yield address
    else:
        with _container(api, login=login, why=found.stderr) as address:
            yield address


def credentials(folder: Path, address: str) -> dict[str, str]:
    """Return the environment of somebody who has logged in with ``docker login``."""
    folder.mkdir()
    token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {address: {"auth": token}}}))
    return {"DOCKER_CONFIG": str(folder)}


def _configuration(data: str, address: str, htpasswd: str, *, login: bool) -> str:
    auth = f"auth: {{htpasswd: {{realm: tests, path: {htpasswd}}}}}\n" if login else ""
    return (
        "version: 0.1\n"
        f"storage: {{filesystem: {{rootdirectory: {data}}}, delete: {{enabled: true}}}}\n"
        f'http: {{addr: "{address}", secret: of the tests}}\n{auth}'
    )


@contextmanager
def _process(binary: str, folder: Path, *, login: bool) -> Iterator[str]:
    (folder / "htpasswd").write_text(HTPASSWD)
    configuration = folder / "registry.yml"
    configuration.write_text(
        _configuration(str(folder / "data"), "127.0.0.1:0", str(folder / "htpasswd"), login=login)
    )
    with subprocess.Popen(
        (binary, "serve", configuration),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        ports: Queue[str] = Queue()
        lines: list[str] = []

        def read() -> None:
            for line in process.stdout or ():
                lines.append(line)
                found = LISTENING.search(line)
                if found:
                    ports.put(found[1])

        reader = Thread(target=read)
        reader.start()
        try:
            yield f"127.0.0.1:{ports.get(timeout=PATIENCE)}"
        except Empty:
            pytest.fail("The registry did not start:\n" + "".join(lines), pytrace=False)
        finally:
            process.terminate()
            reader.join()


@contextmanager
def _container(api: docker.APIClient, *, login: bool, why: str) -> Iterator[str]:
    """Run the registry's image, which listens on the loopback of the engine's machine."""
    try:
        if not api.images(IMAGE):
            api.pull(*IMAGE.split(":"))
    except APIError as error:
        pytest.fail(f"{why}And the image {IMAGE} cannot be pulled: {error}", pytrace=False)
    place = "/tmp"
    text = _configuration("/var/lib/registry", ":5000", f"{place}/htpasswd", login=login)
    script = f"cd {place} && echo \"$CONFIG\" >c.yml && echo '{HTPASSWD}' >htpasswd && "
    container = api.create_container(
        IMAGE,
        entrypoint=["sh", "-c", f"{script} exec registry serve c.yml"],
        environment={"CONFIG": text},
        ports=[5000],
        host_config=api.create_host_config(port_bindings={5000: ("127.0.0.1", None)}),
    )["Id"]
    try:
        api.start(container)
        for line in api.logs(container, stream=True, follow=True):
            if b"listening on" in line:
                break
        yield f"127.0.0.1:{api.port(container, 5000)[0]['HostPort']}"
    finally:
        api.remove_container(container, v=True, force=True)
