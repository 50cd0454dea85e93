"""Pipelines of real bundles in this process: what is refused when one is checked, and what each kind answers."""

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
from PIL import Image

from cluster.local.secrets import hash_key
from deployments.control import pipeline_schemas
from deployments.errors import ClientError
from deployments.pipelines import ModelNode, Sequence
from deployments.pipelines.executor import PipelineExecutor
from deployments.pipelines.plan import pipeline_signature
from deployments.pipelines.routes import PipelineRoutes
from deployments.server.authentication import Caller
from deployments.server.layers import compose_http
from deployments.settings import Limits
from tests.deployments.local_models import LocalModels, body
from tests.deployments.small_models import AB, ROWS, TABLE, Linear

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def sequence(*steps: Any) -> dict[str, Any]:
    return {"kind": "sequence", "nodes": steps}


def branch(name: str, when: Any, then: Any, otherwise: Any, **more: Any) -> dict[str, Any]:
    return {"kind": "branch", "cases": [{"name": name, "when": when, "then": then}], "default": otherwise, **more}


async def ask(runner: PipelineExecutor, *rows: Any, **more: Any) -> list[dict[str, Any]]:
    answer = json.loads(await runner.predict(body(*rows, **more), "application/json"))
    assert answer["model"] == "p"
    schema = pipeline_schemas.response_schema(runner.endpoint)
    jsonschema.validate(answer, schema)
    jsonschema.validate(
        {"inputs": list(rows), **more}, pipeline_schemas.request_schema(pipeline_signature(runner.endpoint))
    )
    return answer["predictions"]  # type: ignore[no-any-return]


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


async def test_a_step_answers_as_its_model_does(models: LocalModels) -> None:
    (said,) = await ask(models.runner(root="by-x"), {"x": 2.0, "y": 0.0}, top_k=1)

    assert said == {"label": "b", "score": pytest.approx(sigmoid(2)), "scores": {"b": pytest.approx(sigmoid(2))}}


async def test_a_text_that_one_model_writes_is_read_by_the_next(models: LocalModels) -> None:
    options = {"max_tokens": 1, "temperature": 0}
    steps = [{"model": "writer", "options": options}, {"model": "mood", "input_from": "text"}]

    said = await ask(models.runner(root=sequence(*steps)), "bad", "fine")

    # After "bad" comes "fine", after "fine" comes "good".
    assert [each["label"] for each in said] == ["sad", "glad"]
    assert [row.strip() for row in models.seen[1][1]["inputs"]] == ["fine", "good"]
    assert models.seen[0][1] == {"inputs": ["bad", "fine"], **options}


async def test_a_label_scores_and_a_record_become_the_next_rows(models: LocalModels) -> None:
    def then(model: str, take: str) -> PipelineExecutor:
        return models.runner(root=sequence("by-x", {"model": model, "input_from": take}))

    assert [each["label"] for each in await ask(then("stacked", "record"), [1.0, 2.0], {"x": -1.0, "y": 0})] == [
        "was b",
        "was a",
    ]
    assert models.seen[1][1]["inputs"] == [{"y": 2.0, "label": "b"}, {"y": 0, "label": "a"}]
    (by_scores,) = await ask(then("of-scores", "scores"), [3.0, 0.0])
    assert by_scores["label"] == "b"
    mood = sequence("label-mood", {"model": "mood", "input_from": "label"})
    assert [each["label"] for each in await ask(models.runner(root=mood), "bad", "fine")] == ["sad", "glad"]


def png(left: int, right: int) -> bytes:
    pixels = np.zeros((16, 16), dtype=np.uint8)
    pixels[:, :8], pixels[:, 8:] = left, right
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


CUT = sequence("finder", {"model": "light", "input_from": "crops"})


