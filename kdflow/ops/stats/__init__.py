"""Ops that turn a whole value into one number, for divisors and weights."""
