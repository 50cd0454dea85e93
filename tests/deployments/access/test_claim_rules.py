"""What claims are mapped to: nothing that no rule names."""

from typing import Any

import pytest
from pydantic import ValidationError

from deployments.access.sso.claim_rules import ClaimRules, check_issuer, name_subject
from deployments.settings import OidcSettings, ServingSettings


def build_rules(**settings: str) -> ClaimRules:
    return OidcSettings.model_validate(settings).rules


@pytest.mark.parametrize(
    ("claims", "allowed"),
    [
        ({"groups": ["ml-team"]}, "deploy:*,predict:*,train:*"),
        ({"groups": ["guests", "ml-team", "unknown"]}, "deploy:*,predict:*,read:digits-*,train:*"),
        ({"groups": "guests other"}, "read:digits-*"),
        ({"groups": "Data Science"}, "usage:acme"),
        ({"groups": ["a=b"]}, "audit"),
    ],
)
def test_values_have_the_scopes_of_the_setting(claims: dict[str, Any], allowed: str) -> None:
    rules = build_rules(scopes="ml-team=developer; guests=read:digits-*;Data Science=usage; a=b = audit;")

    assert ",".join(sorted(map(str, rules.find_scopes(claims, "acme")))) == allowed


def test_a_claim_may_be_within_another_or_have_dots_in_its_name() -> None:
    rules = build_rules(scopes_claim="realm_access.roles", scopes="ml=caller")

    assert rules.find_scopes({"realm_access": {"roles": ["ml"]}}, "t")
    assert rules.find_scopes({"realm_access.roles": ["ml"]}, "t")
    for claims in ({"realm_access": ["ml"]}, {"realm_access": {"roles": {"ml": 1}}}, {"roles": ["ml"]}, {}):
        assert rules.find_scopes(claims, "t") == ()
    assert rules.find_scopes({"realm_access.roles": ["ml"]}, "") == ()


def test_tenants_are_those_of_the_setting() -> None:
    assert build_rules().find_tenant({"org": "acme"}) == "default"
    named, mapped = build_rules(tenant_claim="org"), build_rules(tenant_claim="org", tenants="7=acme; 8=beta")
    assert named.find_tenant({"org": "acme"}) == "acme"
    assert mapped.find_tenant({"org": ["7", "9"]}) == "acme"
    for rules, value in (
        (named, None),
        (named, "Acme"),
        (named, "acme\n"),
        (named, "a|b"),
        (named, "a b"),
        (named, ["acme", "beta"]),
        (named, 7),
        (mapped, "acme"),
        (mapped, ["7", "8"]),
        (mapped, "9"),
    ):
        assert rules.find_tenant({"org": value}) == ""


def test_no_subject_has_the_name_of_another_or_of_a_key() -> None:
    subjects = [
        "alice",
        "Alice",
        "ALICE",
        "alice ",
        "al/ice",
        "al|ice",
        "bob@example.com",
        "Bob@example.com",
        "a" * 255,
    ]
    subjects += ["a" * 254, "auth0|1", "auth0-1", "日本", "a~b"]

    names = [name_subject("https://id.example.com", each) for each in subjects]

    assert len({name for name, _ in names}) == len({key_id for _, key_id in names}) == len(subjects)
    for name, key_id in names:
        assert name.startswith("oidc:")
        assert not set(name + key_id) & set(' |/,"\\%\n')
        assert len(name) < 80
    assert name_subject("https://id.example.com", "alice")[0] == "oidc:alice"
    assert name_subject("https://other.example.com", "alice")[1] != names[0][1]


@pytest.mark.parametrize(
    "url",
    [
        "http://id.example.com",
        "ftp://id.example.com",
        "id.example.com",
        "https://",
        "https://user:password@id.example.com",
        "https://id.example.com/#x",
        "https://id.example.com/?x",
        'https://id.example.com/"',
        "https://id.example.com/a b",
        "http://127.0.0.1.example.com",
        "http://[::1",
        "https://id.example.com:port",
    ],
)
def test_an_issuer_whose_answers_could_be_changed_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"is no URL of a provider|is not https"):
        check_issuer(url)
    with pytest.raises(ValidationError):
        ServingSettings(oidc_issuer=url, oidc_audience="shoal")


@pytest.mark.parametrize(
    "url", ["https://id.example.com", "https://id.example.com/realms/a/", "http://127.0.0.1:8080", "http://[::1]:1/x"]
)
def test_an_issuer_is_https_or_on_this_machine(url: str) -> None:
    assert ServingSettings(oidc_issuer=url, oidc_audience="shoal").oidc_issuer == url


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scopes": "ml"}, "is no VALUE=WORD"),
        ({"scopes": "=admin"}, "is no VALUE=WORD"),
        ({"scopes": "ml="}, "is no VALUE=WORD"),
        ({"scopes": "ml=nothing"}, "is no scope"),
        ({"scopes": "ml=caller; ml=admin"}, "twice"),
        ({"default_scopes": "none"}, "is no scope"),
        ({"tenant_claim": "org", "tenants": "7=ACME"}, "is no name of a tenant"),
        ({"tenants": "7=acme"}, "name it in tenant_claim"),
        ({"scope": "ml=caller"}, "Extra inputs"),
        ({"clock_skew_s": 3600}, "less than or equal to 300"),
    ],
)
def test_a_rule_that_is_none_is_refused_at_the_start(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        OidcSettings.model_validate(settings)


def test_issuer_and_audience_belong_together() -> None:
    for fields in ({"oidc_issuer": "https://id.example.com"}, {"oidc_audience": "shoal"}):
        with pytest.raises(ValidationError, match="belong together"):
            ServingSettings.model_validate(fields)
