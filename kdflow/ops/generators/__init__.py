"""Generators: trainable blocks that rebuild features; not exported."""