async def test_each_box_is_cut_out_of_the_picture_as_sent_and_answered_by_itself(models: LocalModels) -> None:
    sent = [base64.b64encode(png(*halves)).decode() for halves in ((250, 10), (0, 0), (20, 240))]

    said = await ask(models.runner(root=CUT), *sent)

    seen = [[(box["label"], box["answer"]["label"]) for box in each["boxes"]] for each in said]
    assert seen == [[("left", "light"), ("right", "dark")], [], [("left", "dark"), ("right", "light")]]
    # Twice as large as what the net takes: boxes are in the pixels of the picture that was sent.
    assert said[0]["boxes"][1]["box"] == [8, 0, 16, 16]
    first = Image.open(io.BytesIO(base64.b64decode(models.seen[1][1]["inputs"][0])))
    assert (first.size, np.array(first).min()) == ((8, 16), 250)


async def test_a_picture_may_come_as_its_own_bytes_or_as_pixels(models: LocalModels) -> None:
    runner = models.runner(root=CUT)
    as_bytes = json.loads(await runner.predict(png(250, 10), "image/png"))["predictions"]
    pixels = [[[250] * 4 + [10] * 4] * 8]

    (as_pixels,) = await ask(runner, pixels)

    assert [box["answer"]["label"] for box in as_bytes[0]["boxes"]] == ["light", "dark"]
    assert [box["answer"]["label"] for box in as_pixels["boxes"]] == ["light", "dark"]


async def test_where_nothing_was_found_nothing_is_asked(models: LocalModels) -> None:
    await ask(models.runner(root=CUT), base64.b64encode(png(0, 0)).decode())

    assert [name for name, _, _ in models.seen] == ["finder"]


async def test_an_average_is_the_weighted_mean_of_scores_by_label(models: LocalModels) -> None:
    ensemble = {"kind": "ensemble", "members": ["by-x", "turned"], "weights": [3, 1]}

    (said,) = await ask(models.runner(root=ensemble), [1.0, 2.0])

    # The second has its labels in another order: b = sigmoid(y).
    expected = 0.75 * sigmoid(1) + 0.25 * sigmoid(2)
    assert said["label"] == "b"
    assert said["scores"] == {"b": pytest.approx(expected), "a": pytest.approx(1 - expected)}


async def test_a_vote_goes_by_weight_and_a_tie_by_the_mean_score(models: LocalModels) -> None:
    def vote(*weights: float) -> PipelineExecutor:
        return models.runner(
            root={"kind": "ensemble", "method": "vote", "members": ["by-x", "by-y"], "weights": weights or None}
        )

    # by-x says a (surely), by-y says b (less so).
    (tied,) = await ask(vote(), [-5.0, 1.0])
    (weighed,) = await ask(vote(1, 2), [-5.0, 1.0])

    assert (tied["label"], tied["score"]) == ("a", 0.5)
    assert (weighed["label"], weighed["score"]) == ("b", pytest.approx(2 / 3))


async def test_numbers_are_averaged(models: LocalModels) -> None:
    (said,) = await ask(models.runner(root={"kind": "ensemble", "members": ["sum", "double"]}), [1.0, 2.0])

    assert said == {"total": pytest.approx(4.5)}


async def test_rows_of_one_request_go_different_ways_and_come_back_in_order(models: LocalModels) -> None:
    arms = [
        {"name": "large", "when": {"kind": "feature", "feature": "x", "at_least": 10}, "then": "sum"},
        {"name": "exact", "when": {"kind": "feature", "feature": "y", "values": [7]}, "then": "double"},
    ]
    runner = models.runner(root={"kind": "branch", "cases": arms, "default": "by-x"})

    said = await ask(runner, [1.0, 1.0], {"x": 10.0, "y": 7.0}, [2.0, 7], [50.0, 0.0], [-9.0, 0.0])

    assert [each["branch"] for each in said] == ["default", "large", "exact", "large", "default"]
    assert [each.get("total", each.get("label")) for each in said] == ["b", 17.0, 18.0, 50.0, "a"]
    assert sorted(len(asked["inputs"]) for _, asked, _ in models.seen) == [1, 2, 2]


