"""Pure functions of tensors, shared by ops and detectors."""
