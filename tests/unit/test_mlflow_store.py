"""Where the store of a sweep is, who may mount it, and what is said where that cannot work."""

import sqlite3
from pathlib import Path

import pytest

from hydra_plugins.hydra_docker_launcher._errors import TrackingError
from hydra_plugins.hydra_docker_launcher._mlflow_names import named, shortened
from hydra_plugins.hydra_docker_launcher._mlflow_store import Store, StoreKind, find_store
from hydra_plugins.hydra_docker_launcher._tracking import StoreAccess


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A launch folder as people have them: with a script in it."""
    launch = tmp_path / "project"
    launch.mkdir()
    (launch / "train.py").touch()
    return launch


def refusal(folder: Path, uri: str | None = None) -> str:
    with pytest.raises(TrackingError) as caught:
        find_store(uri, folder, {})
    return str(caught.value)


def database_with_experiment(path: Path, artifact_location: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE experiments (artifact_location TEXT)")
        db.execute("INSERT INTO experiments VALUES (?)", (artifact_location,))
    db.close()


def test_default_store(folder: Path) -> None:
    """Nothing configured: a folder of its own, and the link that MLflow's own default finds."""
    store = find_store(None, folder, {})

    home = folder / "mlflow-store"
    assert store == Store(
        StoreKind.SQLITE,
        f"sqlite:///{home}/mlflow.db",
        home / "mlflow.db",
        home / "artifacts",
        folder / "mlflow.db",
    )
    store.prepare()
    assert (folder / "mlflow.db").readlink() == Path("mlflow-store/mlflow.db")


def test_default_store_again(folder: Path) -> None:
    """A second sweep in the folder finds what the first one made, and leaves it as it is."""
    first = find_store(None, folder, {})
    first.prepare()

    again = find_store(None, folder, {})
    again.prepare()

    assert again == first


def test_the_default_may_be_written_out(folder: Path) -> None:
    """``sqlite:///mlflow.db`` is MLflow's default, configured or not: the same store."""
    assert find_store("sqlite:///mlflow.db", folder, {}) == find_store(None, folder, {})


def test_a_link_of_the_user_is_followed(folder: Path, tmp_path: Path) -> None:
    """``mlflow.db`` may be a link to a store elsewhere; that folder is the one to be mounted."""
    shared = tmp_path / "shared"
    (folder / "mlflow.db").symlink_to(shared / "runs.db")

    store = find_store(None, folder, {})
    store.prepare()

    assert store.database == shared / "runs.db"
    assert store.access("s3://bucket/1", folder, {}).folders == (shared,)


def test_option_before_environment(folder: Path) -> None:
    """The option wins over MLFLOW_TRACKING_URI; an empty variable counts as none."""
    environment = {"MLFLOW_TRACKING_URI": "http://from-environment:5000"}

    assert find_store("http://option", folder, environment).uri == "http://option"
    assert find_store(None, folder, environment).uri == "http://from-environment:5000"
    assert find_store(None, folder, {"MLFLOW_TRACKING_URI": ""}).kind is StoreKind.SQLITE


def test_mlflow_db_of_before_is_not_mounted_with_the_working_tree(folder: Path) -> None:
    """An mlflow.db that MLflow made in the launch folder has to move; the message says how."""
    (folder / "mlflow.db").touch()

    message = refusal(folder)

    assert f"The MLflow database {folder}/mlflow.db lies in the folder that a sweep" in message
    assert (
        f"    cd {folder}\n"
        "    mkdir -p mlflow-store\n"
        "    mv -n mlflow.db mlflow-store/\n"
        "    ln -s mlflow-store/mlflow.db mlflow.db\n"
    ) in message
    assert f"set hydra.launcher.mlflow.tracking_uri to sqlite:///{folder}/mlflow-store" in message


def test_two_stores_in_one_folder(folder: Path) -> None:
    """A database and a store folder side by side: the user decides which one it is."""
    find_store(None, folder, {}).prepare()
    (folder / "mlflow.db").unlink()
    (folder / "mlflow.db").touch()

    message = refusal(folder)

    assert message.startswith(f"Both {folder}/mlflow.db and {folder}/mlflow-store/mlflow.db exist")
    assert f"mv {folder}/mlflow.db {folder}/mlflow.db.old" in message


def test_old_file_store_would_hide_the_runs(folder: Path) -> None:
    """``mlruns/`` with experiments is what ``mlflow ui`` prefers (and refuses): so say so first."""
    (folder / "mlruns" / "0").mkdir(parents=True)
    assert find_store(None, folder, {}).kind is StoreKind.SQLITE
    (folder / "mlruns" / "0" / "meta.yaml").touch()

    message = refusal(folder)

    assert f"{folder}/mlruns is a file store, which MLflow no longer supports" in message
    assert "mv mlruns mlruns-old" in message
    assert "migrate-filestore --source mlruns-old --target sqlite:///mlflow-store/mlflow" in message
    assert find_store("http://server", folder, {}).kind is StoreKind.SERVER