async def test_a_branch_may_go_by_another_models_answer(models: LocalModels) -> None:
    when = {"kind": "label", "labels": ["b"], "score_at_least": 0.9}
    runner = models.runner(root=branch("sure", when, "sum", "colours", by="by-x"))

    said = await ask(runner, [5.0, 0.0], [1.0, 0.0], [-5.0, 0.0])

    assert [each["branch"] for each in said] == ["sure", "default", "default"]
    numbers = {"kind": "number", "below": 0}
    said = await ask(models.runner(root=branch("less", numbers, "by-y", "by-x", by="sum")), [1.0, -2.0])
    assert said[0]["branch"] == "less"
    found = {"kind": "count", "labels": ["right"], "at_least": 1}
    root = branch("some", found, CUT, "light", by="finder")
    said = await ask(models.runner(root=root), *(base64.b64encode(png(*p)).decode() for p in ((0, 0), (9, 250))))
    assert [(each["branch"], "boxes" in each) for each in said] == [("default", False), ("some", True)]


async def test_texts_go_by_length_and_by_pattern(models: LocalModels) -> None:
    arms = [
        {"name": "long", "when": {"kind": "length", "at_least": 10}, "then": "mood"},
        {
            "name": "asks",
            "when": [{"kind": "matches", "pattern": r"\?$"}, {"kind": "length", "below": 9}],
            "then": "mood",
        },
    ]
    runner = models.runner(root={"kind": "branch", "cases": arms, "default": "mood"})

    said = await ask(runner, "fine?", "good bad fine", "fine")

    assert [each["branch"] for each in said] == ["asks", "long", "default"]


async def test_a_pattern_that_would_stall_others_takes_no_time(models: LocalModels) -> None:
    runner = models.runner(root=branch("evil", {"kind": "matches", "pattern": "^(a+)+$"}, "mood", "mood"))

    async with asyncio.timeout(5):
        (said,) = await ask(runner, "a" * 50_000 + "!")

    assert said["branch"] == "default"


async def test_a_fan_out_answers_under_each_name_and_may_be_nested(models: LocalModels) -> None:
    inner = branch("b", {"kind": "label", "labels": ["b"]}, "colours", "sum", by="by-x")
    root = {
        "kind": "fan-out",
        "nodes": {"kind": "by-x", "way": inner, "mean": {"kind": "ensemble", "members": ["sum", "double"]}},
    }

    said = await ask(models.runner(root=root), [1.0, 2.0], [-1.0, 2.0], top_k=1)

    assert said[0].keys() == {"kind", "way", "mean"}
    assert [each["way"]["branch"] for each in said] == ["b", "default"]
    assert len(said[0]["kind"]["scores"]) == len(said[0]["way"]["scores"]) == 1
    assert said[1]["way"]["total"] == 1.0


async def test_a_branch_within_a_branch_tells_both_ways(models: LocalModels) -> None:
    def split(feature: str, then: Any) -> dict[str, Any]:
        when = {"kind": "feature", "feature": feature, "below": 0}
        return branch(f"{feature}-less", when, then, "by-x")

    said = await ask(models.runner(root=split("x", split("y", "by-y"))), [-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0])

    assert [each["branch"] for each in said] == ["x-less/y-less", "x-less/otherwise", "default"]


async def failure(runner: PipelineExecutor, *rows: Any, **more: Any) -> ClientError:
    with pytest.raises(ClientError) as raised:
        await ask_raw(runner, *rows, **more)
    return raised.value


async def ask_raw(runner: PipelineExecutor, *rows: Any, **more: Any) -> bytes:
    return await runner.predict(body(*rows, **more), "application/json")


async def test_a_steps_refusal_keeps_its_status_and_names_step_and_row(models: LocalModels) -> None:
    when = {"kind": "feature", "feature": "x", "below": 0}
    root = branch("less", when, "by-y", "by-x")

    error = await failure(models.runner(root=root), [1.0, 1.0], [-1.0, 1.0], [-1.0, "one"])

    assert (error.status, error.code) == (422, "wrong_type")
    # The third row of the request is the second that this step was sent.
    assert error.message == "branch less (by-y): row 2: 'y' is a text; send a number"


