"""What a recipe of augmentation does to the boxes of a data set, measured on some of its pictures."""

from __future__ import annotations

from kdflow.data.augment import Tally
from kdflow.data.findings import Finding
from kdflow.data.formats import Split
from kdflow.data.loader import Place, Prepared
from kdflow.data.look import some
from kdflow.data.transforms import Geometry
from kdflow.errors import DataError

SAMPLED = 32
"""Pictures that are augmented once before a run, as seed 0 does in its first epoch."""


def augmentation_notes(split: Split, geometry: Geometry) -> list[Finding]:
    """How many boxes are cut and left out; nothing where there is no recipe. Raises DataError at a broken picture."""
    if not geometry.augment:
        return []
    tally, prepared = Tally(), Prepared(split.dataset, geometry, seed=0)
    indices = some(split.annotations, SAMPLED)
    for index in indices:
        sample = prepared.at(Place(index, epoch=0), tally)
        if isinstance(sample, str):
            raise DataError(sample)
    shares = [f"{100 * count / max(1, tally.met):.0f} %" for count in (tally.cut, tally.gone)]
    steps = ", ".join(step.name for step in geometry.steps)
    words = f"boxes met by augmentation ({steps}) in {len(indices)} pictures; {shares[0]} cut at a border, {shares[1]} left out"
    return [Finding(split.annotations.place, words, tally.met, fatal=False)]