@pytest.mark.parametrize("uri", ["file:///old/mlruns", "mlruns", "./mlruns", "/old/mlruns"])
def test_file_stores_are_refused(folder: Path, uri: str) -> None:
    """A file store, as URI or as plain path: refused, with what to set instead."""
    message = refusal(folder, uri)

    assert f"The tracking URI {uri!r} is a file store, which MLflow no longer supports" in message
    assert "sqlite:////path/of/a/folder/mlflow.db" in message


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://a/b"])
def test_databases_without_a_file_are_refused(folder: Path, uri: str) -> None:
    """What is in memory only, containers cannot see."""
    assert f"The tracking URI {uri!r} names no database file" in refusal(folder, uri)


def test_relative_database(folder: Path) -> None:
    """Relative paths are relative to the launch folder; driver and query stay as they are."""
    store = find_store("sqlite+pysqlite:///store/runs.db?timeout=5", folder, {})

    assert store.uri == f"sqlite+pysqlite:///{folder}/store/runs.db?timeout=5"
    assert store.database == folder / "store" / "runs.db"
    assert store.artifacts == folder / "store" / "artifacts"
    assert store.link is None


def test_folder_of_a_store_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    """Beside the database may lie its journal and folders that MLflow keeps artifacts in."""
    home = tmp_path / "runs"
    database_with_experiment(home / "a.db", f"file://{home}/models/1")
    (home / "a.db-journal").touch()
    (home / "mlruns").mkdir()
    (home / "models").mkdir()

    assert find_store(f"sqlite:///{home}/a.db", folder, {}).database == home / "a.db"


def test_folder_with_other_things_in_it(folder: Path, tmp_path: Path) -> None:
    """A database among other files has to move; journal included, and quoted for a shell."""
    home = tmp_path / "my runs"
    home.mkdir()
    for name in ("a.db", "a.db-wal", "data.csv", "notes", "secrets.env", "zoo"):
        (home / name).touch()

    message = refusal(folder, f"sqlite:///{home}/a.db")

    assert "a folder with other things in it (data.csv, notes, secrets.env and 1 more)" in message
    assert f"    cd '{home}'\n" in message
    assert "    mv -n a.db a.db-wal mlflow-store/\n" in message


def test_the_link_of_the_message_works(folder: Path) -> None:
    """After the commands of the message, the same URI is accepted."""
    (folder / "runs.db").touch()
    assert "mv -n runs.db mlflow-store/" in refusal(folder, "sqlite:///runs.db")

    (folder / "mlflow-store").mkdir()
    (folder / "runs.db").rename(folder / "mlflow-store" / "runs.db")
    (folder / "runs.db").symlink_to("mlflow-store/runs.db")

    store = find_store("sqlite:///runs.db", folder, {})
    assert store.database == folder / "mlflow-store" / "runs.db"


@pytest.mark.parametrize("name", ["50%20off", "what?"])
def test_characters_that_mlflow_cannot_open(tmp_path: Path, name: str) -> None:
    """MLflow would open another file than the one that is meant."""
    assert "has '%' or '?' in it" in refusal(tmp_path / name)


def test_experiment_with_artifacts_elsewhere(folder: Path, tmp_path: Path) -> None:
    """An existing experiment keeps its local artifact folder, which is mounted as well."""
    store = find_store(None, folder, {"MLFLOW_DISABLE_TELEMETRY": "true"})
    elsewhere = tmp_path / "with space" / "1"

    access = store.access(f"file://{tmp_path}/with%20space/1", folder, {"HOME": "/root"})

    assert access == StoreAccess(
        environment=(("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow-store/mlflow.db"),),
        folders=(folder / "mlflow-store", elsewhere),
    )


def test_artifacts_that_hold_the_working_tree(folder: Path) -> None:
    """An artifact folder above the launch folder is not mounted: containers would see it all."""
    store = find_store(None, folder, {})

    with pytest.raises(TrackingError, match="which holds the launch folder") as caught:
        store.access(str(folder.parent), folder, {})
    assert "Use another hydra.launcher.mlflow.experiment_name" in str(caught.value)


def test_experiment_of_a_server_opened_as_a_database(folder: Path) -> None:
    """Artifacts that only the server in front of the database can reach: name the server."""
    store = find_store(None, folder, {})

    with pytest.raises(TrackingError, match="behind a tracking server") as caught:
        store.access("mlflow-artifacts:/3", folder, {})
    assert "Set hydra.launcher.mlflow.tracking_uri to the server's address" in str(caught.value)


