"""Pipeline specification: nodes that call models, and the four ways to compose them; in YAML or as objects.

Deploy walk: pipeline_files.py -> [pipeline.py] -> deployments.pipelines.compatibility
Validated by itself here; whether the nodes fit one another depends on what is deployed and is checked in
deployments.pipelines.pipeline_plan.
"""

from collections.abc import Iterable, Mapping, Sized
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, model_validator

from deployments.specs.conditions import Condition
from deployments.specs.model_deployment import Scale
from training.schema import StrictModel

AdapterName = Literal["text", "label", "scores", "record", "spans", "crops", "reconstruction", "latent"]
"""What of a node's output becomes the rows of the next; see deployments/pipelines/adapters.py."""

ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]


def _parse_node(value: object) -> object:
    """Read a bare name, or an object without `kind` that names a model, as a model node."""
    if isinstance(value, str):
        return {"kind": "model", "model": value}
    if isinstance(value, dict):
        if value.get("kind") == "step":
            raise ValueError("kind 'step' is called 'model' now")
        if "kind" not in value and "model" in value:
            return {"kind": "model"} | value
    return value


Node = Annotated[
    "ModelNode | Sequence | Ensemble | Branch | FanOut", Field(discriminator="kind"), BeforeValidator(_parse_node)
]


def _require_length(minimum: int) -> AfterValidator:
    """Require so many items; Field(min_length=...) would report an invalid item a second time, as a missing one."""

    def check(items: Sized) -> Sized:
        if len(items) < minimum:
            raise ValueError(f"{len(items)} given; give at least {minimum}")
        return items

    return AfterValidator(check)


class _Node(StrictModel):
    renamed_keys: ClassVar[Mapping[str, str]] = {"take": "input_from"}

    input_from: AdapterName | None = Field(
        None, description="In a sequence: what of the previous node's output becomes this node's rows."
    )


class ModelNode(_Node):
    """One call of a deployed model or pipeline."""

    kind: Literal["model"] = "model"
    model: ModelName = Field(description="Name of a deployed model or pipeline.")
    options: dict[str, JsonValue] = Field({}, description="Options of its requests: min_score, max_tokens, seed ...")
    timeout_s: float | None = Field(
        None, gt=0, description="Time limit of the call, in seconds; at most what is left of the request's."
    )


class Sequence(_Node):
    """One node after another; the output is the last node's."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"take": "input_from", "steps": "nodes"}

    kind: Literal["sequence"] = "sequence"
    nodes: Annotated[tuple[Node, ...], _require_length(1)]

    @model_validator(mode="after")
    def _check_input_from(self) -> "Sequence":
        _forbid_input_from(self.nodes[:1], "the first node of a sequence gets the rows of the sequence")
        for number, node in enumerate(self.nodes[1:], 2):
            if node.input_from is None:
                raise ValueError(
                    f"node {number} has no `input_from`; set what of node {number - 1}'s output becomes its rows"
                )
        return self


class Ensemble(_Node):
    """Several models of the same rows and the same output schema; one output from all of theirs."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"take": "input_from", "by": "method"}

    kind: Literal["ensemble"] = "ensemble"
    members: Annotated[tuple[Node, ...], _require_length(2)]
    method: Literal["average", "vote"] = Field(
        "average", description="The weighted mean of scores or numbers, or the label with the largest sum of weights."
    )
    weights: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(
        None, description="One per member; None: equal weights."
    )

    @model_validator(mode="after")
    def _check_weights(self) -> "Ensemble":
        _forbid_input_from(self.members, "a member gets the rows of its ensemble")
        if self.weights is not None and len(self.weights) != len(self.members):
            raise ValueError(f"{len(self.weights)} weights for {len(self.members)} members; give one for each")
        if self.weights is not None and sum(self.weights) <= 0:
            raise ValueError("all weights are 0; make one of them positive")
        return self


class Case(StrictModel):
    """Conditions, and the node that gets the rows that meet them all."""

    name: Identifier = Field(description="Returned with each prediction of the case, as `branch`.")
    when: Annotated[
        tuple[Condition, ...],
        BeforeValidator(lambda value: value if isinstance(value, list | tuple) else (value,)),
        _require_length(1),
    ] = Field(description="One condition or several.")
    then: Node


