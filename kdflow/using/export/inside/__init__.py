"""Detectors as a graph without Python can hold them: a fixed input size, and as many candidates for every picture."""
