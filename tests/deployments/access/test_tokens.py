"""Which tokens of an identity provider are taken, whose their callers are, and every forgery that is refused."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import ECKey, OKPKey, RSAKey

from deployments.access.caller import Caller, parse_caller
from deployments.access.scopes import Action
from deployments.access.sso.identity_provider import IdentityProvider
from deployments.access.sso.tokens import MAX_TOKEN_BYTES, TokenVerifier
from deployments.errors import Unauthenticated
from tests.deployments.access.local_provider import KEYS, LocalProvider, encode, publish, run_provider, sign

pytestmark = pytest.mark.anyio
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
OTHER_KEY = RSAKey.generate_key(2048, {"kid": "rsa"})


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def shared_provider(anyio_backend: str) -> AsyncIterator[LocalProvider]:
    async with run_provider() as provider:
        yield provider


@pytest.fixture
def provider(shared_provider: LocalProvider) -> LocalProvider:
    shared_provider.keys = [publish(key) for key in KEYS.values()]
    shared_provider.fetches.clear()
    return shared_provider


async def verify(provider: LocalProvider, token: str, **oidc: Any) -> Caller:
    settings = provider.build_settings(**oidc)
    return await TokenVerifier(settings, IdentityProvider(settings.oidc_issuer, 300.0, 300.0)).verify(token)


async def refuse(provider: LocalProvider, token: str, **oidc: Any) -> str:
    """Why a token is refused, in characters that neither JSON nor gRPC has to escape."""
    with pytest.raises(Unauthenticated) as error:
        await verify(provider, token, **oidc)
    message = error.value.message
    assert json.dumps(message) == f'"{message}"'
    assert "%" not in message
    return message


@pytest.mark.parametrize("algorithm", KEYS)
async def test_a_token_of_each_algorithm_is_as_good_as_a_key(provider: LocalProvider, algorithm: str) -> None:
    caller = await verify(provider, provider.build_token(algorithm))

    assert caller.name == "default/oidc:alice"
    assert caller.key_id.startswith("oidc-")
    assert len(caller.key_id) == 16
    assert caller.may(Action.PREDICT, "digits")
    assert not caller.may(Action.DEPLOY, "digits")
    # As a replica reads it of the header that HAProxy makes.
    assert parse_caller(caller.encode().encode()).encode() == caller.encode()


async def test_the_newer_name_of_eddsa_is_taken(provider: LocalProvider) -> None:
    assert (await verify(provider, provider.build_token("EdDSA", {"alg": "Ed25519"}))).name == "default/oidc:alice"


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+jwt", "AT+JWT", None])
async def test_types_of_access_tokens_are_taken(provider: LocalProvider, kind: str | None) -> None:
    assert (await verify(provider, provider.build_token(header={"typ": kind}))).name == "default/oidc:alice"


@pytest.mark.parametrize("kind", ["logout+jwt", "dpop+jwt", "secevent+jwt", "JWE", "", 7, ["JWT"]])
async def test_other_types_are_refused(provider: LocalProvider, kind: Any) -> None:
    assert "(typ)" in await refuse(provider, provider.build_token(header={"typ": kind}))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None, "none ", 0, ["none"], {"alg": "none"}])
async def test_a_token_without_a_signature_is_refused(provider: LocalProvider, algorithm: Any) -> None:
    header = {name: value for name, value in {"alg": algorithm, "kid": "rsa"}.items() if value is not None}
    signed = f"{encode(header)}.{encode(provider.build_claims())}"
    for token in (f"{signed}.", signed, f"{signed}..", f"{signed}.{encode(b'x')}"):
        await refuse(provider, token)
    assert "algorithm" in await refuse(provider, provider.build_token(header={"alg": algorithm}))


def list_public_forms() -> list[bytes]:
    """Every form of a public key that somebody might take for an HMAC's secret."""
    forms = [b"", json.dumps(publish(KEYS["RS256"])).encode()]
    for key in (KEYS["RS256"], KEYS["ES256"]):
        for encoding in (Encoding.PEM, Encoding.DER):
            form = key.public_key.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
            forms += [form, form.strip()]
    forms.append(KEYS["RS256"].public_key.public_bytes(Encoding.PEM, PublicFormat.PKCS1))
    forms.append(base64.urlsafe_b64decode(publish(KEYS["RS256"])["n"] + "=="))
    return forms


@pytest.mark.parametrize(("name", "function"), [("HS256", hashlib.sha256), ("HS512", hashlib.sha512)])
async def test_a_public_key_is_no_secret_of_an_hmac(provider: LocalProvider, name: str, function: Any) -> None:
    for secret in list_public_forms():
        for kid in ("rsa", "ec", "ed"):
            # The second says that the MAC is an allowed algorithm's.
            for algorithm, message in ((name, "algorithm"), ("RS256", "not valid" if kid == "rsa" else "no key")):
                signed = f"{encode({'alg': algorithm, 'kid': kid})}.{encode(provider.build_claims())}"
                mac = hmac.new(secret, signed.encode(), function).digest()
                assert message in await refuse(provider, f"{signed}.{encode(mac)}")


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256", "ES384", "ES512", "ES256K", "Ed448", "HS256", "rs"])
async def test_other_algorithms_are_refused(provider: LocalProvider, algorithm: str) -> None:
    assert "none of RS256, ES256, EdDSA" in await refuse(provider, provider.build_token(header={"alg": algorithm}))


