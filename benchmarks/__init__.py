"""Speed of kdflow against hand-written loops and peers, as ratios of steps timed in one process; see README.md."""
