"""Detectors made from the parameters of a golden case, for methods that call stages."""
