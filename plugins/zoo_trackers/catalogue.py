"""Rows of the trackers."""

from __future__ import annotations

from zoo.callback import Callback
from zoo.option import Option

# Seconds for an event, which may be the upload of a file
LIMIT = 120.0

WEIGHTS = Option(name="weights", default=False, summary="log the file of weights, too")

ROWS = (
    Callback(
        name="tensorboard",
        summary="TensorBoard: an event file in the run's folder",
        target="zoo_trackers.tensorboard:TensorBoard",
        options=(Option(name="folder", default="", summary="folder of the event files; the run's own by default"),),
        requires=("tensorboard",),
        install="pip install 'backbone-zoo[tensorboard]'",
        limit=LIMIT,
    ),
    Callback(
        name="mlflow",
        summary="MLflow: `mlflow.db` in the current folder, or a server",
        target="zoo_trackers.mlflow:MLflow",
        options=(
            Option(
                name="address",
                default="",
                summary="a server, a database or a file `*.db`; by default MLFLOW_TRACKING_URI, else `mlflow.db`",
            ),
            Option(name="experiment", default="", summary="its experiment; by default the study's name, else `zoo`"),
            WEIGHTS,
        ),
        requires=("mlflow", "sqlalchemy", "alembic"),
        install="pip install 'backbone-zoo[mlflow]'",
        limit=LIMIT,
    ),
    Callback(
        name="wandb",
        summary="Weights & Biases: files in the run's folder, sent nowhere without `online=true`",
        target="zoo_trackers.wandb:WeightsAndBiases",
        options=(
            Option(name="project", default="zoo", summary="its project"),
            Option(name="online", default=False, summary="send the run to the server, with the key in WANDB_API_KEY"),
            Option(name="entity", default="", summary="the user or team whose project it is; by default your own"),
            WEIGHTS,
        ),
        requires=("wandb",),
        install="pip install 'backbone-zoo[wandb]'",
        limit=LIMIT,
    ),
)
