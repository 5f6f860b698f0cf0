"""Hydra's colorlog plugin: a logging config that needs a package on the host and in the image."""

from __future__ import annotations

import io
import json
import re
from importlib import metadata
from pathlib import Path

import docker
import pytest
from side_by_side import CHANGING, IMAGE, App, Repository, differences

#: hydra-colorlog 1.2 writes the log file into the working directory.
COLORLOG = ("hydra/job_logging=colorlog", "hydra/hydra_logging=colorlog", "hydra.job.chdir=true")
CYAN, BLUE, PURPLE, GREEN, YELLOW, RED, RESET = (
    f"\x1b[{code}m" for code in (36, 34, 35, 32, 33, 31, 0)
)


def without_times(text: str) -> list[str]:
    for changing, word in CHANGING:
        text = changing.sub(word, text)
    return text.splitlines()


@pytest.fixture(scope="module")
def colorlog_image() -> str:
    """The image with colorlog in it."""
    tag = f"{IMAGE}-colorlog" if ":" in IMAGE else f"{IMAGE}:colorlog"
    pip = "python3 -m pip install --quiet --no-cache-dir --root-user-action=ignore"
    dockerfile = f"FROM {IMAGE}\nRUN {pip} colorlog=={metadata.version('colorlog')}\n"
    docker.from_env().images.build(
        fileobj=io.BytesIO(dockerfile.encode()), tag=tag, network_mode="host", rm=True
    )
    return tag


def test_colorlog(tmp_path: Path, colorlog_image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job's log file is as under the basic launcher, without colours; the console has them."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    repository = Repository(tmp_path / "repository", "logged", App("logged", image=colorlog_image))

    basic, docker = repository.both("+lr=1,2", *COLORLOG)

    assert (basic.status, docker.status) == (0, 0), docker.output
    assert differences(basic, docker) == {}
    assert without_times((docker.folder / "1/app.log").read_text()) == [
        "[TIME][training][INFO] - lr is 2",
        "[TIME][training][WARNING] - lr is 2",
        "[TIME][training][ERROR] - lr is 2",
    ]
    coloured = [
        f"[{CYAN}TIME{RESET}][{BLUE}training{RESET}][{colour}{level}{RESET}] - lr is 2{RESET}"
        for colour, level in ((GREEN, "INFO"), (YELLOW, "WARNING"), (RED, "ERROR"))
    ]
    stored = (docker.folder / "1/container.log").read_text().splitlines()
    assert without_times("\n".join(line.partition(" ")[2] for line in stored)) == coloured
    shown = without_times(docker.output)
    assert [line for line in shown if line.startswith("#1 | ")] == [
        f"#1 | {line}" for line in coloured
    ]
    assert shown[-1] == f"[{CYAN}TIME{RESET}][{PURPLE}HYDRA{RESET}] 2 completed{RESET}"


def test_without_colorlog_in_the_image(tmp_path: Path) -> None:
    """The job fails, and the report names the module and what to do."""
    repository = Repository(tmp_path / "repository", "logged", App("logged"))

    found = repository.docker("+lr=1", *COLORLOG)

    assert found.status == 1
    assert [row["outcome"] for row in found.ledger] == ["error"]
    cause = (
        "raised ValueError: Unable to configure formatter 'colorlog' "
        "(caused by ModuleNotFoundError: No module named 'colorlog')"
    )
    assert [row["cause"] for row in found.ledger] == [cause]
    report = [f"job #0 (+lr=1) error: {cause}", "Install it in the image."]
    (job,) = json.loads((found.folder / "returns.json").read_text())
    assert (job["status"], job["error"]["type"]) == ("FAILED", "ValueError")
    (notes,) = job["error"]["notes"]
    assert notes.split("\n")[:2] == report
    assert notes.endswith(f"\nLog: {found.folder}/0/container.log")
    assert re.sub(r"\x1b\[\d+m", "", found.output).count("\n".join(report)) == 2
