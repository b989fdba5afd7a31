"""Weights that are not written as numbers: a share of the gradient, when the run begins or all through it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kdflow.spec.bench import MAX_STEPS, Strict


class Share(Strict):
    """A weight that is set when the run begins: at it, the term's share of the gradient is this."""

    share: float = Field(gt=0, lt=1, description="of the gradients of the detector's losses and of all terms with a share")


class Control(Strict):
    """Keeps a share of the gradient by changing the term's weight from time to time.

    Measured is the term's own share beside the detector's losses (norms, as for ``weight: {share: ...}``), or, with ``of``, the
    share of some parameters in the whole gradient (sums of absolute values). After every interval the mean share is compared
    with the band ``share - within .. share + within``; outside of it the weight is multiplied by the ratio of the odds aimed at
    to those measured, as if a share's odds were proportional to the weight.
    """

    share: float = Field(gt=0, lt=1, description="what is kept")
    within: float = Field(default=0.0, ge=0, lt=1, description="half width of the band in which the weight is left alone")
    of: tuple[str, ...] = Field(
        default=(), description="parameters (patterns as in a phase's train:) whose share of the whole gradient is measured"
    )
    every: Literal["epoch"] | Annotated[int, Field(gt=0, le=MAX_STEPS)] = Field(
        default="epoch", description="epoch, or steps: how often the weight may change"
    )
    aim: Literal["middle", "near", "far"] = Field(
        default="middle", description="what a share outside the band is led to: the middle, or the nearer or farther edge"
    )
    limit: float = Field(default=10.0, gt=1, le=1e6, description="largest factor of one change, up or down")
    fallback: float | None = Field(
        default=None, gt=0, le=1e30, description="the weight after an interval without any gradient, and from until on"
    )
    until: float | None = Field(
        default=None, gt=0, le=MAX_STEPS, description="where control ends: a fraction of the run up to 1, steps above"
    )

    @model_validator(mode="after")
    def _band(self) -> Control:
        if not 0 < self.share - self.within <= self.share + self.within < 1:
            raise ValueError(
                f"the band {self.share:g} +- {self.within:g} leaves the shares that there are, between 0 and 1; lower within"
            )
        if self.aim != "middle" and not self.within:
            raise ValueError(f"aim: {self.aim} speaks of the band's edges, and there is no band; give within, or leave aim out")
        return self

    @property
    def band(self) -> tuple[float, float]:
        """Lowest and highest share that is left alone."""
        return self.share - self.within, self.share + self.within
