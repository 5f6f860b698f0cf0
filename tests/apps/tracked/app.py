"""Logs into MLflow in every way that a script may."""

import os
import signal
import time
from pathlib import Path

import hydra
import mlflow


def metrics():
    for step in range(3):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.log_text("from the script", "notes/note.txt")
    seen = {path.name for path in Path.cwd().iterdir()}
    mlflow.log_dict({"seen": sorted(seen)}, "seen.json")
    return 0.75


def returns_numbers():
    return {"accuracy": 0.5, "epochs": 3, "note": "no number"}


def ends_its_run():
    with mlflow.start_run():
        mlflow.log_metric("loss", 1)
    mlflow.MlflowClient().set_terminated(os.environ["MLFLOW_RUN_ID_KEPT"], "FAILED")


def crashes():
    mlflow.start_run()
    raise ValueError("loss is nan")


def dies():
    mlflow.start_run()
    os.kill(os.getpid(), signal.SIGKILL)


def logs_another_value():
    mlflow.log_param("optimizer.lr", "tuned")


def waits():
    mlflow.start_run()
    print("waiting", flush=True)
    time.sleep(60)


def many():
    for step in range(200):
        mlflow.log_metric("loss", step, step=step)


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg):
    os.environ["MLFLOW_RUN_ID_KEPT"] = os.environ.get("MLFLOW_RUN_ID", "")
    return globals()[cfg.how]()


if __name__ == "__main__":
    main()
