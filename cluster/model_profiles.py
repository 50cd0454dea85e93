"""Model profiles: for `shoal profile` and `shoal plan`: of a deployed model from its cluster, of others measured here.

A deployed model's profiles come from the control application over HTTP. A version that is not deployed is measured in a
process of this machine, with the threads, and the allocator's switches, that a replica would have.
"""

import http.client
import importlib.metadata
import json
import os
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from cluster.local import malloc, secrets
from cluster.local.running_cluster import Cluster, find_cluster
from cluster.settings import Settings
from deployments.scaling.profile import PROFILES, Profile, ProfileCache, describe_cpu
from training.errors import ServiceError, UserError

if TYPE_CHECKING:
    from deployments.scaling.plan import Overhead, Plan
    from deployments.specs.model_deployment import ModelEndpoint
    from training.registry.entities import Version

PATH_REQUESTS = 100
TIMEOUT_S = 30.0
GENERATION = "text-generation"
USER_ERROR_EXIT = 2


@dataclass(frozen=True)
class MeasureOptions:
    """How a version is measured here; None is as it is deployed, or the default of `shoal deploy`."""

    dtype: str | None = None
    compile: bool | None = None
    cpus: float | None = None
    refresh: bool = False

    @property
    def wants_measuring(self) -> bool:
        """Whether what the cluster knows is not what is asked for."""
        return self != MeasureOptions()


@dataclass(frozen=True)
class ModelProfiles:
    """The profiles of one version.

    Attributes:
        name: of the model.
        version: its number.
        task: of the model.
        slo_p99_s: goal that it is deployed with.
        profiles: one for each variant, processor and number of threads.
        source: where they were measured.
        path_s: seconds through the edge to a replica and back; None where it is not deployed.
        path_source: how that was measured.
    """

    name: str
    version: int
    task: str
    slo_p99_s: float | None
    profiles: tuple[Profile, ...]
    source: str
    path_s: float | None = None
    path_source: str = "no replica runs, so that the way through the edge is not counted"

    @property
    def generates_text(self) -> bool:
        """Whether a request takes a pass for each token, which a simulation of rows does not know."""
        return self.task == GENERATION

    def build_overhead(self, profile: Profile) -> "Overhead":
        """What a request costs beside its pass, by what was measured."""
        from deployments.scaling.plan import Overhead

        server = (
            "the server's CPU time for a request, measured where the passes were"
            if profile.request_s is not None
            else "the server's CPU time was not measured and is not counted"
        )
        source = f"{server}; {self.path_source}"
        return Overhead.of(profile, self.path_s or 0.0, source)

    def plan(self, rps: float, slo_p99_s: float, rows: int = 1, cv: float = 1.0) -> "tuple[Plan, list[Plan]]":
        """Plan the replicas for a rate: the plan of the fewest processors, and those of the other profiles.

        Raises:
            UserError: the model generates text, or no profile's variant meets the goal.
        """
        from deployments.scaling.plan import choose_plan, plan_replicas

        if self.generates_text:
            raise UserError(
                f"{self.name} generates text: a request takes a pass for each token, which a plan of rows does not know"
            )
        plans, refusals = [], []
        for profile in self.profiles:
            overhead = self.build_overhead(profile)
            try:
                plans.append(plan_replicas(profile, overhead, rps=rps, slo_p99_s=slo_p99_s, rows=rows, cv=cv))
            except UserError as error:
                refusals.append(error)
        if not plans:
            raise refusals[0]
        best = choose_plan(plans)
        return best, [plan for plan in plans if plan is not best]


def find_profiles(
    settings: Settings,
    reference: str,
    options: MeasureOptions = MeasureOptions(),
    on_status: Callable[[str], None] = lambda status: None,
) -> ModelProfiles:
    """Find the profiles of a version: the cluster's where it is deployed, else those that are measured here.

    Args:
        settings: of this SHOAL_HOME.
        reference: NAME (the deployed version, or else the newest), NAME:VERSION or NAME@ALIAS.
        options: for measuring here; with any of them it is measured here.
        on_status: told what goes on.

    Raises:
        UserError: there is no such version, or its variant cannot be built.
        ServiceError: it cannot be measured.
    """
    cluster = find_cluster(settings)
    deployed = None
    if cluster and not cluster.run_pid:
        deployed = _fetch_profiles(settings, cluster, _get_name(reference))
    wanted = None if _get_name(reference) == reference and deployed else _resolve(settings, reference)
    is_deployed = deployed is not None and (wanted is None or wanted.version == deployed["version"])
    if cluster and deployed and is_deployed and not options.wants_measuring and deployed["profiles"]:
        on_status("measuring the way through the edge")
        path_s = _measure_path(settings, cluster, deployed["name"])
        profiles = [Profile.model_validate(each) for each in deployed["profiles"]]
        profiles.sort(key=lambda each: each.key.variant != deployed["variant"])
        return ModelProfiles(
            deployed["name"],
            deployed["version"],
            deployed["task"],
            deployed["slo_p99_s"],
            _drop_repeated(profiles),
            "where a replica started, or by `shoal profile`",
            path_s,
            f"the way through the edge, the median of {PATH_REQUESTS} requests for metadata at {cluster.url}",
        )
    version = wanted or _resolve(settings, f"{deployed['name']}:{deployed['version']}" if deployed else reference)
    return _measure_here(settings, version, options, on_status)


def _get_name(reference: str) -> str:
    return reference.partition(":")[0].partition("@")[0]


def _resolve(settings: Settings, reference: str) -> "Version":
    from training.registry.model_registry import Registry

    return Registry(settings).resolve(reference)


