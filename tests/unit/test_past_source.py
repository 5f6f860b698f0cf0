"""Past source: a repository of this host that has a past commit, in real repositories."""

from pathlib import Path

import pytest
from git_repository import GitRepository, init, isolate, pin_at

from hydra_plugins.hydra_docker_launcher._errors import ReproduceError
from hydra_plugins.hydra_docker_launcher._past_source import FoundSource, Places, locate
from hydra_plugins.hydra_docker_launcher._source import Source, files, patch

ADVICE = (
    "Run this in a clone that has it, or name one with --repository, or the address of one with "
    "--remote."
)
GONE = Path("/home/ada/project")


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    isolate(tmp_path, monkeypatch)


@pytest.fixture
def project(tmp_path):
    """A repository with one commit."""
    repository = init(tmp_path / "project")
    repository.commit(train__py="print(1)")
    return repository


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "repositories"


def source(commit, remote=None, root=GONE, **more):
    return Source(root, commit, "main", remote, **more)


def url(repository):
    return f"file://{repository.root}"


def test_in_the_folder_of_the_command(project, cache):
    """The repository that the command is started in may be anywhere."""
    commit = project.git("rev-parse", "HEAD")
    folder = project.write("sub/file").parent
    found = locate(source(commit), Places((folder, GONE), None, cache))
    assert found == FoundSource(source(commit, clone=project.root))
    assert files(found.source) == {"train.py"}
    assert not cache.exists()


def test_where_it_was(project, tmp_path, cache):
    """In another repository, or in none, the one of then is used."""
    other = init(tmp_path / "other")
    other.commit()
    commit = project.git("rev-parse", "HEAD")
    past = source(commit, root=project.root)
    for folder in (other.root, tmp_path):
        found = locate(past, Places((folder, project.root), None, cache))
        assert found == FoundSource(source(commit, root=project.root, clone=project.root))


def test_only_at_the_remote(project, cache):
    """The remote of then is cloned into the cache; what comes later is fetched into that clone."""
    for text in ("1", "2"):
        commit = project.commit(train__py=text)
        found = locate(source(commit, url(project)), Places((GONE,), None, cache))
        (clone,) = (path for path in cache.iterdir() if path.is_dir())
        assert found == FoundSource(
            source(commit, url(project), clone=clone), f"the commit is from {url(project)}"
        )
        assert files(found.source) == {"train.py"}


def test_another_remote(project, cache):
    """An address that is given is used instead of that of then."""
    commit = project.git("rev-parse", "HEAD")
    past = source(commit, "https://nobody.invalid/project")
    found = locate(past, Places((), url(project), cache))
    assert found.remark == f"the commit is from {url(project)}"


def test_relative_remote(project, cache):
    """A remote that was a relative path is looked for from the repository of then."""
    commit = project.git("rev-parse", "HEAD")
    past = source(commit, "../project", root=project.root.parent / "gone")
    found = locate(past, Places((), None, cache))
    assert found.remark == f"the commit is from {project.root}"


def test_deleted_branch(project, cache):
    """A commit that is on no branch any more is had from a server that gives it by its id."""
    project.git("checkout", "--quiet", "-b", "tried")
    commit = project.commit(train__py="tried")
    project.git("checkout", "--quiet", "-")
    project.git("branch", "--quiet", "-D", "tried")
    project.git("config", "uploadpack.allowAnySHA1InWant", "true")
    found = locate(source(commit, url(project)), Places((), None, cache))
    assert files(found.source) == {"train.py"}


def test_submodules(project, tmp_path, cache, monkeypatch):
    """A clone in the cache has the submodules at their commits."""
    library = init(tmp_path / "library")
    library.commit(library__py="")
    project.add_submodule(library, "lib")
    commit = project.commit()
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "protocol.file.allow")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "always")
    found = locate(source(commit, url(project)), Places((), None, cache))
    assert (found.source.repository / "lib" / "library.py").is_file()


def test_nowhere(project, tmp_path, cache):
    """The error says what was tried, and why it was of no use."""
    missing = tmp_path / "missing"
    past = source("d" * 40, f"file://{missing}")
    with pytest.raises(ReproduceError) as raised:
        locate(past, Places((project.root, GONE), None, cache))
    message = str(raised.value).splitlines()
    assert message[:3] == [
        "Commit dddddddddddd of /home/ada/project is not to be had. Tried:",
        f"  {project.root}: does not have it",
        "  /home/ada/project: no repository",
    ]
    assert message[3].startswith(f"  file://{missing}: fatal: ")
    assert message[4:] == [ADVICE]
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_never_pushed(project, cache):
    """A remote that does not have the commit says so."""
    with pytest.raises(ReproduceError, match=rf"{url(project)}: Commit d+ is not in .* never push"):
        locate(source("d" * 40, url(project)), Places((), None, cache))


def test_no_place(cache):
    """Without a repository and without a remote there is nothing to try."""
    with pytest.raises(ReproduceError, match="Tried: nothing"):
        locate(source("d" * 40), Places((), None, cache))


def test_password(cache):
    """A password in an address is not shown."""
    with pytest.raises(ReproduceError) as raised:
        locate(source("d" * 40), Places((), "https://ada:secret@127.0.0.1:1/project", cache))
    assert "https://127.0.0.1:1/project" in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("where", ["here", "remote"])
def test_snapshot(project, tmp_path, cache, where):
    """A snapshot that nobody has is made again: the same commit, of its parent and its patch."""
    project.git("clone", "--quiet", str(project.root), str(tmp_path / "other"))
    other = GitRepository(tmp_path / "other")
    project.write("train.py", "print(2)")
    snapshot = pin_at(project.root, dirty="snapshot")
    past = source(snapshot.commit, url(other), parent=snapshot.parent)
    folders = (other.root,) if where == "here" else ()

    found = locate(past, Places(folders, None, cache), patch(snapshot))

    assert found.source.commit == snapshot.commit
    assert found.source.changed == ("train.py",)
    assert found.source.root == GONE
    assert (found.source.repository == other.root) == (where == "here")
    assert found.remark == (
        f"the commit was made again: {snapshot.base[:12]} with the patch of the run"
    )


def test_snapshot_that_is_there(project, cache):
    """Where the hidden ref has it, the snapshot is used as it is."""
    project.write("train.py", "print(2)")
    snapshot = pin_at(project.root, dirty="snapshot")
    past = source(snapshot.commit, parent=snapshot.parent)
    found = locate(past, Places((project.root,), None, cache), patch(snapshot))
    assert found.remark is None
    assert found.source.commit == snapshot.commit


def test_snapshot_without_its_parent(project, cache):
    """A patch is of no use without the commit that it is one of."""
    past = source("d" * 40, parent="e" * 40)
    with pytest.raises(ReproduceError, match="not to be had, and the patch is one of eeeeeeeeeeee"):
        locate(past, Places((project.root,), None, cache), b"diff")
