"""kdflow: declare a knowledge-distillation method for object detectors in one YAML file, and run it."""
