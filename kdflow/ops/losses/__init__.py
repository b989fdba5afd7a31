"""Losses: what a student is told about its difference from a teacher. They keep their elements; a term reduces them."""