@pytest.mark.parametrize(("algorithm", "kid"), [("RS256", "ec"), ("ES256", "rsa"), ("EdDSA", "rsa"), ("RS256", "ed")])
async def test_a_key_is_not_taken_for_one_of_another_type(provider: LocalProvider, algorithm: str, kid: str) -> None:
    assert "no key" in await refuse(provider, provider.build_token(algorithm, {"kid": kid}))


PATHS = ["../../../../dev/null", "/dev/null", "rsa' OR '1'='1", "http://127.0.0.1:1/jwks", "rsa\0"]


@pytest.mark.parametrize("kid", ["other", "RSA", "rsa ", *PATHS, "", 7, ["rsa"], {"kid": "rsa"}, True, "x" * 300])
async def test_a_kid_is_a_name_and_nothing_else(provider: LocalProvider, kid: Any) -> None:
    await refuse(provider, provider.build_token(header={"kid": kid}))


async def test_a_token_without_a_kid_needs_a_key_that_is_alone_of_its_type(provider: LocalProvider) -> None:
    token = provider.build_token(header={"kid": None})
    await verify(provider, token)

    provider.keys.append(publish(OTHER_KEY))
    assert "no key" in await refuse(provider, token)


async def test_keys_that_come_with_a_token_do_not_count(provider: LocalProvider) -> None:
    for header in (
        {"jwk": publish(OTHER_KEY)},
        {"jku": f"{provider.issuer}/mine"},
        {"x5u": f"{provider.issuer}/mine"},
        {"x5c": ["MIIB"]},
        {"jwk": publish(OTHER_KEY), "kid": None},
    ):
        assert "signature" in await refuse(provider, provider.build_token(header=header, key=OTHER_KEY))
    assert "/mine" not in provider.fetches


@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"crit": []}, {"b64": False, "crit": ["b64"]}, {"b64": True}])
async def test_extensions_are_refused(provider: LocalProvider, header: dict[str, Any]) -> None:
    assert "crit" in await refuse(provider, provider.build_token(header=header))


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"iss": "https://evil.example.com"}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"iss": ["https://evil.example.com"]}, "issuer"),
        ({"aud": "other"}, "audience"),
        ({"aud": None}, "audience"),
        ({"aud": []}, "audience"),
        ({"aud": ["other", "third"]}, "audience"),
        ({"aud": {"https://shoal.example.com": 1}}, "audience"),
        ({"aud": "https://shoal.example.com/"}, "audience"),
        ({"exp": None}, "never expires"),
        ({"exp": 1}, "expired"),
        ({"exp": 0}, "expired"),
        ({"exp": -1}, "no number"),
        ({"exp": "9999999999"}, "no number"),
        ({"exp": True}, "no number"),
        ({"exp": 1e300}, "no number"),
        ({"exp": [9999999999]}, "no number"),
        ({"exp": 9_999_999_999}, "longer than 86400 s"),
        ({"nbf": "0"}, "no number"),
        ({"nbf": 9_999_999_999}, "not valid yet"),
        ({"sub": None}, "subject"),
        ({"sub": ""}, "subject"),
        ({"sub": 7}, "subject"),
        ({"sub": "a\nb"}, "subject"),
        ({"sub": "\ud800"}, "subject"),
        ({"sub": "x" * 256}, "subject"),
        ({"cnf": {"jkt": "x"}}, "bound to a key"),
    ],
)
async def test_claims_that_do_not_hold_are_refused(
    provider: LocalProvider, claims: dict[str, Any], message: str
) -> None:
    assert message in await refuse(provider, provider.build_token(**claims))


async def test_an_audience_may_be_one_of_several(provider: LocalProvider) -> None:
    token = provider.build_token(aud=["other", "https://shoal.example.com"])

    assert (await verify(provider, token)).name == "default/oidc:alice"


async def test_clocks_may_differ_by_what_the_setting_says(provider: LocalProvider) -> None:
    now = int(time.time())
    for claims in ({"exp": now - 20}, {"nbf": now + 20}, {"iat": now + 20}):
        token = provider.build_token(**claims)
        await verify(provider, token, clock_skew_s=60)
        for skew_s in (0, 10):
            assert ("expired" if "exp" in claims else "not valid yet") in await refuse(
                provider, token, clock_skew_s=skew_s
            )
    # A caller of the token is known for as long, and no longer.
    assert (await verify(provider, provider.build_token(exp=now - 20), clock_skew_s=60)).expires_s == now + 40


async def test_a_large_token_is_refused_before_anything_is_done_with_it(provider: LocalProvider) -> None:
    assert f"more than {MAX_TOKEN_BYTES} bytes" in await refuse(provider, provider.build_token(filler="x" * 8192))
    assert provider.fetches == []


