"""What is refused when a pipeline is checked: by itself, against its steps, and when a step changes."""

import json
from pathlib import Path
from typing import Any

import pytest

from deployments.pipelines import Branch, Case, Ensemble, FanOut, LabelCondition, ModelNode, Pipeline
from deployments.pipelines.resolve import PipelineResolver
from deployments.settings import Limits
from deployments.specs import pipeline_files
from deployments.specs.model import Deployment, Endpoint
from deployments.specs.record import PipelineDeployment
from tests.deployments.local_models import LocalModels
from tests.deployments.small_models import AB
from training.errors import UserError

# What is wrong with a pipeline, and what is said.
WRONG: dict[str, tuple[Any, str]] = {
    "another input": (
        {"kind": "fan-out", "nodes": {"a": "by-x", "b": "mood"}},
        r"b \(mood\) takes texts.*records of x, y",
    ),
    "other features": ({"kind": "ensemble", "members": ["by-x", "other-rows"]}, r"member 2 \(other-rows\).*x, z"),
    "other labels": ({"kind": "ensemble", "members": ["by-x", "colours"]}, r"member 2 \(colours\): .*red, green"),
    "numbers that vote": ({"kind": "ensemble", "method": "vote", "members": ["sum", "double"]}, "numbers cannot vote"),
    "an ensemble of texts": ({"kind": "ensemble", "members": ["writer", "writer"]}, r"member 1 \(writer\).*a text"),
    "no such part": (
        {"kind": "sequence", "nodes": ["by-x", {"model": "mood", "input_from": "spans"}]},
        r"step 2 \(mood\): cannot take spans of labels.*possible: label, scores, record",
    ),
    "a label for a picture": (
        {"kind": "sequence", "nodes": ["by-x", {"model": "light", "input_from": "label"}]},
        r"step 2 \(light\): takes pictures, but `take: label` makes a text",
    ),
    "levels that differ": (
        {"kind": "sequence", "nodes": ["colours", {"model": "stacked", "input_from": "record"}]},
        r"step 2 \(stacked\): takes 'label' \(one of a, b\)",
    ),
    "an unknown feature": (
        {
            "kind": "branch",
            "cases": [{"name": "n", "when": {"kind": "feature", "feature": "q", "below": 1}, "then": "by-x"}],
            "default": "by-x",
        },
        "branch n: no feature 'q'",
    ),
    "an unknown label": (
        {
            "kind": "branch",
            "router": "by-x",
            "cases": [{"name": "n", "when": {"kind": "label", "labels": ["c"]}, "then": "by-x"}],
            "default": "by-x",
        },
        "branch n: no label 'c'; there are a, b",
    ),
    "an unknown option": ({"model": "writer", "options": {"min_score": 0.5}}, "no option 'min_score'; possible: max_t"),
    "an option out of bounds": ({"model": "writer", "options": {"max_tokens": 0}}, "max_tokens is 0; make it 1 to"),
    "an option of another type": ({"model": "writer", "options": {"max_tokens": 1.5}}, "make it an integer"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_work_is_refused_before_it_is_served(everything: LocalModels, case: str) -> None:
    root, said = WRONG[case]

    with pytest.raises(UserError, match=said):
        everything.runner(root=root)


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ({"kind": "sequence", "nodes": ["a", "b"]}, "step 2 does not say what it takes"),
        ({"kind": "sequence", "nodes": [{"model": "a", "input_from": "text"}]}, "gets the request's own rows"),
        ({"kind": "ensemble", "members": ["a"]}, "at least 2"),
        ({"kind": "ensemble", "members": ["a", "b"], "weights": [1]}, "1 weights for 2 members"),
        ({"kind": "ensemble", "members": ["a", "b"], "weights": [0, 0]}, "all weights are 0"),
        ({"kind": "branch", "cases": [], "default": "a"}, "at least 1"),
        ({"kind": "fan-out", "nodes": {"a": "a"}, "form": "x"}, "form: Extra inputs"),
        ({"kind": "loop", "nodes": ["a"]}, "'sequence', 'ensemble', 'branch'"),
        (
            {
                "kind": "branch",
                "cases": [{"name": "n", "when": {"kind": "label", "labels": ["x"]}, "then": "a"}],
                "default": "a",
            },
            "`label` is a condition on an answer: say `by` which model",
        ),
        (
            {
                "kind": "branch",
                "cases": [{"name": "n", "when": {"kind": "matches", "pattern": "(?=a)"}, "then": "a"}],
                "default": "a",
            },
            "no pattern of Rust's regex crate",
        ),
    ],
)
def test_a_pipeline_that_is_wrong_by_itself_is_refused_in_words(tmp_path: Path, root: Any, said: str) -> None:
    (tmp_path / "p.yaml").write_text(json.dumps({"name": "p", "root": root}))

    with pytest.raises(UserError) as raised:
        pipeline_files.load_pipeline(tmp_path / "p.yaml")

    assert said in str(raised.value)


