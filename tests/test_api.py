"""The Python interface: few names, loaded late, guarded."""

from __future__ import annotations

import pytest
import torch

import kdflow
from kdflow.errors import SpecError, UsageError
from tests.cli.conftest import TINY

NAMES = [
    "load",
    "compile",
    "run",
    "search",
    "results",
    "report",
    "predict",
    "look",
    "Plan",
    "Method",
    "Bench",
    "op",
    "KdflowError",
    "SpecError",
    "__version__",
]


def test_public_names_do_not_change_by_accident():
    assert kdflow.__all__ == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_exists(name):
    assert getattr(kdflow, name) is not None
    assert name in dir(kdflow)


def test_other_names_do_not_exist():
    with pytest.raises(AttributeError, match="no name 'distill'"):
        _ = kdflow.distill


def test_load_gives_a_method():
    spec = kdflow.load("defeat")
    assert spec.name == "defeat"
    assert isinstance(spec.resolve(), kdflow.Method)


def test_load_says_what_exists():
    with pytest.raises(UsageError, match='Did you mean "defeat"'):
        kdflow.load("defat")


def test_compile_on_a_bench():
    plan = kdflow.compile("fitnet", bench=TINY)
    assert isinstance(plan, kdflow.Plan)
    assert "kd/hint" in [term.name for term in plan.terms]


def test_compile_on_values_needs_no_detector():
    torch.manual_seed(0)
    student, teacher = [torch.randn(2, 8, 4, 4)], [torch.randn(2, 8, 4, 4)]
    plan = kdflow.compile("pkd", values={"student.neck": student, "teacher.neck": teacher}, overrides=_whole_necks())
    loss = plan.evaluate({})["kd/neck"]
    same = plan.evaluate({"teacher.neck": student})["kd/neck"]
    assert loss > 0.5
    assert same == pytest.approx(0.0, abs=1e-6)


def _whole_necks() -> dict[str, str]:
    entry = kdflow.load("pkd").resolve().nodes["sized"].arguments
    assert set(entry) >= {"student", "teacher"}
    return {"nodes.sized.student": "student.neck", "nodes.sized.teacher": "teacher.neck"}


def test_compile_reports_all_faults():
    with pytest.raises(SpecError) as error:
        kdflow.compile("fitnet", bench=TINY, overrides={"terms.hint.weight": "heavy", "nodes.aligned.op": 3})
    assert len(error.value.faults) == 2


@pytest.mark.parametrize("options", [{"bench": TINY, "values": {}}, {"bench": TINY, "families": {}}])
def test_compile_refuses_options_that_do_not_belong_together(options):
    with pytest.raises(UsageError):
        kdflow.compile("fitnet", **options)


def test_search_is_a_package_that_can_be_called() -> None:
    import kdflow.search.request

    assert kdflow.search.request.Request().trials is None
    with pytest.raises(UsageError, match="tpe"):
        kdflow.search("fitnet", sampler="tpee")


def test_results_is_the_function_also_after_its_subpackage_was_imported() -> None:
    import importlib

    importlib.import_module("kdflow.results.query")
    assert callable(kdflow.results)
    assert kdflow.results.__module__ == "kdflow.api"