@pytest.mark.parametrize(
    "content",
    [
        b'{"exp":1,"exp":%d}',
        b'{"nested":{"a":1,"a":2},"exp":%d}',
        b'{"exp":%d,"x":NaN}',
        b'{"exp":%d} {}',
        b"[%d]",
        b"%d",
        b'"%d"',
        b"null",
        b"\xff\xfe%d",
        b"[" * 2900 + b"%d" + b"]" * 2900,
        b'{"exp":%d',
        b" ",
    ],
)
async def test_claims_that_could_be_read_in_two_ways_are_refused(provider: LocalProvider, content: bytes) -> None:
    payload = content.replace(b"%d", b"%d" % (time.time() + 300))

    assert "no valid JSON" in await refuse(provider, provider.build_token(payload=payload))


async def test_a_header_with_a_name_twice_is_refused(provider: LocalProvider) -> None:
    for header in (b'{"alg":"none","alg":"RS256","kid":"rsa"}', b'{"alg":"RS256","kid":"x","kid":"rsa"}', b"[]", b"1"):
        signed = f"{encode(header)}.{encode(provider.build_claims())}"
        assert "no valid JSON" in await refuse(provider, f"{signed}.{encode(sign(signed, KEYS['RS256']))}")


async def test_signatures_of_numbers_that_ecdsa_has_not_are_refused(provider: LocalProvider) -> None:
    header, payload, signature = provider.build_token("ES256").split(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")

    def pack(r: int, s: int) -> bytes:
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    top = 2**256 - 1
    forgeries = [pack(*each) for each in ((0, 0), (0, s), (r, 0), (P256_ORDER, s), (r, P256_ORDER), (1, 1), (s, r))]
    forgeries += [pack(top, top), pack(P256_ORDER, P256_ORDER), b"", raw[:-1], raw + b"\0", b"\0" * 64, b"\0" + raw]
    forgeries += [encode_dss_signature(r, s), r.to_bytes(48, "big") + s.to_bytes(48, "big")]
    for forgery in forgeries:
        await refuse(provider, f"{header}.{payload}.{encode(forgery)}")
    await verify(provider, f"{header}.{payload}.{signature}")


@pytest.mark.parametrize("algorithm", KEYS)
async def test_every_change_of_a_token_is_refused(provider: LocalProvider, algorithm: str) -> None:
    token = provider.build_token(algorithm)
    header, payload, signature = token.split(".")
    more = provider.build_claims(groups=["ops"])
    for forged in (
        f"{header}.{encode(more)}.{signature}",
        f"{encode({'alg': algorithm, 'kid': KEYS[algorithm].kid})}.{payload}.{signature}",
        f"{token}=",
        f"{token} ",
        f" {token}",
        f"{token}\n",
        f"{token}.{signature}",
        token.replace(".", ".."),
        f"{header}.{payload}.{'A' * len(signature)}",
        f"{payload}.{header}.{signature}",
        token[:-4],
    ):
        await refuse(provider, forged)
    # The last character has unused bits: other spellings of the same bytes.
    for character in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".replace(token[-1], ""):
        await refuse(provider, token[:-1] + character)


@pytest.mark.parametrize(
    "entry",
    [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "rsa", "alg": "HS256"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "rsa", "alg": "RS256"},
        KEYS["RS256"].as_dict(private=True),
        publish(KEYS["RS256"]) | {"use": "enc"},
        publish(KEYS["RS256"]) | {"key_ops": ["encrypt"]},
        publish(KEYS["RS256"]) | {"alg": "HS256"},
        publish(KEYS["RS256"]) | {"alg": "PS256"},
        publish(KEYS["RS256"]) | {"kid": 7},
        publish(KEYS["RS256"]) | {"n": "AQAB"},
        publish(KEYS["RS256"]) | {"e": None},
        publish(KEYS["RS256"]) | {"n": encode((2**1535 + 1).to_bytes(192, "big"))},
        {"kty": "RSA", "kid": "rsa", "x5c": ["MIIB"], "x5u": "https://evil.example.com"},
        publish(ECKey.generate_key("P-384", {"kid": "rsa"})),
        publish(OKPKey.generate_key("X25519", {"kid": "rsa"})),
        publish(OKPKey.generate_key("Ed448", {"kid": "rsa"})),
        "rsa",
        None,
    ],
    ids=[str(number) for number in range(17)],
)
async def test_keys_that_are_not_for_tokens_are_left_out(provider: LocalProvider, entry: Any) -> None:
    provider.keys = [entry, publish(KEYS["ES256"])]

    await verify(provider, provider.build_token("ES256"))
    assert "no key" in await refuse(provider, provider.build_token())


async def test_a_valid_token_without_rights_has_a_caller_who_may_do_nothing(provider: LocalProvider) -> None:
    for groups in (None, [], ["other"], "mlx", {"ml": 1}, [["ml"]], 7):
        assert (await verify(provider, provider.build_token(groups=groups))).scopes == ()
    nobodys = await verify(provider, provider.build_token(), tenant_claim="org")
    assert (nobodys.name, nobodys.tenant, nobodys.scopes) == ("/oidc:alice", "", ())
    assert (await verify(provider, provider.build_token(groups=None), default_scopes="read:*")).may(Action.READ, "any")
