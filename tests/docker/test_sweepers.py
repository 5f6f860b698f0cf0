"""Return values reach a sweeper that needs them, from real containers: Optuna, in batches."""

from __future__ import annotations

import math
import re

import pytest
import yaml
from sweep_command import APPS, Finished, MakeRepository, Repository

SPACE = ("+x=interval(-5.0,5.0)", "+y=interval(-5.0,5.0)")
TPE = ("hydra/sweeper=optuna", "hydra/sweeper/sampler=tpe", "hydra.sweeper.sampler.seed=7")


@pytest.fixture(scope="module")
def repository(make_repository: MakeRepository) -> Repository:
    """The objective, four trials at once."""
    return make_repository("optimise", keep="none", n_jobs="4")


def study(finished: Finished) -> dict:
    return yaml.safe_load((finished.folder / "optimization_results.yaml").read_text())


def objective(params: dict[str, float]) -> float:
    return (params["+x"] - 2) ** 2 + (params["+y"] + 1) ** 2


def test_optimises_in_batches(repository: Repository) -> None:
    """Optuna gets each trial's value: the best one is the best of all, and belongs to its params.

    Three batches are one sweep: numbered through, in one ledger, on one commit.
    """
    finished = repository.sweep(*TPE, *SPACE, "hydra.sweeper.n_trials=12", "hydra.sweeper.n_jobs=4")
    assert finished.status == 0, finished.output
    assert finished.outcomes == ["completed"] * 12
    trials = [
        {key: float(value) for key, value in (item.split("=") for item in row["overrides"])}
        for row in finished.ledger["jobs"]
    ]
    results = study(finished)
    assert results["best_value"] == min(map(objective, trials))
    assert results["best_value"] == objective(results["best_params"])


def test_two_objectives(repository: Repository) -> None:
    """A returned tuple gives a value per objective."""
    finished = repository.sweep(
        "hydra/sweeper=optuna",
        "hydra/sweeper/sampler=nsgaii",
        *SPACE,
        "+objectives=2",
        "hydra.sweeper.direction=[minimize,minimize]",
        "hydra.sweeper.n_trials=4",
        "hydra.sweeper.n_jobs=4",
    )
    assert finished.status == 0, finished.output
    for solution in study(finished)["solutions"]:
        x, y = solution["params"]["+x"], solution["params"]["+y"]
        assert solution["values"] == [(x - 2) ** 2, (y + 1) ** 2]


def test_failed_trial(repository: Repository) -> None:
    """Where the sweeper tolerates failures, a failed trial does not end the study."""
    finished = repository.sweep(
        *TPE,
        *SPACE,
        "+fail_above=0",
        "hydra.sweeper.max_failure_rate=0.9",
        "hydra.sweeper.n_trials=8",
        "hydra.sweeper.n_jobs=4",
    )
    assert finished.status == 0, finished.output
    assert sorted(set(finished.outcomes)) == ["completed", "error"], finished.outcomes
    assert study(finished)["best_params"]["+x"] <= 0


def test_failed_trial_ends_the_study(repository: Repository) -> None:
    """Where it tolerates none, the study ends with the trial's own error."""
    finished = repository.sweep(
        *TPE, *SPACE, "+fail_above=-6", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=4"
    )
    assert finished.status == 1
    assert re.search(r"ValueError: x=.* is too much", finished.output)


def test_scalar_of_an_array_library(repository: Repository) -> None:
    """What has no shape and one item (NumPy, PyTorch) arrives as a number."""
    finished = repository.sweep(
        *TPE, *SPACE, "+array=true", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2"
    )
    assert finished.status == 0, finished.output
    assert isinstance(study(finished)["best_value"], float)


#: What tests/apps/numbers returns, and what the sweeper gets of it.
NUMBERS = {
    "float32": 0.10000000149011612,
    "int64": 3,
    "bool": True,
    "array_0d": 2.5,
    "array_of_one": 2.5,
    "array": [[1, 2], [3, 4]],
    "objectives": [1.0, 0.5],
    "metrics": {"loss": math.nan, "epochs": 3, "best": True},
    "complex": "np.complex128(1+2j)",
}


def test_numpy(make_repository: MakeRepository, mlflow_image: str) -> None:
    """NumPy's scalars arrive as Python's numbers, alone and in collections; arrays as lists.

    What JSON does not have arrives as its repr, with a warning that names job and type.
    """
    repository = make_repository("numbers", image=mlflow_image, keep="none")
    sweeper = "hydra_plugins/recording_sweeper.py"
    repository.write(sweeper, (APPS / "ends" / sweeper).read_text())
    repository.commit()

    finished = repository.sweep(f"+name={','.join(NUMBERS)}", "hydra/sweeper=recording")

    assert finished.status == 0, finished.output
    values = [row["value"] for row in finished.results]
    assert repr(values) == repr(list(NUMBERS.values()))  # which tells 1 from 1.0 and from True
    warning = (
        "job #8 (+name=complex) returned a numpy.complex128, which is no JSON value: the sweeper "
        "gets its repr. Return numbers, strings, lists or dicts, and write anything else to the "
        "output folder."
    )
    found = re.findall(r"^.*no JSON value.*$", finished.output, re.MULTILINE)
    assert [line.partition("[HYDRA] ")[2] for line in found] == [warning]
