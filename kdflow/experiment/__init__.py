"""Where the parts meet: a spec and a bench become detectors, data, a plan, a training run and a record."""
