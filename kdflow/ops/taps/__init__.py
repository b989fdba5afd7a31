"""Taps: choosing and pairing levels."""
