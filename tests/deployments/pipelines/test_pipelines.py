"""Pipelines of real bundles in this process: what each kind of node returns, and how failures are reported."""

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image

from deployments.access.authorization import Authorization
from deployments.control.pipeline_schemas import build_pipeline_request_schema, build_pipeline_response_schema
from deployments.errors import ClientError, QueueFull
from deployments.pipelines import ModelNode, Sequence
from deployments.pipelines.executor import PipelineExecutor
from deployments.pipelines.pipeline_plan import build_pipeline_signature
from deployments.pipelines.routes import PipelineRoutes
from deployments.server.middleware import compose_http
from deployments.server.scheduling import BATCH, Scheduling
from deployments.settings import Limits
from tests.deployments.callers import TESTER_HEADER
from tests.deployments.local_models import LocalModels, encode_request
from tests.deployments.server.apps import open_client
from tests.deployments.small_models import AB, ROWS, TABLE, Linear

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def sequence(*nodes: Any) -> dict[str, Any]:
    return {"kind": "sequence", "nodes": nodes}


def branch(name: str, when: Any, then: Any, default: Any, **keys: Any) -> dict[str, Any]:
    return {"kind": "branch", "cases": [{"name": name, "when": when, "then": then}], "default": default, **keys}


async def predict(executor: PipelineExecutor, *rows: Any, **options: Any) -> list[dict[str, Any]]:
    """Predict, and check request and response against the pipeline's schemas."""
    response = json.loads(await executor.predict(encode_request(*rows, **options), "application/json"))
    assert response["model"] == "p"
    signature = build_pipeline_signature(executor.endpoint)
    jsonschema.validate(response, build_pipeline_response_schema("p", signature))
    jsonschema.validate({"inputs": list(rows), **options}, build_pipeline_request_schema(signature))
    return response["predictions"]  # type: ignore[no-any-return]


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


async def test_a_model_node_returns_its_models_prediction(models: LocalModels) -> None:
    (prediction,) = await predict(models.build_executor(root="by-x"), {"x": 2.0, "y": 0.0}, top_k=1)

    assert prediction == {"label": "b", "score": pytest.approx(sigmoid(2)), "scores": {"b": pytest.approx(sigmoid(2))}}


async def test_an_answer_names_the_models_that_it_is_of(models: LocalModels) -> None:
    root = branch("long", {"kind": "length", "at_least": 5}, sequence("label-mood"), "mood")
    executor = models.build_executor(root=root)

    async def list_unready() -> list[str]:
        return []

    app = compose_http(PipelineRoutes(executor, list_unready), Limits(), "k", Authorization())
    async with open_client(app, "/v2/models/p", headers={"x-shoal-edge": "k", **TESTER_HEADER}) as http:
        one = await http.post("/predict", json={"inputs": ["good"]})
        both = await http.post("/predict", json={"inputs": ["good", "fine and good"]})

    assert one.status_code == 200, one.text
    assert set(models.callers) == {"default/tester"}
    # What no row went to has no part in an answer.
    assert [each.headers["x-shoal-nodes"] for each in (one, both)] == ["mood:1", "label-mood:1,mood:1"]


async def test_a_generated_text_is_the_next_models_row(models: LocalModels) -> None:
    options = {"max_tokens": 1, "temperature": 0}
    nodes = [{"model": "writer", "options": options}, {"model": "mood", "input_from": "text"}]

    predictions = await predict(models.build_executor(root=sequence(*nodes)), "bad", "fine")

    # After "bad" comes "fine", after "fine" comes "good".
    assert [each["label"] for each in predictions] == ["sad", "glad"]
    assert [row.strip() for row in models.calls[1][1]["inputs"]] == ["fine", "good"]
    assert models.calls[0][1] == {"inputs": ["bad", "fine"], **options}


async def test_a_label_scores_and_a_record_become_the_next_rows(models: LocalModels) -> None:
    def then(model: str, input_from: str) -> PipelineExecutor:
        return models.build_executor(root=sequence("by-x", {"model": model, "input_from": input_from}))

    by_record = await predict(then("stacked", "record"), [1.0, 2.0], {"x": -1.0, "y": 0})
    assert [each["label"] for each in by_record] == ["was b", "was a"]
    assert models.calls[1][1]["inputs"] == [{"y": 2.0, "label": "b"}, {"y": 0, "label": "a"}]
    (by_scores,) = await predict(then("of-scores", "scores"), [3.0, 0.0])
    assert by_scores["label"] == "b"
    root = sequence("label-mood", {"model": "mood", "input_from": "label"})
    by_label = await predict(models.build_executor(root=root), "bad", "fine")
    assert [each["label"] for each in by_label] == ["sad", "glad"]