def test_server(folder: Path) -> None:
    """A server is reached by its URL; MLflow's credentials travel, other variables do not."""
    environment = {
        "MLFLOW_TRACKING_USERNAME": "ann",
        "MLFLOW_TRACKING_PASSWORD": "pw",
        "MLFLOW_TRACKING_TOKEN": "",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "AWS_SECRET_ACCESS_KEY": "no",
    }
    store = find_store("https://host/mlflow", folder, environment)

    assert store.access("/on/the/server", folder, environment) == StoreAccess(
        environment=(
            ("MLFLOW_TRACKING_USERNAME", "ann"),
            ("MLFLOW_TRACKING_PASSWORD", "pw"),
            ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ),
        folders=(),
        url="https://host/mlflow",
        url_variable="MLFLOW_TRACKING_URI",
    )


def test_database_server(folder: Path) -> None:
    """A database server is reached by its URI; local artifacts stay out of the working tree."""
    uri = "postgresql+psycopg2://ann:pw@db:5432/runs"
    store = find_store(uri, folder, {})
    location = store.artifact_location("train")

    assert location == f"{folder}/mlflow-store/artifacts/train"
    assert store.access(location, folder, {}) == StoreAccess(
        environment=(("MLFLOW_TRACKING_URI", uri),), folders=(Path(location),)
    )
    assert store.shown == "postgresql+psycopg2://ann:***@db:5432/runs"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://ann:pass@host/x", "https://ann:***@host/x"),
        ("https://ghp_token@host/x", "https://***@host/x"),
        ("https://host/x?api_key=abc", "https://host/x?api_key=***"),
        ("https://host:5000/ann@x", "https://host:5000/ann@x"),
    ],
)
def test_address_without_secrets(folder: Path, uri: str, shown: str) -> None:
    """A password, a token in the user's place, a parameter that is one: in no message."""
    store = find_store(uri, folder, {})
    assert store.shown == shown
    assert store.masked(f"cannot reach {uri}") == f"cannot reach {shown}"


def test_secrets(folder: Path) -> None:
    """What containers get to log in, and what the address has of it."""
    store = find_store("https://ann:of-url@host/x", folder, {})
    environment = {"MLFLOW_TRACKING_TOKEN": "of-variable", "MLFLOW_TRACKING_USERNAME": "ann"}
    assert store.secrets(environment) == ("of-variable", "of-url")


def test_databricks(folder: Path) -> None:
    """Databricks is MLflow's business: name and credentials are handed on."""
    environment = {"DATABRICKS_HOST": "https://dbc", "DATABRICKS_TOKEN": "t"}
    store = find_store("databricks", folder, environment)

    assert store.artifact_location("train") is None
    assert store.access("dbfs:/1", folder, environment).environment == (
        ("MLFLOW_TRACKING_URI", "databricks"),
        ("DATABRICKS_HOST", "https://dbc"),
        ("DATABRICKS_TOKEN", "t"),
    )


def test_artifact_locations_differ(folder: Path) -> None:
    """Each experiment has a folder of its own, whatever characters its name has."""
    store = find_store(None, folder, {})
    names = ["train", "a/b", "a_b", "a b", "..", "../x", "é" * 300, "%", "?"]

    locations = [Path(store.artifact_location(name) or "") for name in names]

    assert locations[0] == folder / "mlflow-store" / "artifacts" / "train"
    assert len(set(locations)) == len(names)
    assert {location.parent for location in locations} == {folder / "mlflow-store" / "artifacts"}
    assert not {location.name for location in locations} & {"", ".", ".."}


def test_names_that_mlflow_takes() -> None:
    """Names are changed where MLflow would refuse them, and no two become one."""
    long = "x" * 300
    names = [
        "lr",
        "a.b/c d:e-f",
        "x[0]",
        "x@0=",
        "/abs",
        "a//b",
        "../up",
        ".",
        "",
        long,
        long + "y",
    ]

    assert list(named(dict.fromkeys(names))) == [
        "lr",
        "a.b/c d:e-f",
        "x_0_",
        "x_0__2",
        "_abs",
        "a__b",
        "_up",
        "_",
        "__2",
        "x" * 250,
        "x" * 248 + "_2",
    ]


def test_long_values_show_that_they_were_cut() -> None:
    """A value keeps its beginning and ends in a mark; one that fits is left alone."""
    assert shortened("x" * 20, 20) == "x" * 20
    assert shortened("x" * 21, 20) == "x" * 13 + "… (cut)"
