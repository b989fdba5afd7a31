"""The operations a spec is written with; one per file, each described by its own signature."""