async def test_a_step_that_is_late_is_named_and_told_how_long_it_had(models: LocalModels) -> None:
    models.slow("mood", 5)
    steps: list[Any] = ["label-mood", {"model": "mood", "input_from": "label"}]

    error = await failure(models.runner(Limits(request_timeout_s=0.2), root=sequence(*steps)), "fine")
    steps[1]["timeout_s"] = 0.05
    own = await failure(models.runner(root=sequence(*steps)), "fine")

    assert (error.status, error.code) == (504, "timeout")
    assert error.message.startswith("step 2 (mood): no answer within the 0.1")
    assert own.message.startswith("step 2 (mood): no answer within the 0.05 s")
    assert models.cancelled == ["mood", "mood"]
    # What is left is passed on: less than the step before had.
    first, second = [within_s for _, _, within_s in models.seen[:2]]
    assert 0 < second < first < 0.2


async def test_a_member_that_fails_ends_the_others_at_once(models: LocalModels) -> None:
    models.slow("sum", 30)
    models.slow("double", 1)
    root = {"kind": "ensemble", "members": ["sum", {"model": "double", "timeout_s": 0.01}]}

    async with asyncio.timeout(5):
        error = await failure(models.runner(root=root), [1.0, 1.0])

    assert error.message.startswith("member 2 (double): no answer")
    assert sorted(models.cancelled) == ["double", "sum"]


async def test_nobody_there_is_a_503_with_a_name(models: LocalModels, tmp_path: Path) -> None:
    local = LocalModels(tmp_path)
    local.add("by-x", Linear([[0, 0], [1, 0]]), ROWS, TABLE, AB)
    runner = local.runner(root="by-x")
    local.gone("by-x")

    error = await failure(runner, [1.0, 1.0])

    assert (error.status, error.headers) == (503, ((b"retry-after", b"1"),))
    assert error.message == "step (by-x): no replica of by-x answers"


@pytest.mark.parametrize(
    ("raw", "kind", "status"),
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
async def test_a_wrong_request_has_its_own_4xx(models: LocalModels, raw: bytes, kind: str, status: int) -> None:
    when = {"kind": "feature", "feature": "x", "below": 0}
    root = branch("less", when, "by-y", "by-x")

    with pytest.raises(ClientError) as raised:
        await models.runner(root=root).predict(raw, kind)

    assert raised.value.status == status


async def test_the_routes_are_a_models(models: LocalModels) -> None:
    missing: list[str] = []

    async def waits_for() -> list[str]:
        return missing

    runner = models.runner(root=Sequence(nodes=("by-x", ModelNode(model="of-scores", input_from="scores"))))  # type: ignore[arg-type]
    app = compose_http(PipelineRoutes(runner, waits_for), Limits(), {hash_key("k"): Caller("tester")})
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://t/v2/models/p", headers={"Authorization": "Bearer k"}
    ) as http:
        example = (await http.get("/example")).json()
        answer = await http.post("/versions/1/predict", json=example)
        assert answer.json()["predictions"][0]["label"] in ("a", "b")
        assert (await http.get("http://t/v2/models/p")).json()["platform"] == "shoal_pipeline"
        assert (await http.get("/ready")).json() == {"name": "p", "ready": True}
        missing.append("by-x")
        assert (await http.get("/ready")).status_code == 503
        infer = await http.post("/infer", json={"inputs": []})
        assert infer.status_code == 422
        assert "POST /v2/models/p/predict" in infer.json()["error"]
        assert (await http.post("/predict", headers={"Authorization": "Bearer x"})).status_code == 401
        wrong = (await http.post("/predict", json={"inputs": [[1, "2"]]})).json()["error"]
        assert wrong["message"].startswith("step 1 (by-x): row 0")
