"""Masks: which places of a map count."""
