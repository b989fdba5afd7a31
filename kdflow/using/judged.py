"""A finder measured: it sees the pictures of a split one after the other."""

from __future__ import annotations

from kdflow.data.formats import Split
from kdflow.data.images import read_pixels
from kdflow.engine.coco import Found
from kdflow.engine.evaluate import Evaluation, as_coco, category_ids, weigh
from kdflow.spec.bench import Evaluation as Rule
from kdflow.student.pictures import read
from kdflow.using.finder import Finder


def judged(finder: Finder, split: Split, rule: Rule) -> Evaluation:
    """What a finder's detections on a split are worth, counted as an evaluation of the bench counts.

    Args:
        finder: Sees pictures as the bench reads them.
        split: Pictures with their ground truth.
        rule: How detections are counted.

    Raises:
        DataError: Its classes are not the data's.
        UsageError: It does not take pictures of this size.
    """
    table, truth = split.annotations, split.coco
    ids = category_ids(finder.classes, truth)
    found: dict[int, list[Found]] = {}
    for image, file in zip(table.ids.tolist(), table.files):
        seen = finder.find(read(read_pixels(file, table.pixels)))
        rows = zip(*(seen[key].tolist() for key in ("boxes", "scores", "labels")))
        found[image] = [as_coco(image, ids[label], box, score) for box, score, label in rows]
    return weigh(found, truth, rule.max_detections, rule.evaluator)
