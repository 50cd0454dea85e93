"""/api/v1/keys, and what a caller with few rights sees of the control application; over real sockets."""

import json
import time

import pytest

from deployments.access.audit.reader import AuditReader
from deployments.settings import ServingSettings
from deployments.state.key_store import KeyStore
from tests.deployments.callers import digest
from tests.deployments.control.conftest import Open

pytestmark = pytest.mark.anyio


async def test_a_key_is_made_shown_changed_rotated_and_revoked(
    open_as: Open, serving_settings: ServingSettings
) -> None:
    store = KeyStore.open(serving_settings)
    async with open_as("admin", "default/admin") as http:
        new = {"name": "ci", "tenant": "acme", "allow": "predict:digits-*", "expires": "30d"}
        response = await http.post("/api/v1/keys", json=new)
        created = response.json()
        assert (response.status_code, response.headers["cache-control"]) == (201, "no-store")
        assert created["key"].startswith(f"shoal_{created['id']}_")
        assert (created["tenant"], created["name"], created["allow"]) == ("acme", "ci", "predict:digits-*")
        assert created["created_by"] == "default/admin"
        path = f"/api/v1/keys/{created['id']}"

        shown = (await http.get(path)).json()
        assert shown == {name: value for name, value in created.items() if name != "key"}
        assert (await http.get("/api/v1/keys")).json() == {"keys": [shown]}
        changed = (await http.patch(path, json={"allow": "read:*", "expires": "never"})).json()
        assert (changed["allow"], changed["expires"]) == ("read:*", None)
        rotated = (await http.post(f"{path}/rotate", json={"grace_s": 0})).json()
        assert rotated["key"] != created["key"]
        valid = store.load().encode_valid(time.time())
        assert valid == {digest(rotated["key"]): f"acme/ci|{created['id']}||read:*"}
        assert (await http.delete(path)).json()["status"] == "revoked"
        assert store.load().callers == {}
        assert (await http.get("/api/v1/keys")).json() == {"keys": []}
        assert [key["id"] for key in (await http.get("/api/v1/keys?revoked=true")).json()["keys"]] == [created["id"]]


async def test_each_change_of_a_key_is_in_the_audit_log_and_no_secret_is(
    open_as: Open, serving_settings: ServingSettings
) -> None:
    reader = AuditReader(serving_settings.platform)
    first = max((row.sequence for row in reader.iterate_rows()), default=0)
    async with open_as("admin", "default/admin") as http:
        http.headers.update({"x-shoal-source": "10.0.0.1", "x-request-id": "r1"})
        new = {"name": "audited", "tenant": "acme", "allow": "read:*"}
        created = (await http.post("/api/v1/keys", json=new)).json()
        path = f"/api/v1/keys/{created['id']}"
        await http.patch(path, json={"allow": "predict:*"})
        rotated = (await http.post(f"{path}/rotate", json={"grace_s": 0})).json()
        await http.delete(path)
        await http.get("/api/v1/keys")
        await http.get(path)
    async with open_as("keys:other", "other/boss") as http:
        assert (await http.post("/api/v1/keys", json=new)).status_code == 403

    rows = [row.content for row in reader.iterate_rows() if row.sequence > first]
    assert [(row["action"], row["outcome"]) for row in rows] == [
        (f"key.{action}", outcome)
        for action in ("create", "update", "rotate", "revoke")
        for outcome in ("started", "succeeded")
    ]
    assert {(row["actor"], row["source"], row["target"], row["request_id"]) for row in rows} == {
        ("default/admin", "10.0.0.1", "acme/audited", "r1")
    }
    assert (rows[3]["before"]["allow"], rows[3]["after"]["allow"]) == ("read:*", "predict:*")
    assert rows[7]["before"]["id"] == created["id"]
    for key in (created["key"], rotated["key"]):
        assert key.rpartition("_")[2] not in json.dumps(rows)