def png(left: int, right: int) -> bytes:
    pixels = np.zeros((16, 16), dtype=np.uint8)
    pixels[:, :8], pixels[:, 8:] = left, right
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


CROPS = sequence("finder", {"model": "light", "input_from": "crops"})


async def test_each_box_is_cropped_from_the_image_as_sent_and_gets_an_output_of_its_own(models: LocalModels) -> None:
    images = [base64.b64encode(png(*halves)).decode() for halves in ((250, 10), (0, 0), (20, 240))]

    predictions = await predict(models.build_executor(root=CROPS), *images)

    labels = [[(box["label"], box["output"]["label"]) for box in each["boxes"]] for each in predictions]
    assert labels == [[("left", "light"), ("right", "dark")], [], [("left", "dark"), ("right", "light")]]
    # Twice the size of the net's input: boxes are in pixels of the image that was sent.
    assert predictions[0]["boxes"][1]["box"] == [8, 0, 16, 16]
    first = Image.open(io.BytesIO(base64.b64decode(models.calls[1][1]["inputs"][0])))
    assert (first.size, np.array(first).min()) == ((8, 16), 250)


async def test_an_image_may_be_sent_as_a_file_or_as_pixels(models: LocalModels) -> None:
    executor = models.build_executor(root=CROPS)
    from_file = json.loads(await executor.predict(png(250, 10), "image/png"))["predictions"]
    pixels = [[[250] * 4 + [10] * 4] * 8]

    (from_pixels,) = await predict(executor, pixels)

    assert [box["output"]["label"] for box in from_file[0]["boxes"]] == ["light", "dark"]
    assert [box["output"]["label"] for box in from_pixels["boxes"]] == ["light", "dark"]


async def test_a_node_without_rows_is_not_called(models: LocalModels) -> None:
    await predict(models.build_executor(root=CROPS), base64.b64encode(png(0, 0)).decode())

    assert [name for name, _, _ in models.calls] == ["finder"]


async def test_an_average_is_the_weighted_mean_of_scores_by_label(models: LocalModels) -> None:
    ensemble = {"kind": "ensemble", "members": ["by-x", "labels-reversed"], "weights": [3, 1]}

    (prediction,) = await predict(models.build_executor(root=ensemble), [1.0, 2.0])

    # The second has its labels in another order: b = sigmoid(y).
    expected = 0.75 * sigmoid(1) + 0.25 * sigmoid(2)
    assert prediction["label"] == "b"
    assert prediction["scores"] == {"b": pytest.approx(expected), "a": pytest.approx(1 - expected)}


async def test_a_vote_goes_by_weight_and_a_tie_by_the_mean_score(models: LocalModels) -> None:
    def vote(*weights: float) -> PipelineExecutor:
        return models.build_executor(
            root={"kind": "ensemble", "method": "vote", "members": ["by-x", "by-y"], "weights": weights or None}
        )

    # by-x gives a (with a high score), by-y gives b (with a lower one).
    (tied,) = await predict(vote(), [-5.0, 1.0])
    (weighted,) = await predict(vote(1, 2), [-5.0, 1.0])

    assert (tied["label"], tied["score"]) == ("a", 0.5)
    assert (weighted["label"], weighted["score"]) == ("b", pytest.approx(2 / 3))


async def test_numbers_are_averaged(models: LocalModels) -> None:
    root = {"kind": "ensemble", "members": ["sum", "double"]}

    (prediction,) = await predict(models.build_executor(root=root), [1.0, 2.0])

    assert prediction == {"total": pytest.approx(4.5)}


async def test_rows_of_one_request_go_to_different_cases_and_come_back_in_order(models: LocalModels) -> None:
    cases = [
        {"name": "large", "when": {"kind": "feature", "feature": "x", "at_least": 10}, "then": "sum"},
        {"name": "exact", "when": {"kind": "feature", "feature": "y", "values": [7]}, "then": "double"},
    ]
    executor = models.build_executor(root={"kind": "branch", "cases": cases, "default": "by-x"})

    predictions = await predict(executor, [1.0, 1.0], {"x": 10.0, "y": 7.0}, [2.0, 7], [50.0, 0.0], [-9.0, 0.0])

    assert [each["branch"] for each in predictions] == ["default", "large", "exact", "large", "default"]
    assert [each.get("total", each.get("label")) for each in predictions] == ["b", 17.0, 18.0, 50.0, "a"]
    assert sorted(len(request["inputs"]) for _, request, _ in models.calls) == [1, 2, 2]


