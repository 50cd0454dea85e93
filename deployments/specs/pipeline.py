"""What a pipeline is: steps, and the four ways to put them together; in YAML or as objects.

Closed and checked by itself here; whether the steps fit one another is told by plan.py, from what is deployed.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from deployments.specs.conditions import Condition
from deployments.specs.model import Scale
from training.schema import StrictModel

AdapterName = Literal["text", "label", "scores", "record", "spans", "crops", "reconstruction", "latent"]
"""What of the answer before becomes the next step's rows; see transfers.py for each."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]


def _parse_node(value: object) -> object:
    """Take a bare name for a step, and what names a model for one too."""
    if isinstance(value, str):
        return {"kind": "model", "model": value}
    if isinstance(value, dict) and "kind" not in value and "model" in value:
        return {"kind": "model"} | value
    return value


Node = Annotated[
    "ModelNode | Sequence | Ensemble | Branch | FanOut", Field(discriminator="kind"), BeforeValidator(_parse_node)
]


class _Node(StrictModel):
    input_from: AdapterName | None = Field(
        None, description="Inside a sequence: what of the answer before this node gets as its rows."
    )


class ModelNode(_Node):
    """One call of a deployed model or pipeline."""

    kind: Literal["model"] = "model"
    model: Name = Field(description="As it is deployed.")
    options: dict[str, JsonValue] = Field({}, description="What a request may choose: min_score, max_tokens, seed ...")
    timeout_s: float | None = Field(None, gt=0, description="Most seconds; never more than the request has left.")


class Sequence(_Node):
    """One node after another; the answer is the last one's."""

    kind: Literal["sequence"] = "sequence"
    nodes: tuple[Node, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _takes(self) -> "Sequence":
        _forbid_input_from(self.nodes[:1], "the first step of a sequence gets the request's own rows")
        for number, step in enumerate(self.nodes[1:], 2):
            if step.input_from is None:
                raise ValueError(f"step {number} does not say what it takes of step {number - 1}'s answer; add `take`")
        return self


class Ensemble(_Node):
    """Several models of the same rows and the same answer; one answer out of all of theirs."""

    kind: Literal["ensemble"] = "ensemble"
    members: tuple[Node, ...] = Field(min_length=2)
    method: Literal["average", "vote"] = Field(
        "average", description="The weighted mean of scores or numbers, or the label with most of the weights."
    )
    weights: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(
        None, description="One for each member; alike where there are none."
    )

    @model_validator(mode="after")
    def _weighed(self) -> "Ensemble":
        _forbid_input_from(self.members, "a member gets the rows of its ensemble")
        if self.weights is not None and len(self.weights) != len(self.members):
            raise ValueError(f"{len(self.weights)} weights for {len(self.members)} members; give one for each")
        if self.weights is not None and sum(self.weights) <= 0:
            raise ValueError("all weights are 0; make one of them more")
        return self


class Case(StrictModel):
    """Where a row goes that meets all conditions."""

    name: Key = Field(description="Told with each row's answer, as `branch`.")
    when: Annotated[tuple[Condition, ...], BeforeValidator(lambda v: v if isinstance(v, list | tuple) else (v,))] = (
        Field(min_length=1)
    )
    then: Node


class Branch(_Node):
    """Each row goes one way: that of the first arm whose conditions it meets."""

    kind: Literal["branch"] = "branch"
    router: Node | None = Field(None, description="Asked first; conditions are on its answer. None: on the row itself.")
    cases: tuple[Case, ...] = Field(min_length=1)
    default: Node = Field(description="Where all other rows go.")

    @model_validator(mode="after")
    def _apart(self) -> "Branch":
        below = [arm.then for arm in self.cases] + [self.default] + ([self.router] if self.router else [])
        _forbid_input_from(below, "what is below a branch gets the rows of the branch")
        names = [arm.name for arm in self.cases]
        if len(set(names)) < len(names) or "default" in names:
            raise ValueError(f"arms are called {names}; give each a name of its own, and none `otherwise`")
        for arm in self.cases:
            for condition in arm.when:
                if condition.reads_output != (self.router is not None):
                    place = (
                        "an answer: say `by` which model"
                        if condition.reads_output
                        else "the row itself: leave out `by`"
                    )
                    raise ValueError(f"arm {arm.name}: `{condition.kind}` is a condition on {place}")
        return self


class FanOut(_Node):
    """The same rows to several at once; each one's answer under its name."""

    kind: Literal["fan-out"] = "fan-out"
    nodes: dict[Key, Node] = Field(min_length=1)

    @model_validator(mode="after")
    def _rows(self) -> "FanOut":
        _forbid_input_from(self.nodes.values(), "each gets the rows of the fan-out")
        return self


def _forbid_input_from(nodes: Any, reason: str) -> None:
    for node in nodes:
        if node.input_from is not None:
            raise ValueError(f"take: {node.input_from} has no meaning here: {reason}; leave it out")


class PipelineScale(Scale):
    """How many replicas a pipeline has: they only wait for others, so one holds many requests on little."""

    cpus: float = Field(0.1, ge=0, description="CPUs of one replica.")
    target_ongoing_requests: float = Field(64, gt=0, description="Requests inside one replica that Serve aims at.")


class Pipeline(StrictModel):
    """A pipeline as its author writes it."""

    name: Name = Field(description="Its name in URLs; no model's.")
    summary: str = Field("", description="One sentence for the catalogue.")
    timeout_s: float | None = Field(
        None, gt=0, description="Seconds until a request is given up with 504; else limits.request_timeout_s."
    )
    scale: PipelineScale = PipelineScale()
    root: Node

    @model_validator(mode="after")
    def _first(self) -> "Pipeline":
        _forbid_input_from([self.root], "the root gets the request's own rows")
        return self

    def list_models(self) -> tuple[str, ...]:
        """Every model and pipeline that it calls, once each."""
        return tuple(dict.fromkeys(_list_models(self.root)))


def _list_models(node: Any) -> list[str]:
    if isinstance(node, ModelNode):
        return [node.model]
    below: list[Any] = []
    if isinstance(node, Sequence):
        below = list(node.nodes)
    elif isinstance(node, Ensemble):
        below = list(node.members)
    elif isinstance(node, FanOut):
        below = list(node.nodes.values())
    elif isinstance(node, Branch):
        below = [*([node.router] if node.router else []), *(arm.then for arm in node.cases), node.default]
    return [model for each in below for model in _list_models(each)]
