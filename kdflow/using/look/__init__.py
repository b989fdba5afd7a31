"""A trained student looked at: beside ground truth, teacher and plain student, on one page that needs no network."""