async def test_a_branch_may_go_by_the_output_of_a_router(models: LocalModels) -> None:
    when = {"kind": "label", "labels": ["b"], "score_at_least": 0.9}
    executor = models.build_executor(root=branch("sure", when, "sum", "colors", router="by-x"))

    predictions = await predict(executor, [5.0, 0.0], [1.0, 0.0], [-5.0, 0.0])

    assert [each["branch"] for each in predictions] == ["sure", "default", "default"]
    root = branch("less", {"kind": "number", "below": 0}, "by-y", "by-x", router="sum")
    predictions = await predict(models.build_executor(root=root), [1.0, -2.0])
    assert predictions[0]["branch"] == "less"
    root = branch("some", {"kind": "count", "labels": ["right"], "at_least": 1}, CROPS, "light", router="finder")
    images = [base64.b64encode(png(*halves)).decode() for halves in ((0, 0), (9, 250))]
    predictions = await predict(models.build_executor(root=root), *images)
    assert [(each["branch"], "boxes" in each) for each in predictions] == [("default", False), ("some", True)]


async def test_texts_go_by_length_and_by_pattern(models: LocalModels) -> None:
    cases = [
        {"name": "long", "when": {"kind": "length", "at_least": 10}, "then": "mood"},
        {
            "name": "question",
            "when": [{"kind": "pattern", "pattern": r"\?$"}, {"kind": "length", "below": 9}],
            "then": "mood",
        },
    ]
    executor = models.build_executor(root={"kind": "branch", "cases": cases, "default": "mood"})

    predictions = await predict(executor, "fine?", "good bad fine", "fine")

    assert [each["branch"] for each in predictions] == ["question", "long", "default"]


async def test_a_pattern_takes_time_linear_in_the_text(models: LocalModels) -> None:
    root = branch("exponential", {"kind": "pattern", "pattern": "^(a+)+$"}, "mood", "mood")

    async with asyncio.timeout(5):
        (prediction,) = await predict(models.build_executor(root=root), "a" * 50_000 + "!")

    assert prediction["branch"] == "default"


async def test_a_fan_out_returns_each_output_under_its_name_and_may_contain_other_nodes(models: LocalModels) -> None:
    inner = branch("b", {"kind": "label", "labels": ["b"]}, "colors", "sum", router="by-x")
    root = {
        "kind": "fan-out",
        "nodes": {"kind": "by-x", "way": inner, "mean": {"kind": "ensemble", "members": ["sum", "double"]}},
    }

    predictions = await predict(models.build_executor(root=root), [1.0, 2.0], [-1.0, 2.0], top_k=1)

    assert predictions[0].keys() == {"kind", "way", "mean"}
    assert [each["way"]["branch"] for each in predictions] == ["b", "default"]
    assert len(predictions[0]["kind"]["scores"]) == len(predictions[0]["way"]["scores"]) == 1
    assert predictions[1]["way"]["total"] == 1.0


async def test_a_branch_within_a_branch_returns_both_names(models: LocalModels) -> None:
    def split(feature: str, then: Any) -> dict[str, Any]:
        when = {"kind": "feature", "feature": feature, "below": 0}
        return branch(f"{feature}-less", when, then, "by-x")

    executor = models.build_executor(root=split("x", split("y", "by-y")))
    predictions = await predict(executor, [-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0])

    assert [each["branch"] for each in predictions] == ["x-less/y-less", "x-less/default", "default"]


async def predict_error(executor: PipelineExecutor, *rows: Any) -> ClientError:
    with pytest.raises(ClientError) as raised:
        await executor.predict(encode_request(*rows), "application/json")
    return raised.value


async def test_a_models_error_keeps_its_status_and_names_node_and_row(models: LocalModels) -> None:
    when = {"kind": "feature", "feature": "x", "below": 0}
    root = branch("less", when, "by-y", "by-x")

    error = await predict_error(models.build_executor(root=root), [1.0, 1.0], [-1.0, 1.0], [-1.0, "one"])

    assert (error.status, error.code) == (422, "invalid_type")
    # The third row of the request is the second that this node's model got.
    assert error.message == "case less (by-y): row 2: 'y' is a string; send a number"


async def test_a_node_that_is_late_is_named_with_its_time_limit(models: LocalModels) -> None:
    models.delay("mood", 5)
    nodes: list[Any] = ["label-mood", {"model": "mood", "input_from": "label"}]

    error = await predict_error(models.build_executor(Limits(request_timeout_s=0.2), root=sequence(*nodes)), "fine")
    nodes[1]["timeout_s"] = 0.05
    own_limit_error = await predict_error(models.build_executor(root=sequence(*nodes)), "fine")

    assert (error.status, error.code) == (504, "deadline_exceeded")
    assert error.message.startswith("node 2 (mood): no response within its 0.1")
    assert own_limit_error.message.startswith("node 2 (mood): no response within its 0.05 s")
    assert models.canceled == ["mood", "mood"]
    # The remaining time is passed on: less than the node before had.
    first, second = [timeout_s for _, _, timeout_s in models.calls[:2]]
    assert 0 < second < first < 0.2


