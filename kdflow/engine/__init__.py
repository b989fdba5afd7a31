"""Training, evaluation and their safety: one loop for every method, detector and teacher."""
