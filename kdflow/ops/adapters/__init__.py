"""Adapters: trainable layers between student and teacher that are not exported."""