async def test_a_member_that_fails_cancels_the_others_at_once(models: LocalModels) -> None:
    models.delay("sum", 30)
    models.delay("double", 1)
    root = {"kind": "ensemble", "members": ["sum", {"model": "double", "timeout_s": 0.01}]}

    async with asyncio.timeout(5):
        error = await predict_error(models.build_executor(root=root), [1.0, 1.0])

    assert error.message.startswith("member 2 (double): no response")
    assert sorted(models.canceled) == ["double", "sum"]


async def test_an_unavailable_model_is_a_503_with_its_name(tmp_path: Path) -> None:
    models = LocalModels(tmp_path)
    models.add("by-x", Linear([[0, 0], [1, 0]]), ROWS, TABLE, AB)
    executor = models.build_executor(root="by-x")
    models.remove("by-x")

    error = await predict_error(executor, [1.0, 1.0])

    assert (error.status, error.headers) == (503, ((b"retry-after", b"1"),))
    assert error.message == "node (by-x): no replica of by-x is available"


async def test_priority_and_deadline_are_those_of_every_node(models: LocalModels) -> None:
    executor = models.build_executor(root=sequence("label-mood", {"model": "mood", "input_from": "label"}))

    await executor.predict(encode_request("fine"), "application/json", None, Scheduling.after(3.0, BATCH))

    assert models.priorities == [BATCH, BATCH]
    assert all(2 < timeout_s < 3 for _, _, timeout_s in models.calls)


async def test_a_node_that_is_overloaded_says_when_to_come_back(models: LocalModels) -> None:
    async def call(*_: Any) -> bytes:
        raise QueueFull("the rows ahead take about 7 s", 7)

    executor = models.build_executor(root="by-x")
    executor._call_model = call

    error = await predict_error(executor, [1.0, 1.0])

    assert (error.status, error.code, error.headers) == (429, "queue_full", ((b"retry-after", b"7"),))
    assert error.message == "node (by-x): the rows ahead take about 7 s"


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b'{"inputs": []}', "application/json", 422),
        (b'{"inputs": [[1,2]], "top_k": 0}', "application/json", 422),
        (b'{"inputs": [[1,2]], "topk": 1}', "application/json", 400),
        (b'{"inputs": [' + b"[" * 50_000 + b"]" * 50_000 + b"]}", "application/json", 400),
        (b'{"inputs": ["\xff"]}', "application/json", 400),
        (b'{"inputs": [[1,2]]}', "text/csv", 415),
        (png(1, 2), "image/png", 415),
        (b'{"inputs": [' + b"1," * 70_000 + b"1]}", "application/json", 413),
    ],
)
async def test_an_invalid_request_has_its_own_4xx(
    models: LocalModels, body: bytes, content_type: str, status: int
) -> None:
    when = {"kind": "feature", "feature": "x", "below": 0}
    root = branch("less", when, "by-y", "by-x")

    with pytest.raises(ClientError) as raised:
        await models.build_executor(root=root).predict(body, content_type)

    assert raised.value.status == status


async def test_the_routes_are_a_models(models: LocalModels) -> None:
    unready: list[str] = []

    async def list_unready() -> list[str]:
        return unready

    root = Sequence(nodes=("by-x", ModelNode(model="of-scores", input_from="scores")))  # type: ignore[arg-type]
    executor = models.build_executor(root=root)
    app = compose_http(PipelineRoutes(executor, list_unready), Limits(), "k", Authorization())
    async with open_client(app, "/v2/models/p", headers={"x-shoal-edge": "k", **TESTER_HEADER}) as http:
        example = (await http.get("/example")).json()
        response = await http.post("/versions/1/predict", json=example)
        assert response.json()["predictions"][0]["label"] in ("a", "b")
        assert (await http.post("/versions/2/predict", json=example)).json()["error"]["code"] == "unknown_version"
        assert (await http.get(str(http.base_url).rstrip("/"))).json()["platform"] == "shoal_pipeline"
        assert (await http.get("/ready")).json() == {"name": "p", "ready": True}
        unready.append("by-x")
        response = await http.get("/ready")
        assert (response.status_code, response.json()["unready"]) == (503, ["by-x"])
        infer = await http.post("/infer", json={"inputs": []})
        assert infer.status_code == 422
        assert "POST /v2/models/p/predict" in infer.json()["error"]
        assert (await http.post("/predict", headers={"x-shoal-edge": "x"})).status_code == 403
        error = (await http.post("/predict", json={"inputs": [[1, "2"]]})).json()["error"]
        assert error["message"].startswith("node 1 (by-x): row 0")
