"""Results, measured and published: records, questions to them, and how the answers are shown."""
