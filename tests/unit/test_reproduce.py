"""Reproduce: past jobs run again, on a fake engine and a fake tracking system."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from fakes import GIB, FakeEngine, FakeHistory, FakeTracker, Play
from past import CONFIGS, IMAGE, OPTIONS, ROOT, a_past_job, a_record, a_run
from test_launcher import FACTS

from hydra_plugins.hydra_docker_launcher._engine import (
    Boundary,
    ContainerSpec,
    Host,
    Image,
    Limits,
    Mount,
)
from hydra_plugins.hydra_docker_launcher._errors import ImageError, OptionError, ReproduceError
from hydra_plugins.hydra_docker_launcher._past_job import PastJob
from hydra_plugins.hydra_docker_launcher._report import read_back, report
from hydra_plugins.hydra_docker_launcher._reproduce import (
    Again,
    FoundImage,
    completed,
    find_image,
    reproduce,
)
from hydra_plugins.hydra_docker_launcher._wish import Wish

RUN = "a" * 32
DIGEST = f"registry/train@sha256:{'2' * 64}"
YAML = "lr: 0.1\nmodel:\n  name: mlp\n"


@dataclass
class Bench:
    """A clone of the repository, not where it was, and what a command in it talks to."""

    folder: Path
    commit: str
    engine: FakeEngine
    tracker: FakeTracker = field(default_factory=FakeTracker)
    places: list[Path] = field(default_factory=list)

    def job(self, run: dict[str, Any] | None = None, **record: Any) -> PastJob:
        source = replace(a_record().source, commit=self.commit)
        return a_past_job(run=a_run(**(run or {})), record=a_record(source=source, **record))

    def reproduce(self, *past: PastJob, asked: str = RUN, **wish: Any) -> list[Again] | None:
        def make_tracker(_options, folder, _user):
            self.places.append(folder)
            return self.tracker

        return reproduce(
            past or (self.job(),),
            Wish(self.folder, self.output, self.folder.parent / "cache", **wish),
            asked=asked,
            engine=self.engine,
            make_tracker=make_tracker,
        )

    @property
    def output(self) -> Path:
        return self.folder / "reproduced" / "now"

    @property
    def spec(self) -> ContainerSpec:
        (spec,) = self.engine.specs.values()
        return spec

    def record(self, run: str = "run-0") -> Any:
        return json.loads(self.tracker.jobs[run].artifacts["job.json"])


@pytest.fixture
def bench(tmp_path, monkeypatch, commit_files):
    commit = commit_files({"train.py": "print(1)", "Dockerfile": "FROM scratch"})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    engine = FakeEngine(
        local={IMAGE.id: IMAGE}, answer=lambda spec: (0, "\n@facts@" + json.dumps(FACTS))
    )
    return Bench(tmp_path / "project", commit, engine)


def test_container(bench):
    """The job sees the paths of then; the host keeps its outputs in the new folder."""
    bench.reproduce()
    place = "/home/ada/project/multirun/then/0/.docker"
    guards = (
        Mount(f"{bench.output}/0/.docker", place),
        *(
            Mount(f"{bench.output}/0/.docker/{name}", f"{place}/{name}", read_only=True)
            for name in ("config.yaml", "job.pickle")
        ),
    )
    assert bench.spec == ContainerSpec(
        name="train-now-0",
        image=f"sha256:{0xABC:064x}",
        command=("python3", "/hydra/worker.py"),
        working_dir="/home/ada/project",
        limits=Limits(1.5, 2 * GIB, 2 * GIB, GIB, 4096),
        boundary=Boundary(
            user=None, cap_drop=("ALL",), security_opt=("no-new-privileges:true",), init=True
        ),
        environment=(
            ("MLFLOW_RUN_ID", "run-0"),
            ("PYTHONUNBUFFERED", "1"),
            ("HYDRA_DOCKER_ATTEMPT", "1"),
        ),
        mounts=(
            Mount(f"{bench.output}/0", "/home/ada/project/multirun/then/0"),
            Mount(f"{bench.output}/0/.docker/config.yaml", "/hydra/config.yaml", read_only=True),
            Mount(f"{bench.output}/0/.docker/job.pickle", "/hydra/job.pickle", read_only=True),
            *guards,
        ),
        labels=bench.spec.labels,
    )
    labels = dict(bench.spec.labels)
    assert labels["hydra.docker.commit"] == bench.commit
    assert labels["hydra.docker.folder"] == str(bench.output)
    assert bench.engine.layers[0][3] == "/home/ada/project"
    assert (bench.output / "0/.docker/config.yaml").read_text() == YAML
    artifacts = bench.tracker.jobs["run-0"].artifacts
    assert artifacts["job.pickle"] == b"what the worker reads"
    assert artifacts["config.yaml"] == YAML


def test_tracked(bench):
    """The new run is one of the same experiment, and tagged with the one that it repeats."""
    again = bench.reproduce(bench.job(run={"experiment": "nets"}))
    assert bench.places == [bench.folder]
    assert bench.tracker.sweep.experiment == "nets"
    assert bench.tracker.sweep.name == "reproduce aaaaaaaa"
    assert bench.tracker.sweep.tags["hydra.docker.reproduces"] == RUN
    assert bench.tracker.jobs["run-0"].tags["hydra.docker.reproduces"] == RUN
    assert again[0].run_id == "run-0"
    assert again[0].remarks == ()
    assert completed(again)


def test_can_be_reproduced_in_turn(bench):
    """The record of the new run is that of then: options that were settled here are not in it."""
    bench.reproduce()
    record = bench.record()
    assert record["options"] == OPTIONS
    assert record["output_dir"] == "/home/ada/project/multirun/then/0"
    assert record["source"]["root"] == "/home/ada/project"
    assert record["task"]["target"] == "/home/ada/project/train.py"


def test_provenance(bench):
    """Where the config came from is told as it was: it is not composed again."""
    bench.reproduce()
    document = json.loads(bench.tracker.jobs["run-0"].artifacts["provenance.json"])
    assert document["configs"] == CONFIGS
    assert document["overrides"] == ["hydra/launcher=docker"]
    assert document["job"]["hydra"] == {"mode": "MULTIRUN"}
    assert document["job"]["output_dir"] == "/home/ada/project/multirun/then/0"
    assert document["source"]["commit"] == bench.commit


def test_sweep(bench):
    """All jobs of a sweep run as one new sweep, each under its own number; one fails again."""
    bench.engine.plays = {3: Play(exit_code=3, result=None)}
    jobs = [bench.job(), bench.job(run={"id": "b" * 32}, number=3)]
    again = bench.reproduce(*jobs, asked="s" * 32)
    assert [(job.outcome.end.value, job.run_id) for job in again] == [
        ("completed", "run-0"),
        ("exited", "run-3"),
    ]
    assert not completed(again)
    assert bench.tracker.sweep.tags["hydra.docker.reproduces"] == "s" * 32
    assert bench.tracker.jobs["run-3"].tags["hydra.docker.reproduces"] == "b" * 32
    assert bench.tracker.statuses == ["RUNNING", "FAILED"]
    history = FakeHistory()
    history.read(bench.tracker)
    text = report(read_back(again, history))
    assert text.splitlines()[-1] == "1 of 2 completed; metrics the same in 0"


def test_dry_run(bench, capsys):
    """A dry run prints the container, and neither pulls nor starts anything."""
    bench.engine.local = {}
    past = bench.job(image=replace(IMAGE, digest=DIGEST))
    assert bench.reproduce(past, dry_run=True) is None
    out = capsys.readouterr().out
    assert f"IMAGE is {DIGEST}" in out
    assert "target=/home/ada/project/multirun/then/0" in out
    assert bench.engine.calls == []
    assert bench.tracker.sweep is None


# ---- the image -----------------------------------------------------------------------------------


def test_image_by_id(bench):
    """The image of then is known by its id, whatever its tag has come to mean."""
    bench.engine.local["train:1"] = Image("sha256:other", "train:1")
    bench.reproduce()
    assert bench.engine.layers[0][0] == IMAGE.id


def test_image_by_digest():
    """An image that is gone from here is pulled by its digest."""
    image = replace(IMAGE, digest=DIGEST)
    engine = FakeEngine(registry={DIGEST: image})
    found = FoundImage(DIGEST, f"the image was had by its digest, {DIGEST}")
    assert find_image(engine, image, built=False) == found
    assert engine.calls == [("pull", DIGEST)]


def test_image_with_a_digest():
    """An image that is here is named by its digest, so that the new run tells it too."""
    image = replace(IMAGE, digest=DIGEST)
    engine = FakeEngine(local={DIGEST: image, IMAGE.id: image})
    assert find_image(engine, image, built=False) == FoundImage(DIGEST)
    engine.local = {IMAGE.id: image}  # it was built here, and pushed since
    assert find_image(engine, image, built=False) == FoundImage(IMAGE.id)
    engine.local = {DIGEST: replace(image, id="sha256:another platform")}
    remark = f"the image was had by its digest, {DIGEST}"
    assert find_image(engine, image, built=True) == FoundImage(DIGEST, remark)
    assert engine.calls == []


def test_options_come_first(bench):
    """A wrong option is refused before an image is pulled or a commit fetched."""
    image = replace(IMAGE, digest=DIGEST)
    bench.engine.local, bench.engine.registry = {}, {DIGEST: image}
    source = replace(a_record().source, remote_url="file:///nowhere")
    past = a_past_job(record=a_record(source=source, image=image))
    with pytest.raises(OptionError, match="mem_limit=lots"):
        bench.reproduce(past, options=(("mem_limit", "lots"),))
    assert bench.engine.calls == []
    assert not (bench.folder.parent / "cache" / "repositories").exists()


def test_image_is_built_again(bench):
    """An image that was built and is gone is built from the commit, and the report says so."""
    bench.engine.local = {}
    past = bench.job(options={**OPTIONS, "image": None})
    again = bench.reproduce(past)
    assert [call[0] for call in bench.engine.calls[:2]] == ["build", "add_layer"]
    assert bench.engine.builds[0].text == "FROM scratch"
    remark = (
        "the image of then is gone (111111111111 is not on this engine): built again from the "
        "commit"
    )
    assert again[0].remarks == (remark,)
    assert bench.record()["options"]["image"] is None


def test_image_is_gone():
    """An image that was named and is gone is an error that says what was tried, and a way out."""
    with pytest.raises(ReproduceError) as raised:
        find_image(FakeEngine(), replace(IMAGE, digest=DIGEST), built=False)
    assert str(raised.value) == (
        "The image train:1 of then is gone: 111111111111 is not on this engine; Could not pull the "
        f"image {DIGEST}: no such image.\nName one that is close to it with --set image=..., for "
        "example the one that train:1 is now."
    )


def test_another_image(bench):
    """Another image that is asked for is used, even where the one of then is gone."""
    bench.engine.local = {"train:2": Image("sha256:2", "train:2")}
    (again,) = bench.reproduce(options=(("image", "train:2"),))
    assert bench.engine.layers[0][0] == "sha256:2"
    assert again.remarks == ("another image was asked for: train:2",)
    assert bench.record()["options"]["image"] == "train:2"


def test_error_of_the_engine(bench):
    """What the engine cannot do is an error of the engine."""
    bench.engine.find_image = lambda reference: (_ for _ in ()).throw(ImageError("no answer"))
    with pytest.raises(ImageError, match="no answer"):
        bench.reproduce()


# ---- options -------------------------------------------------------------------------------------


def test_volumes_that_moved(bench, tmp_path):
    """--volume says where the source of a volume is now; its target stays."""
    (tmp_path / "my data").mkdir()
    options = {**OPTIONS, "volumes": ["/mnt/data:/data:ro", "cache:/cache"]}
    bench.engine.volumes = frozenset(["cache"])
    bench.reproduce(bench.job(options=options), volumes=(("/mnt/data", f"{tmp_path}/my data"),))
    assert bench.spec.mounts[3:5] == (
        Mount(f"{tmp_path}/my data", "/data", read_only=True),
        Mount("cache", "/cache", named=True),
    )
    assert bench.record()["options"]["volumes"] == [f"{tmp_path}/my data:/data:ro", "cache:/cache"]


def test_volume_of_a_variable(bench, tmp_path, monkeypatch):
    """A source that was a variable is one again, and can be moved by its name."""
    past = bench.job(options={**OPTIONS, "volumes": ["${oc.env:DATA}:/data"]})
    moved = (("${oc.env:DATA}", str(tmp_path)),)
    bench.reproduce(past, volumes=moved)
    assert bench.spec.mounts[3] == Mount(str(tmp_path), "/data")


@pytest.mark.parametrize(
    ("options", "wish", "message"),
    [
        (
            {"volumes": ["/mnt/data:/data"]},
            {"volumes": (("/mnt", "/"),)},
            "--volume /mnt=…: no volume of then has that source; there were: /mnt/data",
        ),
        ({}, {"volumes": (("/x", "/"),)}, "--volume /x=…: no volume of .*; there was none"),
        ({"volumes": ["/gone:/data"]}, {}, "(?s)run a+: hydra.launcher.volumes=.*--volume THEN=NO"),
        ({}, {"options": (("mem_limt", "4g"),)}, "mem_limt is not an option.*mean mem_limit"),
        ({}, {"options": (("commit", "HEAD"),)}, "--set commit=…: the commit is that of then"),
        ({}, {"options": (("dry_run", True),)}, "--set dry_run=…: say --dry-run"),
        ({}, {"options": (("cpus.x", 1),)}, "cpus={'x': 1}: must be a number"),
        ({}, {"options": (("cpus", 64),)}, "(?s)job #0.*cpus=64 is more than box has.*--set NAME="),
    ],
)
def test_refused(bench, options, wish, message):
    """What cannot be is refused before anything starts, with a way out."""
    with pytest.raises(OptionError, match=message):
        bench.reproduce(bench.job(options={**OPTIONS, **options}), **wish)
    assert [call[0] for call in bench.engine.calls] == []
    assert not bench.output.exists()


def test_other_options(bench):
    """--set replaces an option of then, and is written down."""
    wish = (("mem_limit", "4g"), ("memswap_limit", None), ("labels.team", "vision"))
    bench.reproduce(options=wish)
    assert bench.spec.limits == Limits(1.5, 4 * GIB, 4 * GIB, GIB, 4096)
    assert dict(bench.spec.labels)["team"] == "vision"
    assert bench.record()["options"]["labels"] == {"team": "vision"}
    assert bench.record()["options"]["mem_limit"] == 4 * GIB


def test_smaller_machine(bench):
    """A limit of then that this machine cannot give is refused, and says how to give another."""
    bench.engine.machine = Host(name="small", engine="Fake 1.0", cpus=1, memory=GIB)
    with pytest.raises(OptionError, match=r"(?s)cpus=1.5 is more than small has: 1 .*--set NAME="):
        bench.reproduce()


# ---- the environment -----------------------------------------------------------------------------


def test_variable(bench, monkeypatch):
    """A variable of the host of then is that of the host of now, and written down by its name."""
    monkeypatch.setenv("SECRET", "from here")
    environment = {"TOKEN": "${oc.env:SECRET}", "PLAIN": "then", "NAME": "${model.name}"}
    bench.reproduce(bench.job(options={**OPTIONS, "environment": environment}))
    (container,) = bench.engine.made.values()
    variables = container.variables
    assert "TOKEN" not in dict(bench.spec.environment)
    assert (variables["TOKEN"], variables["PLAIN"], variables["NAME"]) == (
        "from here",
        "then",
        "mlp",
    )
    assert bench.record()["options"]["environment"] == environment


def test_variable_that_is_not_set(bench, monkeypatch):
    """The error says which variable to set."""
    monkeypatch.delenv("SECRET", raising=False)
    past = bench.job(options={**OPTIONS, "environment": {"TOKEN": "${oc.env:SECRET}"}})
    with pytest.raises(ReproduceError) as raised:
        bench.reproduce(past)
    assert "Environment variable 'SECRET' not found" in str(raised.value)
    assert "Set that variable, or give the option with --set NAME=VALUE." in str(raised.value)


@pytest.mark.parametrize("environment", [{"TOKEN": None, "A": 1}, ["TOKEN", "A=1"]])
def test_variable_that_was_passed_on(bench, monkeypatch, environment):
    """A name without a value is no error where the host has none, but told of."""
    monkeypatch.delenv("TOKEN", raising=False)
    past = bench.job(options={**OPTIONS, "environment": environment})
    (again,) = bench.reproduce(past)
    assert again.remarks == (
        "TOKEN was passed on from the host's environment, and is not set here",
    )
    assert "TOKEN" not in dict(bench.spec.environment)


def test_variable_that_is_given(bench, monkeypatch):
    """A variable that is given needs not be set."""
    monkeypatch.delenv("TOKEN", raising=False)
    past = bench.job(options={**OPTIONS, "environment": {"TOKEN": None}})
    (again,) = bench.reproduce(past, options=(("environment.TOKEN", "given"),))
    assert again.remarks == ()
    (container,) = bench.engine.made.values()
    assert container.variables["TOKEN"] == "given"
    assert bench.record()["options"]["environment"] == {"TOKEN": "${oc.env:TOKEN}"}


# ---- what is not as it was -----------------------------------------------------------------------


def test_still_running(bench):
    """Of a run that has not ended, the report says that its metrics are not the last ones."""
    (again,) = bench.reproduce(bench.job(run={"status": "RUNNING"}))
    assert again.remarks == ("the run of then is still running: its metrics are those so far",)


def test_commit_is_gone(bench):
    """Without the commit nothing is looked for on the engine."""
    past = bench.job()
    source = replace(past.record.source, commit="d" * 40)
    with pytest.raises(ReproduceError, match="is not to be had"):
        bench.reproduce(replace(past, record=replace(past.record, source=source)))
    assert bench.engine.calls == []


def test_function_by_value(bench):
    """A function that was sent by value is in what the worker reads; this Python is not."""
    bench.engine.answer = lambda spec: (
        0,
        "\n@facts@" + json.dumps({**FACTS, "python": "3.9.1"}),
    )
    task = replace(a_record().task, kind="value", target="main")
    bench.reproduce(bench.job(task=task, script=None))
    assert bench.spec.working_dir == str(ROOT)
    assert bench.tracker.ends["run-0"].status == "FINISHED"
