"""Volumes whose data DVC tracks: what a sweep checks before its first job, and what it records."""

from __future__ import annotations

import json
from collections.abc import Iterator

import mlflow
import pytest
from dvc.repo import Repo
from sweep_command import Finished, MakeRepository, Repository

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # in DVC

#: As DVC 3 writes them for the data of this test, and for what it is changed to.
PINNED = "0616e6ee3084e7e29eaa31a282ba67c6.dir"
ON_DISK = "e4ab3cc5abf52a3c1bb5d33ae0c8830a.dir"


@pytest.fixture(scope="module")
def tracking(
    make_repository: MakeRepository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Repository]:
    """A repository with a folder that DVC tracks, one that nothing tracks, and MLflow."""
    repository = make_repository("reads")
    del repository.defaults["hydra.launcher.mlflow.enabled"]
    site = str(tmp_path_factory.mktemp("site"))
    repository.environment["DVC_SITE_CACHE_DIR"] = site
    repository.write("data/raw/a.csv", "pinned")
    repository.write("data/raw/sub/b.csv", "1,2")
    repository.write(".gitignore", "notes\nmultirun\nmlflow*\n__pycache__\n")
    repository.write("notes/n.txt", "mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", site)
        with Repo.init(str(repository.root)) as dvc:
            dvc.add([str(repository.root / "data" / "raw")])
    repository.commit()
    repository.api.create_volume("hydra-docker-test-data")
    yield repository
    repository.api.remove_volume("hydra-docker-test-data")


@pytest.fixture
def repository(tracking: Repository) -> Iterator[Repository]:
    """The same, with the data put back afterwards."""
    yield tracking
    tracking.write("data/raw/a.csv", "pinned")


VOLUMES = "'./data/raw:/data:ro'"
MORE = "'./notes:/notes','hydra-docker-test-data:/cache'"


def datasets(repository: Repository, finished: Finished) -> list[dict[str, object]]:
    """Return what MLflow shows as the datasets that the first job used."""
    client = mlflow.MlflowClient(f"sqlite:///{repository.root}/mlflow.db")
    run = client.get_run(finished.ledger["jobs"][0]["run_id"])
    return [
        {
            "name": item.dataset.name,
            "digest": item.dataset.digest,
            "source": json.loads(item.dataset.source)["uri"],
            **{tag.key: tag.value for tag in item.tags},
        }
        for item in run.inputs.dataset_inputs
    ]


def test_tracked_data(repository: Repository) -> None:
    """Data is what the commit pins: the record says so, and of other volumes what can be said."""
    finished = repository.sweep(
        f"hydra.launcher.volumes=[{VOLUMES},{MORE}]", "hydra.launcher.data_check=error"
    )

    assert finished.status == 0, finished.output
    assert "Checking data/raw against data/raw.dvc: 2 files, 9b\n" in finished.output
    assert "#0 | read pinned\n" in finished.output
    raw, notes, cache = finished.ledger["data"]
    assert raw == {
        "name": "data/raw",
        "source": str(repository.root / "data" / "raw"),
        "target": "/data",
        "kind": "dvc",
        "state": "matches",
        "digest": f"md5:{PINNED}",
        "files": 2,
        "bytes": 9,
        "tracked_by": "data/raw.dvc",
    }
    assert (notes["kind"], notes["files"], notes["bytes"]) == ("stat", 1, 4)
    assert (cache["kind"], cache["state"]) == ("none", "not identified")
    found = {str(item["name"]): item for item in datasets(repository, finished)}
    assert found == {
        "data/raw": {
            "name": "data/raw",
            "digest": PINNED,
            "source": raw["source"],
            "mlflow.data.context": "/data",
            "hydra.docker.data.digest": f"md5:{PINNED}",
            "hydra.docker.data.state": "matches",
        },
        "notes": {
            "name": "notes",
            "digest": notes["digest"].removeprefix("sha256:")[:36],
            "source": notes["source"],
            "mlflow.data.context": "/notes",
            "hydra.docker.data.digest": notes["digest"],
            "hydra.docker.data.state": "recorded",
        },
    }


def test_changed_data_is_refused(repository: Repository) -> None:
    """No job starts, and nothing is made for it; the message names what differs."""
    repository.write("data/raw/a.csv", "edited")
    finished = repository.sweep(
        f"hydra.launcher.volumes=[{VOLUMES}]", "hydra.launcher.data_check=error"
    )

    assert finished.status == 1
    commit = repository.commits[-1][:12]
    assert (
        f"data/raw is not what commit {commit} pins in data/raw.dvc:\n  changed: a.csv\n"
        in finished.output
    )
    assert "Traceback" not in finished.output
    assert not (finished.folder / "sweep.json").exists()
    assert "Image " not in finished.output


def test_changed_data_with_a_warning(repository: Repository) -> None:
    """By default the sweep runs; both hashes are in the record, MLflow shows what was there."""
    repository.write("data/raw/a.csv", "edited")
    finished = repository.sweep(f"hydra.launcher.volumes=[{VOLUMES}]")

    assert finished.status == 0, finished.output
    assert "\n  changed: a.csv\n" in finished.output
    assert "#0 | read edited\n" in finished.output
    (raw,) = finished.ledger["data"]
    assert (raw["state"], raw["digest"], raw["found"]) == (
        "differs",
        f"md5:{PINNED}",
        f"md5:{ON_DISK}",
    )
    assert [item["digest"] for item in datasets(repository, finished)] == [ON_DISK]
