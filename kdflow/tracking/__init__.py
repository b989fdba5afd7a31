"""Where runs are written down while they happen: MLflow, or memory."""
