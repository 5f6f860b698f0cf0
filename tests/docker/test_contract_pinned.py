"""A sweep runs one commit in one image, whatever happens to the working tree or the tag later."""

from __future__ import annotations

import io

from sweep_command import MakeRepository


def test_edits_are_not_seen(make_repository: MakeRepository, hydra_image: str) -> None:
    """Neither a running job nor a later batch sees an edit, a new commit, or a moved tag."""
    moving = "hydra-docker-test:moving"
    repository = make_repository("pinned", image=moving)
    api = repository.api
    api.tag(hydra_image, *moving.split(":"), force=True)
    first = api.inspect_image(moving)["Id"]
    commit = repository.commits[-1]
    command = repository.start("number=0,1", "hydra.sweeper.max_batch_size=1")

    command.wait_for_line(0, "waiting")
    for name in ("app.py", "late.py"):
        text = (repository.root / name).read_text()
        repository.write(name, text.replace("VERSION = 1", "VERSION = 2"))
    repository.commit()
    repository.write("late.py", "VERSION = 3\n")
    dockerfile = io.BytesIO(f"FROM {hydra_image}\nENV MOVED=yes\n".encode())
    assert [*api.build(fileobj=dockerfile, tag=moving, rm=True)]
    assert api.inspect_image(moving)["Id"] != first
    (command.folder / "0" / "go").touch()
    command.wait_for_line(1, "waiting")
    (command.folder / "1" / "go").touch()
    finished = command.finish()
    api.remove_image(moving)

    assert finished.status == 0, finished.output
    for number in (0, 1):
        expected = f"#{number} | app 1, late 1, script as committed, image None\n"
        assert expected in finished.output
    assert finished.ledger["source"]["commit"] == commit
    assert finished.ledger["image"]["id"] == first
    assert finished.outcomes == ["completed", "completed"]


def test_named_revision(make_repository: MakeRepository) -> None:
    """commit=HEAD~1 runs the files of that commit, not those that are checked out."""
    repository = make_repository("hello")
    text = (repository.root / "app.py").read_text()
    repository.write("app.py", text.replace("hello", "good morning"))
    repository.commit()
    repository.write("app.py", "what is being edited does not matter then")
    repository.write("app.py", text.replace("hello", "good night"))
    finished = repository.sweep("hydra.launcher.commit='HEAD~1'")
    assert finished.status == 0, finished.output
    assert "#0 | hello world\n" in finished.output
    assert finished.ledger["source"]["commit"] == repository.commits[0]
