"""Properties of Joint-DetNAS: the inner loss, and the search that the file declares."""

from __future__ import annotations

import torch

from kdflow.experiment.reading import read_method
from kdflow.experiment.setup import prepare
from kdflow.search.parents import Parents
from kdflow.search.space import space_of
from tests.methods.shipped import maps, plan_of, terms_of

DRAWN = ("nodes.aligned", "nodes.ours", "nodes.theirs", "nodes.shared")
BOXES = [torch.tensor([[0.0, 0, 20, 20], [2.0, 0, 20, 20]]), torch.tensor([[0.0, 0, 20, 20]])]


def test_the_inner_loss_compares_regions_and_class_scores_of_the_students_boxes() -> None:
    (ours, theirs), (scores, judged) = maps((3, 4, 7, 7), (3, 4, 7, 7)), maps((3, 5), (3, 5), seed=1)
    given = {"ours": ours, "theirs": theirs, "student.roi.boxes": BOXES, "student.roi.logits": scores, "shared.logits": judged}
    changes = {"terms.regions.at": "cnn/neck", "init": [], "phases": []}
    regions, classes = terms_of(plan_of("joint-detnas", given, drop=DRAWN, changes=changes), "regions", "classes")
    torch.testing.assert_close(regions, (ours - theirs).square().mean())
    wanted = torch.nn.functional.kl_div(scores.log_softmax(1), judged.softmax(1), reduction="sum") / 3
    torch.testing.assert_close(classes, wanted)


def test_student_size_and_teacher_are_searched_together_for_ap_and_operations() -> None:
    setting = prepare(read_method("joint-detnas"), "shapes-faster-rcnn")
    space = space_of(setting)
    assert setting.method.metric == ("AP", "flops")
    assert {"student.depths", "data.size", "teacher.backbone"} <= set(space.ranges)
    parents = Parents(space, setting.method.metric)
    here = {"student.depths": [1, 2, 2, 1], "student.neck": 32, "teacher.backbone": "timm:resnet10t"}
    near = {**here, "student.depths": [1, 1, 2, 1], "teacher.backbone": "timm:resnet14t"}
    assert 0 < parents.distance(here, near) < parents.distance(here, {**near, "student.neck": 48})
    assert parents.distance(here, {**here, "teacher.backbone": "timm:resnet14t"}) == 0, "a student is like another"
