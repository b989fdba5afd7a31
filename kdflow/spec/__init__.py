"""The spec language: methods and benches as documents, with line marks."""
