"""What is refused when a pipeline is checked: by itself, against its steps, and when a step changes."""

import json
from pathlib import Path
from typing import Any

import pytest

from deployments.pipelines import Arm, Branch, Ensemble, FanOut, LabelIs, Pipeline, Step, files
from deployments.pipelines.deployment import PipelineDeployment
from deployments.pipelines.resolve import Resolution
from deployments.settings import Limits
from deployments.spec import Deployment, Endpoint
from tests.deployments.local_models import LocalModels
from tests.deployments.small_models import AB
from training.errors import Mistake

# What is wrong with a pipeline, and what is said.
WRONG: dict[str, tuple[Any, str]] = {
    "another input": (
        {"kind": "fan-out", "to": {"a": "by-x", "b": "mood"}},
        r"b \(mood\) takes texts.*records of x, y",
    ),
    "other features": ({"kind": "ensemble", "members": ["by-x", "other-rows"]}, r"member 2 \(other-rows\).*x, z"),
    "other labels": ({"kind": "ensemble", "members": ["by-x", "colours"]}, r"member 2 \(colours\): .*red, green"),
    "numbers that vote": ({"kind": "ensemble", "by": "vote", "members": ["sum", "double"]}, "numbers cannot vote"),
    "an ensemble of texts": ({"kind": "ensemble", "members": ["writer", "writer"]}, r"member 1 \(writer\).*a text"),
    "no such part": (
        {"kind": "sequence", "steps": ["by-x", {"model": "mood", "take": "spans"}]},
        r"step 2 \(mood\): cannot take spans of labels.*possible: label, scores, record",
    ),
    "a label for a picture": (
        {"kind": "sequence", "steps": ["by-x", {"model": "light", "take": "label"}]},
        r"step 2 \(light\): takes pictures, but `take: label` makes a text",
    ),
    "levels that differ": (
        {"kind": "sequence", "steps": ["colours", {"model": "stacked", "take": "record"}]},
        r"step 2 \(stacked\): takes 'label' \(one of a, b\)",
    ),
    "an unknown feature": (
        {
            "kind": "branch",
            "arms": [{"name": "n", "when": {"kind": "feature", "feature": "q", "below": 1}, "then": "by-x"}],
            "otherwise": "by-x",
        },
        "branch n: no feature 'q'",
    ),
    "an unknown label": (
        {
            "kind": "branch",
            "by": "by-x",
            "arms": [{"name": "n", "when": {"kind": "label", "labels": ["c"]}, "then": "by-x"}],
            "otherwise": "by-x",
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

    with pytest.raises(Mistake, match=said):
        everything.runner(root=root)


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ({"kind": "sequence", "steps": ["a", "b"]}, "step 2 does not say what it takes"),
        ({"kind": "sequence", "steps": [{"model": "a", "take": "text"}]}, "gets the request's own rows"),
        ({"kind": "ensemble", "members": ["a"]}, "at least 2"),
        ({"kind": "ensemble", "members": ["a", "b"], "weights": [1]}, "1 weights for 2 members"),
        ({"kind": "ensemble", "members": ["a", "b"], "weights": [0, 0]}, "all weights are 0"),
        ({"kind": "branch", "arms": [], "otherwise": "a"}, "at least 1"),
        ({"kind": "fan-out", "to": {"a": "a"}, "form": "x"}, "form: Extra inputs"),
        ({"kind": "loop", "steps": ["a"]}, "'sequence', 'ensemble', 'branch'"),
        (
            {
                "kind": "branch",
                "arms": [{"name": "n", "when": {"kind": "label", "labels": ["x"]}, "then": "a"}],
                "otherwise": "a",
            },
            "`label` is a condition on an answer: say `by` which model",
        ),
        (
            {
                "kind": "branch",
                "arms": [{"name": "n", "when": {"kind": "matches", "pattern": "(?=a)"}, "then": "a"}],
                "otherwise": "a",
            },
            "no pattern of Rust's regex crate",
        ),
    ],
)
def test_a_pipeline_that_is_wrong_by_itself_is_refused_in_words(tmp_path: Path, root: Any, said: str) -> None:
    (tmp_path / "p.yaml").write_text(json.dumps({"name": "p", "root": root}))

    with pytest.raises(Mistake) as raised:
        files.load(tmp_path / "p.yaml")

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

    assert files.load(tmp_path / "p.yaml") == files.load(tmp_path / "p.py")
    assert files.load(tmp_path / "p.py").models() == ("topics", "mood", "other-mood")


def resolution(models: LocalModels, *pipelines: Pipeline) -> Resolution:
    noted: list[Any] = [
        Deployment(endpoint=Endpoint(name=name, version=1, digest="", uri="")) for name in models.signatures
    ]
    found = Resolution(noted, lambda each: models.signatures[each.name])
    for pipeline in pipelines:
        noted.append(PipelineDeployment(endpoint=found.endpoint(pipeline, Limits(), None)))
        found = Resolution(noted, lambda each: models.signatures[each.name])
    return found


INNER = Pipeline(name="inner", root=Ensemble(members=("by-x", "by-y")))  # type: ignore[arg-type]
OUTER = Pipeline(name="outer", root=FanOut(to={"in": "inner", "sum": "sum"}))  # type: ignore[dict-item]


def test_a_pipeline_is_a_step_like_any_other_and_never_its_own(everything: LocalModels) -> None:
    found = resolution(everything, INNER, OUTER)

    assert found.signature("outer").gives.answers["in"] == AB
    circle = Pipeline(name="inner", root=Step(model="outer"))
    with pytest.raises(Mistake, match="inner would call itself: inner -> outer -> inner"):
        found.endpoint(circle, Limits(), None)
    with pytest.raises(Mistake, match="no model 'roses' is deployed"):
        found.endpoint(Pipeline(name="q", root=Step(model="roses")), Limits(), None)


def test_a_models_next_version_is_checked_against_all_that_call_it(everything: LocalModels) -> None:
    # In whatever order they are noted, the inner one is told.
    noted = list(reversed(resolution(everything, INNER, OUTER)._noted.values()))
    worse = everything.signatures | {"by-x": everything.signatures["colours"]}
    alike = everything.signatures | {"by-x": everything.signatures["turned"]}

    with pytest.raises(Mistake, match=r"pipeline inner calls by-x and would not work any more: member 2 \(by-y\)"):
        Resolution(noted, lambda each: worse[each.name]).followers("by-x")
    after = Resolution(noted, lambda each: alike[each.name]).followers("by-x")

    assert [each.name for each in after] == ["inner", "outer"]
    assert after[1].endpoint.steps["inner"].gives.labels == ("b", "a")
    assert after[1].endpoint.version == 1


def test_a_version_counts_what_was_changed(everything: LocalModels) -> None:
    found = resolution(everything)
    first = found.endpoint(INNER, Limits(), None)
    same = found.endpoint(INNER.model_copy(update={"summary": "Two of a kind."}), Limits(), first)
    other = found.endpoint(INNER.model_copy(update={"root": Step(model="by-x")}), Limits(), same)

    assert (first.version, same.version, other.version) == (1, 1, 2)


def test_a_pipeline_survives_its_own_note(everything: LocalModels) -> None:
    arm = Arm(name="b", when=LabelIs(labels=("b",)), then=Step(model="sum"))
    pipeline = Pipeline(name="q", root=Branch(by=Step(model="by-x"), arms=(arm,), otherwise=Step(model="colours")))
    made = PipelineDeployment(endpoint=resolution(everything).endpoint(pipeline, Limits(), None))

    assert PipelineDeployment.model_validate_json(made.model_dump_json()) == made
