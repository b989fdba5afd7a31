"""Relations: what vectors are to each other, as (n, m) tables."""