class Branch(_Node):
    """Each row goes to the first case whose conditions it meets, else to the default."""

    renamed_keys: ClassVar[Mapping[str, str]] = {
        "take": "input_from",
        "by": "router",
        "arms": "cases",
        "otherwise": "default",
    }

    kind: Literal["branch"] = "branch"
    router: Node | None = Field(
        None, description="Called first; conditions read its output. None: conditions read the row."
    )
    cases: Annotated[tuple[Case, ...], _require_length(1)]
    default: Node = Field(description="Gets the rows that meet no case.")

    @model_validator(mode="after")
    def _check_cases(self) -> "Branch":
        _forbid_input_from(_list_children(self), "the nodes of a branch get the rows of the branch")
        names = [case.name for case in self.cases]
        if len(set(names)) < len(names) or "default" in names:
            raise ValueError(f"cases are called {', '.join(names)}; names must be unique and none may be `default`")
        for case in self.cases:
            for condition in case.when:
                if condition.reads_output and self.router is None:
                    raise ValueError(f"case {case.name}: `{condition.kind}` reads a model's output; set `router`")
                if not condition.reads_output and self.router is not None:
                    raise ValueError(f"case {case.name}: `{condition.kind}` reads the row; remove `router`")
        return self


class FanOut(_Node):
    """The same rows to several nodes at once; each one's output under its name."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"take": "input_from", "to": "nodes"}

    kind: Literal["fan-out"] = "fan-out"
    nodes: Annotated[dict[Identifier, Node], _require_length(1)]

    @model_validator(mode="after")
    def _check_nodes(self) -> "FanOut":
        _forbid_input_from(self.nodes.values(), "the nodes of a fan-out get the rows of the fan-out")
        return self


def _forbid_input_from(nodes: Iterable[Any], reason: str) -> None:
    for node in nodes:
        if node.input_from is not None:
            raise ValueError(f"input_from={node.input_from!r} has no effect: {reason}; remove it")


class PipelineScale(Scale):
    """Scale of a pipeline: its replicas only wait for models, so one holds many requests on few resources."""

    cpus: float = Field(0.1, ge=0, description="CPUs of one replica.")
    target_ongoing_requests: float = Field(64, gt=0, description="Ongoing requests per replica that Serve aims at.")

    @model_validator(mode="after")
    def _reject_goal(self) -> "PipelineScale":
        if self.slo_p99_s is not None:
            raise ValueError(
                f"slo_p99_s={self.slo_p99_s:g} has no effect: a pipeline waits for its models; give each of them its "
                "goal, `shoal deploy NAME --slo-p99 SECONDS`"
            )
        return self


class Pipeline(StrictModel):
    """A pipeline as its author writes it."""

    name: ModelName = Field(description="Its name in URLs; it must not be a model's.")
    summary: str = Field("", description="One sentence for the catalog.")
    timeout_s: float | None = Field(
        None, gt=0, description="Time limit of a request, in seconds (504); None: limits.request_timeout_s."
    )
    scale: PipelineScale = PipelineScale()
    root: Node

    @model_validator(mode="after")
    def _check_root(self) -> "Pipeline":
        _forbid_input_from([self.root], "the root gets the rows of the request")
        return self

    def list_models(self) -> tuple[str, ...]:
        """List the models and pipelines that it calls, each once."""
        return tuple(dict.fromkeys(_iter_models(self.root)))


# Keys whose value, or each of whose values, has a `kind`.
_KEYS_OF_ONE, _KEYS_OF_SEVERAL = ("root", "router", "default", "then"), ("nodes", "members", "when")


def drop_kinds(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Turn Pydantic's location of a problem into the path in the author's file, which has no kinds in it."""
    parts: list[int | str] = []
    after_node = False
    for part in location:
        if after_node:  # the node's kind
            after_node = False
            continue
        after_node = part in _KEYS_OF_ONE or bool(parts and parts[-1] in _KEYS_OF_SEVERAL)
        parts.append(part)
    return tuple(parts)


def _list_children(node: Any) -> list[Any]:
    if isinstance(node, Sequence):
        return list(node.nodes)
    if isinstance(node, Ensemble):
        return list(node.members)
    if isinstance(node, FanOut):
        return list(node.nodes.values())
    if isinstance(node, Branch):
        return [*([node.router] if node.router else []), *(case.then for case in node.cases), node.default]
    return []


def _iter_models(node: Any) -> Iterable[str]:
    if isinstance(node, ModelNode):
        yield node.model
    for child in _list_children(node):
        yield from _iter_models(child)
