"""Checks of a pipeline: its nodes against one another, and against the models when one of them changes."""

from typing import Any

import pytest

from deployments.pipelines import Branch, Case, Ensemble, FanOut, LabelCondition, ModelNode, Pipeline
from deployments.pipelines.compatibility import PipelineResolver
from deployments.settings import Limits
from deployments.specs.deployment import PipelineDeployment
from deployments.specs.model_deployment import ModelDeployment, ModelEndpoint
from tests.deployments.local_models import LocalModels
from tests.deployments.small_models import AB
from training.errors import UserError

# A root whose nodes do not fit, and the message.
MISFITS: dict[str, tuple[Any, str]] = {
    "another input": (
        {"kind": "fan-out", "nodes": {"a": "by-x", "b": "mood"}},
        r"b \(mood\) takes texts.*records of x, y",
    ),
    "other features": (
        {"kind": "ensemble", "members": ["by-x", "other-features"]},
        r"member 2 \(other-features\).*x, z",
    ),
    "other labels": ({"kind": "ensemble", "members": ["by-x", "colors"]}, r"member 2 \(colors\) returns .*red, green"),
    "numbers that vote": ({"kind": "ensemble", "method": "vote", "members": ["sum", "double"]}, "numbers cannot vote"),
    "an ensemble of texts": ({"kind": "ensemble", "members": ["writer", "writer"]}, r"member 1 \(writer\).*a text"),
    "no such part": (
        {"kind": "sequence", "nodes": ["by-x", {"model": "mood", "input_from": "spans"}]},
        r"node 2 \(mood\): `input_from: spans` does not apply to labels.*available: label, scores, record",
    ),
    "a label for an image": (
        {"kind": "sequence", "nodes": ["by-x", {"model": "light", "input_from": "label"}]},
        r"node 2 \(light\) takes images, but `input_from: label` gives a text",
    ),
    "other categories": (
        {"kind": "sequence", "nodes": ["colors", {"model": "stacked", "input_from": "record"}]},
        r"node 2 \(stacked\) takes 'label' \(one of a, b\)",
    ),
    "an unknown feature": (
        {
            "kind": "branch",
            "cases": [{"name": "n", "when": {"kind": "feature", "feature": "q", "below": 1}, "then": "by-x"}],
            "default": "by-x",
        },
        "^case n: no feature 'q'",
    ),
    "an unknown label": (
        {
            "kind": "branch",
            "router": "by-x",
            "cases": [{"name": "n", "when": {"kind": "label", "labels": ["c"]}, "then": "by-x"}],
            "default": "by-x",
        },
        "^case n: no label 'c'; there are a, b",
    ),
    "a misfit within a case": (
        {
            "kind": "branch",
            "cases": [
                {
                    "name": "n",
                    "when": {"kind": "feature", "feature": "x", "below": 1},
                    "then": {"kind": "sequence", "nodes": ["by-x", {"model": "light", "input_from": "label"}]},
                }
            ],
            "default": "by-x",
        },
        r"^case n, node 2 \(light\) takes images",
    ),
    "an unknown option": ({"model": "writer", "options": {"min_score": 0.5}}, "no option 'min_score'; options: max_t"),
    "an option out of bounds": (
        {"model": "writer", "options": {"max_tokens": 0}},
        "max_tokens=0; give a number from 1",
    ),
    "an option of another type": ({"model": "writer", "options": {"max_tokens": 1.5}}, "give an integer"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_nodes_that_do_not_fit_are_refused_before_they_are_served(all_models: LocalModels, case: str) -> None:
    root, message = MISFITS[case]

    with pytest.raises(UserError, match=message):
        all_models.build_executor(root=root)


def build_resolver(models: LocalModels, *pipelines: Pipeline) -> PipelineResolver:
    records: list[Any] = [
        ModelDeployment(endpoint=ModelEndpoint(name=name, version=1, digest="", uri="")) for name in models.signatures
    ]
    resolver = PipelineResolver(records, lambda model: models.signatures[model.name])
    for pipeline in pipelines:
        records.append(PipelineDeployment(endpoint=resolver.resolve(pipeline, Limits(), None)))
        resolver = PipelineResolver(records, lambda model: models.signatures[model.name])
    return resolver


INNER = Pipeline(name="inner", root=Ensemble(members=("by-x", "by-y")))  # type: ignore[arg-type]
OUTER = Pipeline(name="outer", root=FanOut(nodes={"in": "inner", "sum": "sum"}))  # type: ignore[dict-item]


def test_a_pipeline_may_call_pipelines_but_not_itself(all_models: LocalModels) -> None:
    resolver = build_resolver(all_models, INNER, OUTER)

    assert resolver.get_signature("outer").output.outputs["in"] == AB
    cycle = Pipeline(name="inner", root=ModelNode(model="outer"))
    with pytest.raises(UserError, match="inner would call itself: inner -> outer -> inner"):
        resolver.resolve(cycle, Limits(), None)
    with pytest.raises(UserError, match="no model 'roses' is deployed"):
        resolver.resolve(Pipeline(name="q", root=ModelNode(model="roses")), Limits(), None)


def test_a_models_next_version_is_checked_against_all_pipelines_that_call_it(all_models: LocalModels) -> None:
    # Whatever the order of the records, the message names the inner pipeline.
    records = list(reversed(build_resolver(all_models, INNER, OUTER)._records.values()))
    misfit = all_models.signatures | {"by-x": all_models.signatures["colors"]}
    fit = all_models.signatures | {"by-x": all_models.signatures["labels-reversed"]}

    with pytest.raises(UserError, match=r"pipeline inner calls by-x and would not work any more: member 2 \(by-y\)"):
        PipelineResolver(records, lambda model: misfit[model.name]).find_dependents("by-x")
    dependents = PipelineResolver(records, lambda model: fit[model.name]).find_dependents("by-x")

    assert [each.name for each in dependents] == ["inner", "outer"]
    assert dependents[1].endpoint.signatures["inner"].output.labels == ("b", "a")
    assert dependents[1].endpoint.version == 1


def test_the_version_increases_only_when_the_nodes_change(all_models: LocalModels) -> None:
    resolver = build_resolver(all_models)
    first = resolver.resolve(INNER, Limits(), None)
    same = resolver.resolve(INNER.model_copy(update={"summary": "Two of a kind."}), Limits(), first)
    other = resolver.resolve(INNER.model_copy(update={"root": ModelNode(model="by-x")}), Limits(), same)

    assert (first.version, same.version, other.version) == (1, 1, 2)


def test_a_pipelines_record_survives_json(all_models: LocalModels) -> None:
    case = Case(name="b", when=LabelCondition(labels=("b",)), then=ModelNode(model="sum"))
    pipeline = Pipeline(
        name="q", root=Branch(router=ModelNode(model="by-x"), cases=(case,), default=ModelNode(model="colors"))
    )
    record = PipelineDeployment(endpoint=build_resolver(all_models).resolve(pipeline, Limits(), None))

    assert PipelineDeployment.model_validate_json(record.model_dump_json()) == record
