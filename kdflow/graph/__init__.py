"""The graph of detectors and method: built, checked, lowered to an executable plan."""
