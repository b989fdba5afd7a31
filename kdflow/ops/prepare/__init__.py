"""Preparations: state that both models build over the data before training or before each epoch."""
