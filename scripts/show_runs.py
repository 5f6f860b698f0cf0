"""Print the newest sweep of an experiment, as MLflow's default store in this folder has it."""

import os
import sys
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run


def main(experiment_name: str) -> None:
    client = MlflowClient("sqlite:///mlflow.db")
    experiment = client.get_experiment_by_name(experiment_name)
    if experiment is None:
        sys.exit(f"there is no experiment {experiment_name} in {Path.cwd() / 'mlflow.db'}")
    runs = client.search_runs([experiment.experiment_id], order_by=["start_time DESC"])
    newest = next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    parent = newest.info.run_id
    jobs = [run for run in reversed(runs) if run.data.tags.get("mlflow.parentRunId") == parent]
    print(f"\nexperiment {experiment_name}, sweep {newest.info.run_name}: {newest.info.status}")
    print(f"commit {newest.data.tags['mlflow.source.git.commit'][:12]}", end=", ")
    print(f"image {newest.data.tags['mlflow.docker.image.id'][7:19]}\n")
    names = ("run", "status", "accuracy", "loss", "seconds")
    rows = [names, *map(_row, jobs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(names))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    print("\nthe resolved YAML of each run:")
    for run in jobs:
        path = Path(run.info.artifact_uri.removeprefix("file://"), "config.yaml")
        print(f"  {run.info.run_name:<16}{os.path.relpath(path)}")


def _row(run: Run) -> tuple[str, ...]:
    info, data = run.info, run.data
    return (
        info.run_name,
        info.status,
        f"{data.metrics.get('test_accuracy', float('nan')):.4f}",
        f"{data.metrics.get('loss', float('nan')):.4f}",
        f"{(info.end_time - info.start_time) / 1000:.1f}",
    )


if __name__ == "__main__":
    main(sys.argv[1])
