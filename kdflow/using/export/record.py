"""An ONNX export as a model of the run's MLflow record."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from kdflow.errors import KdflowError, MissingPackageError, UsageError
from kdflow.tracking.store import open_client, quiet, store_uri
from kdflow.using.export.formats import Exported
from kdflow.using.saved import reopen

ADDRESS = "MLFLOW_TRACKING_URI"


def keep(run: str | Path, done: Exported, format: str) -> str:
    """Keep an export in the store of its run, with the signature of its pictures and detections; returns the model's address.

    Raises:
        UsageError: It is no ONNX file, or the run has no record.
        KdflowError: The store refuses it.
    """
    if format != "onnx":
        raise UsageError("a model of MLflow needs inputs and outputs that it can name: --format onnx")
    saved = reopen(run)
    if saved.result is None or not saved.result.run_id:
        raise UsageError(f"{saved.folder}: this run has no record in MLflow")
    try:
        import mlflow
        import onnx
        from mlflow.models import ModelSignature
        from mlflow.types.schema import Schema, TensorSpec
    except ImportError as error:
        raise MissingPackageError("this needs MLflow and onnx: pip install kdflow[export]") from error
    real, whole = np.dtype(np.float32), np.dtype(np.int64)
    inputs = [TensorSpec(np.dtype(np.uint8), (-1, 3, -1, -1), "pictures")]
    outputs = [
        TensorSpec(real, (-1, 4), "boxes"),
        TensorSpec(real, (-1,), "scores"),
        TensorSpec(whole, (-1,), "labels"),
        TensorSpec(whole, (-1,), "picture"),
    ]
    uri = store_uri(None, saved.folder.parent.parent)
    open_client(uri)
    before = os.environ.get(ADDRESS)
    try:
        mlflow.set_tracking_uri(uri)
        with quiet(), mlflow.start_run(run_id=saved.result.run_id):
            kept = mlflow.onnx.log_model(
                onnx.load(str(done.folder / "model.onnx")),
                name=done.folder.name,
                signature=ModelSignature(Schema(inputs), Schema(outputs)),
                pip_requirements=["onnx", "onnxruntime"],
            )
    except Exception as error:  # the store is foreign code
        raise KdflowError(f"the tracking store refuses the model: {str(error).splitlines()[0]}") from error
    finally:
        mlflow.set_tracking_uri(None)  # which also clears the variable that it had set
        if before is not None:
            os.environ[ADDRESS] = before
    return str(kept.model_uri)