def _drop_repeated(profiles: list[Profile]) -> tuple[Profile, ...]:
    """Keep the newest of each variant, processor and number of threads; they come newest first."""
    by_kind: dict[tuple[str, str, int], Profile] = {}
    for profile in profiles:
        by_kind.setdefault((profile.key.variant, profile.key.processor, profile.key.threads), profile)
    return tuple(by_kind.values())


def _connect(cluster: Cluster) -> http.client.HTTPConnection:
    from deployments.client.local import build_verification

    parts = urlsplit(cluster.url)
    assert parts.hostname is not None
    if parts.scheme == "http":
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)
    verification = build_verification(cluster.url)
    context = verification if isinstance(verification, ssl.SSLContext) else ssl.create_default_context()
    return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=TIMEOUT_S, context=context)


def _get(connection: http.client.HTTPConnection, settings: Settings, path: str) -> tuple[int, bytes]:
    key = secrets.read_secret(settings.home, secrets.ADMIN_KEY)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ServiceError(f"the cluster does not answer at {path}: {error or type(error).__name__}") from error


def _fetch_profiles(settings: Settings, cluster: Cluster, name: str) -> dict[str, Any] | None:
    """What the control application says of a deployed model; None where none of this name is deployed."""
    path = f"/api/v1/models/{quote(name, safe='')}/profiles"
    status, body = _get(_connect(cluster), settings, path)
    if status == http.HTTPStatus.NOT_FOUND:
        return None
    if status != http.HTTPStatus.OK:
        raise ServiceError(f"{path} answers {status}: {body.decode(errors='replace').strip()}")
    answer: dict[str, Any] = json.loads(body)
    return answer


def _measure_path(settings: Settings, cluster: Cluster, name: str) -> float | None:
    """The median time of a request that reaches a replica and needs no pass; None where no replica answers."""
    connection, path = _connect(cluster), f"/v2/models/{quote(name, safe='')}"
    durations_s = []
    for _ in range(PATH_REQUESTS):
        started_s = time.perf_counter()
        status, _ = _get(connection, settings, path)
        durations_s.append(time.perf_counter() - started_s)
        if status != http.HTTPStatus.OK:
            return None
    return statistics.median(durations_s)


def _measure_here(
    settings: Settings, version: "Version", options: MeasureOptions, on_status: Callable[[str], None]
) -> ModelProfiles:
    from training.registry.model_registry import Registry

    endpoint, cpus = _build_endpoint(settings, version, options)
    threads = max(1, int(cpus))
    known = [] if options.refresh else _list_known(settings, version.digest)
    if not any((each.key.variant, each.key.threads) == (endpoint.variant, threads) for each in known):
        on_status(f"measuring {version} ({endpoint.variant}, {threads} threads)")
        known = [_run_measurement(settings, version, endpoint, threads, options.refresh), *known]
    if options.wants_measuring:
        known = [each for each in known if (each.key.variant, each.key.threads) == (endpoint.variant, threads)]
    return ModelProfiles(
        version.name,
        version.version,
        Registry(settings).load_manifest(version).task,
        None,
        _drop_repeated(known),
        "in a process of this machine, with the threads of a replica; no replica serves it",
    )


def _list_known(settings: Settings, digest: str) -> list[Profile]:
    """List the profiles of a bundle that were measured well, on this machine's CPU and with its torch, newest first."""
    processor, torch = describe_cpu(), importlib.metadata.version("torch")
    return [
        profile
        for profile in ProfileCache(settings.home / "cache" / PROFILES).list_profiles(digest)
        if profile.budget_s
        and (profile.key.processor, profile.key.torch, profile.key.max_rows)
        == (processor, torch, settings.limits.max_batch_rows)
    ]


def _build_endpoint(settings: Settings, version: "Version", options: MeasureOptions) -> "tuple[ModelEndpoint, float]":
    """What a replica would serve, and its CPUs: as it is deployed, but for what the options say."""
    from deployments.specs.model_deployment import ModelDeployment, ModelEndpoint, Scale
    from deployments.state.store import DeploymentStore

    record = DeploymentStore(settings.platform).get_record(version.name)
    model = record if isinstance(record, ModelDeployment) and record.endpoint.digest == version.digest else None
    values: dict[str, Any] = {"dtype": options.dtype, "compile": options.compile}
    values = {name: value for name, value in values.items() if value is not None}
    endpoint = ModelEndpoint.model_validate(
        (model.endpoint.model_dump(include={"dtype", "compile"}) if model else {})
        | values
        | {
            "name": version.name,
            "version": version.version,
            "digest": version.digest,
            "uri": version.uri,
            "limits": settings.limits,
        }
    )
    return endpoint, (model.scale if model else Scale()).cpus if options.cpus is None else options.cpus


def _run_measurement(
    settings: Settings, version: "Version", endpoint: "ModelEndpoint", threads: int, refresh: bool
) -> Profile:
    arguments = {
        "endpoint": endpoint.model_dump(mode="json"),
        "cache": str(settings.home / "cache"),
        "threads": threads,
        "refresh": refresh,
    }
    result = subprocess.run(
        [sys.executable, "-m", "deployments.scaling.measure", json.dumps(arguments)],
        env={"GLIBC_TUNABLES": malloc.TUNABLES} | os.environ,
        capture_output=True,
        text=True,
    )
    lines = result.stdout.splitlines()
    if result.returncode == USER_ERROR_EXIT and lines:
        raise UserError(lines[-1])
    if result.returncode or not lines:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ServiceError(f"{version} cannot be measured: {reason}")
    return Profile.model_validate_json(lines[-1])
