"""dirty=snapshot: jobs run what is being edited, and anybody can make the same commit again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import mlflow
from sweep_command import MakeRepository, Repository

REFS = "refs/hydra-docker/snapshots"


def state(repository: Repository) -> dict[str, bytes]:
    """Everything that git keeps of the user's, but for objects and this project's own refs."""
    folder = repository.root / ".git"
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not {"objects", "hydra-docker"} & set(path.parts)
    }


def test_uncommitted_code(make_repository: MakeRepository, tmp_path: Path) -> None:
    """The job runs the edited code; branch, index and files stay; MLflow has tags and patch."""
    repository = make_repository("hello", dirty="snapshot")
    del repository.defaults["hydra.launcher.mlflow.enabled"]
    remote = tmp_path / "remote.git"
    repository.git("init", "--quiet", "--bare", str(remote))
    repository.git("remote", "add", "origin", str(remote))
    repository.git("fetch", "--quiet", "origin")
    parent = repository.commits[-1]
    text = (repository.root / "app.py").read_text()
    repository.write("app.py", text.replace('f"hello', 'greetings.WORD, f"'))
    script = (repository.root / "app.py").read_text()
    repository.write("app.py", f"import greetings\n{script}")
    repository.write("greetings.py", "WORD = 'größer'\n")
    repository.write("notes.bin", "x" * 2000)
    before, status = state(repository), repository.git("status", "--porcelain")

    finished = repository.sweep("hydra.launcher.snapshot_limit=2k")

    assert finished.status == 0, finished.output
    source = finished.ledger["source"]
    snapshot = source["commit"]
    assert "#0 | größer" in finished.output
    assert (
        f"Snapshot {snapshot[:12]} of the uncommitted changes on {parent[:12]} of "
        f"{repository.root}: 3 files\n"
    ) in finished.output
    assert (
        f"Commit {parent[:12]} is on no branch of a remote, as far as the last fetch knows: only "
        "this machine can repeat the sweep. To share it: git push origin main\n"
    ) in finished.output
    assert state(repository) == before
    assert repository.git("for-each-ref", "--format=%(refname)") == (
        f"refs/heads/main\n{REFS}/{snapshot}"
    )
    assert (source["parent"], source["dirty"], source["pushed"]) == (parent, True, False)

    client = mlflow.MlflowClient(f"sqlite:///{repository.root}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("app").experiment_id])
    expected = {
        "mlflow.source.git.commit": snapshot,
        "mlflow.source.git.dirty": "true",
        "hydra.docker.parent_commit": parent,
        "hydra.docker.pushed": "false",
    }
    assert len(runs) == 2
    clone = tmp_path / "clone"
    repository.git("clone", "--quiet", str(repository.root), str(clone))
    for run in runs:
        assert run.data.tags.items() >= expected.items()
        patch = client.download_artifacts(run.info.run_id, "changes.patch", str(tmp_path))
        subprocess.run(("git", "reset", "--quiet", "--hard", parent), cwd=clone, check=True)
        subprocess.run(("git", "apply", "--index", patch), cwd=clone, check=True)
        tree = subprocess.run(("git", "write-tree"), cwd=clone, check=True, capture_output=True)
        assert tree.stdout.decode().strip() == repository.git("rev-parse", f"{snapshot}^{{tree}}")
    after = repository.git("status", "--porcelain").splitlines()
    made = {"?? mlflow-store/", "?? mlflow.db", "?? multirun/"}
    assert set(after) - made == set(status.splitlines())

    repository.git("remote", "remove", "origin")
    again = repository.sweep("hydra.launcher.mlflow.enabled=false")
    assert again.ledger["source"]["commit"] == snapshot
    assert "only this machine" not in again.output


def test_repeated_elsewhere(make_repository: MakeRepository, tmp_path: Path) -> None:
    """Where only MLflow and the remote are left, a run is repeated on the very same commit."""
    repository = make_repository("hello", dirty="snapshot")
    (tmp_path / "store").mkdir()
    store = f"sqlite:///{tmp_path}/store/mlflow.db"
    repository.defaults |= {
        "hydra.launcher.mlflow.enabled": "true",
        "hydra.launcher.mlflow.tracking_uri": store,
    }
    remote = tmp_path / "remote.git"
    repository.git("clone", "--quiet", "--bare", str(repository.root), str(remote))
    repository.git("remote", "add", "origin", f"file://{remote}")
    repository.git("fetch", "--quiet", "origin")
    text = (repository.root / "app.py").read_text()
    repository.write("app.py", text.replace("hello", "ü"))
    first = repository.sweep()
    assert first.status == 0, first.output
    recorded = first.ledger
    assert recorded["source"]["pushed"] is True
    assert "only this machine" not in first.output
    repository.root.rename(tmp_path / "gone")
    (tmp_path / "elsewhere").mkdir()

    done = subprocess.run(
        (
            *(sys.executable, "-m", "hydra_plugins.hydra_docker_launcher._cli", "reproduce"),
            *("--tracking-uri", store, recorded["jobs"][0]["run_id"]),
        ),
        cwd=tmp_path / "elsewhere",
        env={**repository.environment, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        check=False,
        capture_output=True,
        text=True,
    )

    (tmp_path / "gone").rename(repository.root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "#0 | ü world\n" in done.stdout
    (ledger,) = (tmp_path / "elsewhere").rglob("sweep.json")
    source = json.loads(ledger.read_text())["source"]
    for name in ("commit", "parent", "dirty"):
        assert source[name] == recorded["source"][name]


def test_large_file(make_repository: MakeRepository) -> None:
    """A large untracked file is refused by name before anything starts."""
    repository = make_repository("hello", dirty="snapshot")
    repository.write("data/big.bin", "x" * 2000)
    finished = repository.sweep("hydra.launcher.snapshot_limit=1k")
    assert finished.status == 1
    assert finished.output.startswith(
        f"{repository.root} has untracked files that are larger than "
        "hydra.launcher.snapshot_limit=1k:\n  data/big.bin (2k)\n"
    )
    assert not (finished.folder / "sweep.json").exists()