async def test_a_tenants_manager_sees_and_makes_keys_of_this_tenant_alone(open_as: Open) -> None:
    async with open_as("admin") as http:
        other = (await http.post("/api/v1/keys", json={"name": "x", "tenant": "other"})).json()
        strong = (await http.post("/api/v1/keys", json={"name": "strong", "tenant": "acme", "allow": "admin"})).json()
    async with open_as("keys,predict:digits-*") as http:
        made = await http.post("/api/v1/keys", json={"name": "ci", "allow": "predict:digits-cnn"})
        assert (made.status_code, made.json()["tenant"]) == (201, "acme")
        names = [key["name"] for key in (await http.get("/api/v1/keys")).json()["keys"]]
        assert names == ["ci", "strong"]
        refused = await http.post("/api/v1/keys", json={"name": "y", "tenant": "other"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
        assert (await http.get("/api/v1/keys?tenant=other")).status_code == 403
        for method, path in (("GET", ""), ("PATCH", ""), ("POST", "/rotate"), ("DELETE", "")):
            body = {} if method in ("PATCH", "POST") else None
            response = await http.request(method, f"/api/v1/keys/{other['id']}{path}", json=body)
            # Whether there is such a key is not told.
            assert response.status_code == 404, method
        # Nobody gets more by a key than the own one allows.
        for allow in ("predict:*", "read:*", "admin", "keys:*", "metrics"):
            response = await http.post("/api/v1/keys", json={"name": "more", "allow": allow})
            assert response.status_code == 403, allow
            assert "may not make, change or rotate a key that does" in response.json()["error"]["message"]
        strong_path = f"/api/v1/keys/{strong['id']}"
        assert (await http.post(f"{strong_path}/rotate", json={})).status_code == 403
        assert (await http.patch(strong_path, json={"expires": "never"})).status_code == 403
        own = f"/api/v1/keys/{made.json()['id']}"
        assert (await http.patch(own, json={"allow": "predict:*"})).status_code == 403
        # But to keep one out is always safe.
        assert (await http.delete(strong_path)).status_code == 200


@pytest.mark.parametrize("allow", ["read:*", "predict:*,deploy:*,train:*", "usage:*,audit,metrics"])
async def test_without_the_scope_there_are_no_keys(open_as: Open, allow: str) -> None:
    async with open_as(allow) as http:
        assert (await http.get("/api/v1/keys")).json() == {"keys": []}
        assert (await http.post("/api/v1/keys", json={"name": "x"})).status_code == 403
        assert (await http.get("/api/v1/keys/aaaaaaaaaaaa")).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 422, "name: Field required"),
        ({"name": "x", "role": "admin"}, 422, "role: Extra inputs are not permitted"),
        ({"name": "X"}, 422, "'X' is no name of a key"),
        ({"name": "x", "tenant": "a\n"}, 422, "is no name of a tenant"),
        ({"name": "x", "allow": "all"}, 422, "'all' is no scope"),
        ({"name": "x", "expires": "soon"}, 422, "'soon' is no time"),
        ([], 422, "the body: "),
    ],
)
async def test_what_is_no_key_is_refused_with_what_is(open_as: Open, body: object, status: int, message: str) -> None:
    async with open_as("admin") as http:
        response = await http.post("/api/v1/keys", json=body, headers={"x-request-id": "r1"})

    error = response.json()["error"]
    assert (response.status_code, error["code"], error["request_id"]) == (status, "unprocessable", "r1")
    assert message in error["message"]


async def test_a_caller_sees_the_models_that_the_key_allows_and_no_others_name(open_as: Open) -> None:
    async with open_as("predict:flowers") as http:
        listed = [each["name"] for each in (await http.get("/api/v1/models")).json()["models"]]
        assert listed == ["flowers"]
        document = (await http.get("/openapi.json")).text
        assert "/v2/models/flowers/predict" in document
        assert "/v2/models/images" not in document
        assert "/v2/models/twice" not in document
        for path in (
            "/api/v1/models/images",
            "/api/v1/models/images/profiles",
            "/v2/models/images",
            "/v2/models/nothing",
        ):
            assert (await http.get(path)).status_code == 403, path
        for path in ("/api/v1/models/images/predict", "/v2/models/images/infer", "/v2/models/nothing/predict"):
            assert (await http.post(path, json={})).status_code == 403, path
        example = (await http.get("/api/v1/models/flowers")).json()["example"]
        assert (await http.post("/api/v1/models/flowers/predict", json=example)).status_code == 200
    async with open_as("read:flowers") as http:
        assert (await http.get("/api/v1/models/flowers")).status_code == 200
        assert (await http.post("/api/v1/models/flowers/predict", json=example)).status_code == 403
