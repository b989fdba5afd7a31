"""DSIG, with the proposals of a box head or with a dense student's own boxes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, smooth_l1_loss

from tests.goldens.references import Case, Draw, add, divergence, group


def cases() -> Iterator[Draw]:
    for seed, objects, rest, logits, maps in (
        (0, [1, 3], [2, 4], False, False),
        (1, [2], [5], True, True),
        (2, [0, 2, 1], [3, 0, 1], True, False),
        (3, [0], [2], True, True),
    ):
        draw = Draw(seed).set(w_fg=0.5, w_bg=0.4, alpha=3.0, w_e=2.0, tau=0.8, num_classes=3)
        labels = []
        for image, (own, other) in enumerate(zip(objects, rest, strict=True)):
            for side in ("student", "teacher"):
                draw.normal(f"{side}.roi_fg.{image}", own, 2, 7, 7).normal(f"{side}.roi_bg.{image}", other, 2, 7, 7)
            draw.normal(f"teacher.bg_logits.{image}", other, 4)
            labels += [*draw.random.integers(3, size=own), *[3] * other]
        if logits:
            draw.set(w_c=3.0, w_b=0.6, beta=0.2, temperature=2.0).put("roi_labels", labels)
            for side in ("student", "teacher"):
                draw.normal(f"{side}.roi_logits", len(labels), 4).normal(f"{side}.roi_deltas", len(labels), 12)
        if maps:
            draw.set(w_m=0.25)
            for side in ("student", "teacher"):
                draw.maps(f"{side}.neck", len(objects), 3, [(6, 4), (3, 2), (2, 1), (1, 1)])
        yield draw
    for seed, counts, anchors, sizes in (
        (4, [0, 0, 0], 1, [(4, 3)]),
        (5, [3], 3, [(2, 5), (1, 2)]),
        (6, [1, 0, 4], 2, [(3, 3), (2, 2), (1, 1)]),
    ):
        draw = Draw(seed).set(w_fg=0.5, w_e=1.5, w_c=0.8, w_b=0.3, beta=0.0, num_classes=2, anchors_per_cell=anchors)
        for side in ("student", "teacher"):
            for image, count in enumerate(counts):
                draw.normal(f"{side}.roi.{image}", count, 3, 7, 7)
            draw.maps(f"{side}.cls_logits", len(counts), 2 * anchors, sizes).maps(
                f"{side}.box_deltas", len(counts), 4 * anchors, sizes
            )
        for image, count in enumerate(counts):
            draw.put(
                f"anchor_labels.{image}",
                draw.random.integers(-1 if count else 2, 3, sum(anchors * h * w for h, w in sizes)),
            )
        yield draw


def reference(case: Case) -> dict[str, Tensor]:
    found = dense(case) if "student.roi.0" in case else staged(case)
    weights = {
        "node_fg": "w_fg",
        "node_bg": "w_bg",
        "edge": "w_e",
        "map": "w_m",
        "roi_cls": "w_c",
        "cls": "w_c",
        "roi_box": "w_b",
        "box": "w_b",
    }
    return {
        **found,
        "total": add([case[f"hp.{weights[key]}"] * value for key, value in found.items() if key in weights]),
    }


def staged(case: Case) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    objects, rest, edges = [], [], []
    names = ("student.roi_fg", "teacher.roi_fg", "student.roi_bg", "teacher.roi_bg", "teacher.bg_logits")
    for image, (ours, theirs, our_rest, their_rest, logits) in enumerate(
        zip(*(group(case, name) for name in names), strict=True)
    ):
        hard = (-logits.log_softmax(1)[:, -1] >= case["hp.tau"]).nonzero().flatten()
        found[f"mined_bg.{image}"] = hard
        objects.append(square(ours, theirs))
        share = case["hp.alpha"] * len(ours) / max(len(our_rest), 1)
        rest.append(share * square(our_rest, their_rest))
        edges.append(graph(torch.cat([ours, our_rest[hard]]), torch.cat([theirs, their_rest[hard]])))
    found |= {"node_fg": add(objects), "node_bg": add(rest), "edge": add(edges)}
    if "student.neck.0" in case:
        pairs = zip(group(case, "student.neck"), group(case, "teacher.neck"), strict=True)
        found["map"] = add([square(s, t) for s, t in pairs])
    if "student.roi_logits" in case:
        found["roi_cls"] = (
            divergence(case["teacher.roi_logits"], case["student.roi_logits"], case["hp.temperature"]).mean() / 4
        )
        labels = case["roi_labels"].long()
        rows = (labels < 3).nonzero().flatten()
        ours, theirs = (
            case[f"{side}.roi_deltas"].unflatten(1, (3, 4))[rows, labels[rows]] for side in ("student", "teacher")
        )
        found["roi_box"] = smooth_l1_loss(ours, theirs, beta=float(case["hp.beta"]), reduction="sum") / len(labels)
    return found


def dense(case: Case) -> dict[str, Tensor]:
    pairs = list(zip(group(case, "student.roi"), group(case, "teacher.roi"), strict=True))
    labels = torch.stack(group(case, "anchor_labels"))
    classes, anchors = int(case["hp.num_classes"]), int(case["hp.anchors_per_cell"])
    ours, theirs = (rows_of(group(case, f"{side}.cls_logits"), anchors)[labels >= 0] for side in ("student", "teacher"))
    chosen = (labels >= 0) & (labels < classes)
    boxes = [rows_of(group(case, f"{side}.box_deltas"), anchors)[chosen] for side in ("student", "teacher")]
    temperature = float(case.get("hp.temperature", 1.0))
    return {
        "node_fg": add([square(s, t) for s, t in pairs]),
        "edge": add([graph(s, t) for s, t in pairs]),
        "cls": divergence(theirs, ours, temperature).sum() / max(ours.numel(), 1),
        "box": (boxes[0] - boxes[1]).abs().sum() / max(int(chosen.sum()), 1),
    }


def rows_of(levels: list[Tensor], anchors: int) -> Tensor:
    return torch.cat([t.unflatten(1, (anchors, -1)).permute(0, 3, 4, 1, 2).flatten(1, 3) for t in levels], 1)


def square(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours - theirs).square().sum() / max(ours.numel(), 1)


def graph(ours: Tensor, theirs: Tensor) -> Tensor:
    tables = [cosine_similarity(t.flatten(1)[:, None], t.flatten(1)[None], dim=2) for t in (ours, theirs)]
    return (tables[0] - tables[1]).square().sum() / 2 / max(len(ours), 1) ** 2
