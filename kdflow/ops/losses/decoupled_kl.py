"""KL divergence of softmax scores, taken apart at the true class."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kdflow.functional.checks import same_shape
from kdflow.functional.divergences import bernoulli_kl, kl_divergence
from kdflow.functional.target_split import other_classes, target_odds
from kdflow.kinds import Rows, RowValues
from kdflow.operation import op


@op("loss.decoupled_kl", zero_at_equality=True)
def decoupled_kl(
    student: Rows,
    teacher: Rows,
    labels: RowValues,
    part: Literal["target", "others"] = "target",
    temperature: Annotated[float, Field(gt=0)] = 1.0,
) -> RowValues:
    """``T^2 KL(teacher || student)`` of one half of the decision, row by row.

    ``target`` compares the two chances (true class, all others together), ``others`` the distribution over the classes
    beside the true one, where the true class's logit has no influence. With weights 1 and the teacher's chance of the
    others, the two add up to the ordinary divergence. Source: DKD (arXiv 2203.08679), equations 5 to 7.

    Args:
        student: (N, C) logits.
        teacher: (N, C) logits.
        labels: (N,) true classes; the background counts as one.
        part: Which half.
        temperature: T, softens both.
    """
    same_shape(student, teacher)
    s, t = student / temperature, teacher / temperature
    if part == "target":
        return bernoulli_kl(target_odds(s, labels), target_odds(t, labels)) * temperature**2
    return kl_divergence(other_classes(s, labels), other_classes(t, labels)) * temperature**2
