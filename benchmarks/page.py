"""``python -m benchmarks.page``: runs the benchmarks that the documentation quotes, and writes ``docs/benchmarks.md`` from them.

    python -m benchmarks.page                     all that this machine can run, one after the other; it should be quiet
    python -m benchmarks.page step-pkd logging    some; the page keeps the others' results
    python -m benchmarks.page --write-only        the page alone, from the results that are kept in docs/evidence/benchmarks

Each result is kept as the benchmark printed it with ``--json``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

DOCS = Path(__file__).parents[1] / "docs"
KEPT = DOCS / "evidence" / "benchmarks"
HEAD = """# Measured speed

Ratios within one process whose variants take turns; what each variant is, and how it is measured, says `benchmarks/README.md`.
Milliseconds are of the machine that is named and of no other. Made by `python -m benchmarks.page`.
"""


@dataclass(frozen=True)
class Section:
    """One benchmark of the page.

    Attributes:
        title: Heading.
        words: Module of ``benchmarks`` and its options.
        text: What is to be learned from it.
    """

    title: str
    words: str
    text: str

    @property
    def command(self) -> list[str]:
        """Arguments of Python."""
        module, *options = self.words.split()
        return ["-m", f"benchmarks.{module}", *options]


SECTIONS: Mapping[str, Section] = {
    "step-pkd": Section(
        "One step, a neck method on a small pair",
        "step --method pkd --rounds 300 --threads 1",
        "What the engine costs where steps are short: `kdflow_vs_hand_cut` is the step of `kdflow run` over the loop that does "
        "the least there is to do.",
    ),
    "step-fgd": Section(
        "One step, a method of many small operations",
        "step --method fgd --rounds 300 --threads 1",
        "The same for FGD.",
    ),
    "step-r50-r18": Section(
        "One step, Faster R-CNN R50 to R18",
        "step --pair r50-r18 --method pkd --size 256 --batch 2 --rounds 20 --warmup 2 --threads 2",
        "Detectors of usual size. `torchdistill` runs its teacher in training mode, its default; `torchdistill_eval` in "
        "evaluation mode. Both call all of the teacher. `hand_cut_vs_torchdistill` is what cutting the teacher gains, on any "
        "device; kdflow gains more on a CPU with several threads, among which its RoIAlign divides the gradient (same bits).",
    ),
    "together": Section(
        "Several students on one pass of the teacher",
        "together --students 1 2 4 8 --rounds 60 --threads 1",
        "The cost per student, relative to students alone, each with a teacher of its own.",
    ),
    "logging": Section("Tracking", "logging --threads 1", "A step with MLflow tracking over one without."),
    "end-to-end": Section(
        "Where a step's time goes",
        "end_to_end --pair shapes-faster-rcnn --method defeat --batch 8 --threads 1",
        "The engine's own step on the bench's own loader.",
    ),
    "loader": Section("The data path alone", "loader", "Read, decoded, resized, flipped, padded and brought to the device."),
}
R101 = "step --device cuda --pair r101-r50 --method pkd --rounds 50 --compile"
RT_DETR = "step --device cuda --pair rt-detr --method fitnet --rounds 50 --compile"
ON_A_GPU: Mapping[str, Section] = {
    "gpu": Section(
        "All that a GPU must show", "gpu --device cuda", "`make gpu`: correctness, then speed beside what was asked for."
    ),
    "gpu-r101-r50": Section("Faster R-CNN R101 to R50, 800 px", R101, "As above; `kdflow_compiled` is with `--compile`."),
    "gpu-r101-r50-bf16": Section("The same in bfloat16", f"{R101} --precision bf16", "Losses agree in float32 first."),
    "gpu-rt-detr": Section("RT-DETR R101 to R18, 640 px", RT_DETR, "The plain student is the engine's own."),
    "gpu-rt-detr-bf16": Section("The same in bfloat16", f"{RT_DETR} --precision bf16", "Losses agree in float32 first."),
    "gpu-together": Section(
        "Several students on one pass of the teacher",
        "together --device cuda --pair r101-r50 --students 1 4 8 --rounds 20",
        "The cost per student, as above.",
    ),
    "gpu-end-to-end": Section(
        "Where a step's time goes",
        "end_to_end --device cuda --pair r101-r50 --method pkd --workers 8 --trace step.json",
        "The time line of three steps is in the file.",
    ),
}
ALL = {**SECTIONS, **ON_A_GPU}
NOT_KEPT = """
## What did not pay

Tried, or reasoned through on a CPU, and left out or taken out again:

| idea | why |
|---|---|
| torch.compile on a CPU | its steps are no shorter, so fast mode compiles on GPUs alone |
| a CUDA graph for every input shape of a teacher at its first sight | COCO has hundreds of shapes, and each recording \
costs several runs and memory of its own. A shape is recorded when it comes for the third time, and 64 graphs share one memory |
| all of the teacher one batch ahead | where shapes depend on data (proposals, sampled boxes) the host would wait for the \
pass that is to run beside the student's; these stages stay in the step |
| the student's backbone as a CUDA graph | its backward runs more than once where terms are looked at, and its input shapes \
change; it is compiled. Not measured on a GPU |
| masks that keep every detection (`scores > -1`) in the post-processing of the transformers library | three reads per image \
for nothing; a threshold that everything passes needs none |
| VOC's average precision detection by detection | most of an evaluation's time beside hotcoco; the same bits in arrays |
"""


def measure(name: str) -> None:
    """Run one benchmark and keep what it prints; CalledProcessError when it fails."""
    done = subprocess.run([sys.executable, *ALL[name].command, "--json"], stdout=subprocess.PIPE, text=True, check=True)
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{name}.json").write_text(json.dumps(json.loads(done.stdout), indent=1) + "\n")


def page() -> str:
    """All kept results as Markdown; a benchmark without one is said not to be measured."""
    parts = [f"\n## {section.title}\n\n{_body(name, section)}" for name, section in SECTIONS.items()]
    on_a_gpu = [f"\n### {section.title}\n\n{_body(name, section)}" for name, section in ON_A_GPU.items()]
    return HEAD + "".join([*parts, "\n## On a GPU\n", *on_a_gpu, NOT_KEPT])


def _body(name: str, section: Section) -> str:
    file = KEPT / f"{name}.json"
    if not file.is_file():
        return f"`python -m benchmarks.{section.words}`: not measured.\n"
    module: Any = importlib.import_module(section.command[1])
    text = module.as_text(json.loads(file.read_text()))
    return f"{section.text}\n\n```console\n$ python -m benchmarks.{section.words}\n{text}\n```\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)}; none: all")
    parser.add_argument("--write-only", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.names) - set(ALL):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    possible = ALL if torch.cuda.is_available() else SECTIONS
    for name in [] if options.write_only else options.names or possible:
        measure(name)
        (DOCS / "benchmarks.md").write_text(page())
    (DOCS / "benchmarks.md").write_text(page())


if __name__ == "__main__":
    main()