def test_the_python_form_and_yaml_make_the_same_pipeline(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        """
name: p
root:
  kind: branch
  by: topics
  arms:
    - name: sport
      when: {kind: label, labels: [sport], score_at_least: 0.8}
      then: {kind: ensemble, members: [mood, {model: other-mood, timeout_s: 2}], weights: [2, 1]}
  otherwise:
    kind: fan-out
    to: {mood: mood, topic: topics}
"""
    )
    (tmp_path / "p.py").write_text(
        """
from deployments.pipelines import Arm, Branch, Ensemble, FanOut, LabelIs, Pipeline, Step

mood = Step(model="mood")
sport = Ensemble(members=(mood, Step(model="other-mood", timeout_s=2)), weights=(2, 1))
arm = Arm(name="sport", when=LabelIs(labels=("sport",), score_at_least=0.8), then=sport)
rest = FanOut(to={"mood": mood, "topic": "topics"})
pipeline = Pipeline(name="p", root=Branch(by="topics", arms=(arm,), otherwise=rest))
"""
    )

    assert pipeline_files.load_pipeline(tmp_path / "p.yaml") == pipeline_files.load_pipeline(tmp_path / "p.py")
    assert pipeline_files.load_pipeline(tmp_path / "p.py").list_models() == ("topics", "mood", "other-mood")


def resolution(models: LocalModels, *pipelines: Pipeline) -> PipelineResolver:
    noted: list[Any] = [
        Deployment(endpoint=Endpoint(name=name, version=1, digest="", uri="")) for name in models.signatures
    ]
    found = PipelineResolver(noted, lambda each: models.signatures[each.name])
    for pipeline in pipelines:
        noted.append(PipelineDeployment(endpoint=found.resolve(pipeline, Limits(), None)))
        found = PipelineResolver(noted, lambda each: models.signatures[each.name])
    return found


INNER = Pipeline(name="inner", root=Ensemble(members=("by-x", "by-y")))  # type: ignore[arg-type]
OUTER = Pipeline(name="outer", root=FanOut(nodes={"in": "inner", "sum": "sum"}))  # type: ignore[dict-item]


def test_a_pipeline_is_a_step_like_any_other_and_never_its_own(everything: LocalModels) -> None:
    found = resolution(everything, INNER, OUTER)

    assert found.find_signature("outer").output.outputs["in"] == AB
    circle = Pipeline(name="inner", root=ModelNode(model="outer"))
    with pytest.raises(UserError, match="inner would call itself: inner -> outer -> inner"):
        found.resolve(circle, Limits(), None)
    with pytest.raises(UserError, match="no model 'roses' is deployed"):
        found.resolve(Pipeline(name="q", root=ModelNode(model="roses")), Limits(), None)


def test_a_models_next_version_is_checked_against_all_that_call_it(everything: LocalModels) -> None:
    # In whatever order they are noted, the inner one is told.
    noted = list(reversed(resolution(everything, INNER, OUTER)._noted.values()))
    worse = everything.signatures | {"by-x": everything.signatures["colours"]}
    alike = everything.signatures | {"by-x": everything.signatures["turned"]}

    with pytest.raises(UserError, match=r"pipeline inner calls by-x and would not work any more: member 2 \(by-y\)"):
        PipelineResolver(noted, lambda each: worse[each.name]).find_dependents("by-x")
    after = PipelineResolver(noted, lambda each: alike[each.name]).find_dependents("by-x")

    assert [each.name for each in after] == ["inner", "outer"]
    assert after[1].endpoint.signatures["inner"].output.labels == ("b", "a")
    assert after[1].endpoint.version == 1


def test_a_version_counts_what_was_changed(everything: LocalModels) -> None:
    found = resolution(everything)
    first = found.resolve(INNER, Limits(), None)
    same = found.resolve(INNER.model_copy(update={"summary": "Two of a kind."}), Limits(), first)
    other = found.resolve(INNER.model_copy(update={"root": ModelNode(model="by-x")}), Limits(), same)

    assert (first.version, same.version, other.version) == (1, 1, 2)


def test_a_pipeline_survives_its_own_note(everything: LocalModels) -> None:
    arm = Case(name="b", when=LabelCondition(labels=("b",)), then=ModelNode(model="sum"))
    pipeline = Pipeline(
        name="q", root=Branch(router=ModelNode(model="by-x"), cases=(arm,), default=ModelNode(model="colours"))
    )
    made = PipelineDeployment(endpoint=resolution(everything).resolve(pipeline, Limits(), None))

    assert PipelineDeployment.model_validate_json(made.model_dump_json()) == made
