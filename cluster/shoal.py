"""Shoal: the platform's commands as methods, the same for the command line and for a notebook.

    from cluster import Shoal
    shoal = Shoal()
    shoal.publish("my-bundle")
    shoal.deploy("flowers")
    shoal.predict("flowers", [{"length": 5.1, "width": 3.5}])

Deploy walk: cluster.cli.serving deploy -> [shoal.py] -> cluster.rollout.deploy
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.local.ray_environment import set_ray_environment
from cluster.local.running_cluster import (
    Cluster,
    cluster_id,
    exclusive_lock,
    find_cluster,
    require_cluster,
    temp_dir,
)
from cluster.local.signals import run_uninterruptible
from cluster.settings import Settings, load_settings
from training.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from cluster.model_profiles import ModelProfiles
    from deployments.client import Client
    from deployments.rollout.canary import Canary
    from deployments.rollout.criteria import Criteria
    from deployments.specs.deployment import DeploymentRecord, PipelineDeployment
    from deployments.specs.model_deployment import Dtype, ModelDeployment, Scale
    from deployments.specs.pipeline import Pipeline
    from deployments.state.revisions import Revision
    from training.registry.entities import Version
    from training.registry.model_registry import Registry
    from training.run.driver import RunResult
    from training.run.options import RunOptions

OnStatus = Callable[[str], None]


def _ignore(status: str) -> None:
    """Where nobody watches."""


class Shoal:
    """One SHOAL_HOME: its registry, its deployments, and the cluster that runs from it.

    Methods raise training.errors.UserError where what was asked cannot be, and ServiceError where it failed.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        """Take settings; None reads `SHOAL_*` variables."""
        self.settings = settings or load_settings()
        # Ray reads them when it is first imported, which some methods do.
        set_ray_environment(self.settings)

    @property
    def cluster(self) -> Cluster:
        """The running cluster; raises UserError where none runs."""
        return require_cluster(self.settings)

    @property
    def registry(self) -> Registry:
        """The registry of runs, models and versions."""
        from cluster.audited_registry import AuditedRegistry

        return AuditedRegistry(self.settings)

    def up(
        self,
        *,
        ray_arguments: tuple[str, ...] = (),
        on_status: OnStatus = _ignore,
        on_failure: OnStatus = _ignore,
    ) -> Cluster:
        """Start a cluster on this machine, and in it whatever was deployed; returns once it serves.

        Args:
            ray_arguments: further arguments of `ray start`.
            on_status: told what goes on.
            on_failure: told which model or pipeline does not start, and why; all others serve.
        """
        from cluster.audit import record_start
        from cluster.local.start import start_cluster, stop_cluster
        from cluster.rollout.change import reconcile

        with exclusive_lock(self.settings, on_status), record_start(self.settings):
            before = find_cluster(self.settings)
            try:
                on_status("starting Ray")
                cluster = start_cluster(self.settings, ray_arguments=ray_arguments)
                on_status("starting Ray Serve")
                for failure in reconcile(self.settings, cluster, on_status).values():
                    on_failure(failure)
            except BaseException:
                # A cluster that ran before goes on; half of a new one is of no use.
                if before is None:
                    run_uninterruptible(lambda: stop_cluster(self.settings))
                raise
        return cluster

    def down(self, *, on_warning: OnStatus = _ignore) -> int:
        """End every process of the cluster; returns how many there were.

        Args:
            on_warning: told where it is not in the audit log, without which it is stopped nevertheless.
        """
        from cluster.local.processes import find_owned
        from cluster.local.start import stop_cluster

        if not find_owned(cluster_id(self.settings.home), temp_dir(self.settings.home)):
            return stop_cluster(self.settings)
        from cluster.audit import record_stop

        with record_stop(self.settings, on_warning):
            return stop_cluster(self.settings)

    def train(
        self,
        recipe: str,
        overrides: list[str] | None = None,
        *,
        options: RunOptions | None = None,
        resume: str | None = None,
        console: Console | None = None,
    ) -> RunResult:
        """Train a ready recipe, or one of a .py file, and publish the result; see cluster.train."""
        from rich.console import Console

        from cluster.train import train
        from training.run.options import RunOptions

        return train(
            self.settings, recipe, overrides or [], options or RunOptions(), console or Console(), resume=resume
        )

    def publish(self, folder: str | Path) -> Version:
        """Publish a bundle's folder as the next version of the model that it names; the same bundle only once."""
        from training.registry.model_registry import AlreadyPublished

        try:
            return self.registry.publish(Path(folder))
        except AlreadyPublished as error:
            return error.version

    def deploy(
        self,
        reference: str | Version,
        *,
        scale: Mapping[str, Any] | Scale | None = None,
        dtype: Dtype = "fp32",
        compile: bool = False,  # noqa: A002 - torch's word
        trust: str = "",
        reason: str = "",
        on_status: OnStatus = _ignore,
    ) -> ModelDeployment:
        """Serve a published version at /v2/models/NAME; returns when it answers.

        Args:
            reference: NAME (its newest version), NAME:VERSION or NAME@ALIAS.
            scale: None keeps what the model has; a mapping changes some of its values.
            dtype: bf16 for a variant whose matrices are multiplied in bf16.
            compile: whether the net is compiled.
            trust: whose signature it needs, beside what SHOAL_TRUST asks for: signed, or files of public keys.
            reason: why, for the record (`shoal history`).
            on_status: told what goes on.
        """
        from cluster.rollout.deploy import deploy, make_origin

        cluster = self.cluster
        version = self._resolve_model(reference)
        # Replicas verify it again; here a damaged bundle is refused at once, by the name of its file.
        self.registry.load_manifest(version)
        with exclusive_lock(self.settings, on_status):
            return deploy(
                self.settings,
                cluster,
                version,
                on_status,
                scale=scale,
                dtype=dtype,
                compile=compile,
                trust=trust,
                origin=make_origin(reason),
            )

    def _resolve_model(self, reference: Version | str) -> Version:
        """The version that a reference names; a deployed pipeline has the same kind of name, and none."""
        from cluster.rollout.deploy import reject_pipeline

        reject_pipeline(self.settings, str(reference))
        return self.registry.resolve(str(reference))

    def profile(
        self,
        reference: str,
        *,
        dtype: Dtype | None = None,
        compile: bool | None = None,  # noqa: A002 - torch's word
        cpus: float | None = None,
        refresh: bool = False,
        on_status: OnStatus = _ignore,
    ) -> ModelProfiles:
        """How fast a version is, as its replicas or this machine measured; its `plan` says what a rate takes.

        Args:
            reference: NAME (the deployed version, or else the newest), NAME:VERSION or NAME@ALIAS.
            dtype: measure this precision here.
            compile: measure the compiled net here.
            cpus: measure with the threads of so many CPUs here.
            refresh: measure anew here.
            on_status: told what goes on.
        """
        from cluster.model_profiles import MeasureOptions, find_profiles
        from cluster.rollout.deploy import reject_pipeline

        reject_pipeline(self.settings, reference)
        return find_profiles(self.settings, reference, MeasureOptions(dtype, compile, cpus, refresh), on_status)

    def apply(self, pipeline: Pipeline, *, reason: str = "", on_status: OnStatus = _ignore) -> PipelineDeployment:
        """Serve a pipeline of deployed models at /v2/models/NAME; returns when it answers."""
        from cluster.rollout.deploy import deploy_pipeline, make_origin

        cluster = self.cluster
        with exclusive_lock(self.settings, on_status):
            return deploy_pipeline(self.settings, cluster, pipeline, on_status, origin=make_origin(reason))

    def deploy_canary(
        self,
        reference: Version | str,
        *,
        steps: Sequence[float] = (),
        split_by: str = "",
        shadow_percent: float = 0.0,
        min_step_s: float | None = None,
        criteria: Criteria | None = None,
        scale: Mapping[str, Any] | Scale | None = None,
        dtype: Dtype = "fp32",
        compile: bool = False,  # noqa: A002 - torch's word
        trust: str = "",
        reason: str = "",
        on_status: OnStatus = _ignore,
    ) -> Canary:
        """Serve a version beside the deployed one; returns when it takes its share, and the cluster decides the rest.

        Args:
            reference: NAME, NAME:VERSION or NAME@ALIAS.
            steps: percent of the requests, up to 100; none for shadow copies alone.
            split_by: caller, request or header:NAME; by default caller where there are many, else request.
            shadow_percent: percent of the deployed version's requests that are copied to it.
            min_step_s: minimum seconds of a step.
            criteria: what it must not be worse in; None for the defaults.
            scale: as of `deploy`.
            dtype: as of `deploy`.
            compile: as of `deploy`.
            trust: as of `deploy`.
            reason: why, for the record.
            on_status: told what goes on.
        """
        from cluster.rollout.canary import begin, choose_split, find_stable
        from cluster.rollout.deploy import build_deployment, make_origin
        from deployments.rollout.canary import CanarySpec

        cluster = self.cluster
        version = self._resolve_model(reference)
        self.registry.load_manifest(version)
        with exclusive_lock(self.settings, on_status):
            choices: dict[str, Any] = {"scale": scale, "dtype": dtype, "compile": compile, "trust": trust}
            deployment = build_deployment(self.settings, cluster, version, **choices)
            values = {"min_step_s": min_step_s, "criteria": criteria}
            spec = CanarySpec(
                deployment=deployment,
                stable_version=find_stable(self.settings, deployment).endpoint.version,
                steps=tuple(steps),
                split_by=split_by or choose_split(self.settings),
                shadow_percent=shadow_percent,
                author=make_origin().author,
                reason=reason,
                **{name: value for name, value in values.items() if value is not None},
            )
            return begin(self.settings, cluster, spec, on_status)

    def get_rollout(self, name: str) -> Canary:
        """Get a model's last rollout beside another version; raises UserError if it has had none."""
        from cluster.rollout.canary import find_canary

        return find_canary(self.settings, name)

    def promote_rollout(self, name: str, *, on_status: OnStatus = _ignore) -> Canary:
        """Deploy the version that is being rolled out, whatever the evidence; returns when it is alone."""
        from cluster.rollout.canary import request

        return request(self.settings, self.cluster, name, "promote", on_status)

    def abort_rollout(self, name: str, *, on_status: OnStatus = _ignore) -> Canary:
        """End a rollout; returns when the version that served before is alone."""
        from cluster.rollout.canary import request

        return request(self.settings, find_cluster(self.settings), name, "abort", on_status)

    def rollback(
        self, name: str, *, revision: int | None = None, reason: str = "", on_status: OnStatus = _ignore
    ) -> tuple[DeploymentRecord, Revision]:
        """Deploy again what an earlier revision asked for; see cluster.rollout.deploy.rollback."""
        from cluster.rollout.deploy import make_origin, rollback

        cluster = self.cluster
        with exclusive_lock(self.settings, on_status):
            return rollback(self.settings, cluster, name, on_status, revision=revision, origin=make_origin(reason))

    def list_revisions(self, name: str) -> list[Revision]:
        """List every change of a model or pipeline, newest first.

        Raises:
            UserError: it was never deployed.
        """
        from deployments.state.store import DeploymentStore

        revisions = DeploymentStore(self.settings.platform).list_revisions(name)
        if not revisions:
            raise UserError(f"{name!r} was never deployed; `shoal status` lists what is")
        return revisions

    def undeploy(self, name: str, *, reason: str = "", on_status: OnStatus = _ignore) -> None:
        """Stop serving a model or pipeline; where no cluster runs, the next one starts without it."""
        from cluster.rollout.deploy import make_origin, undeploy

        cluster = find_cluster(self.settings)
        if cluster and cluster.run_pid:
            cluster = None  # a training run's own, which serves nothing
        with exclusive_lock(self.settings, on_status):
            undeploy(self.settings, cluster, name, on_status, origin=make_origin(reason))

    def client(self) -> Client:
        """A client of the running cluster, with its admin key."""
        from cluster.local import secrets
        from deployments.client import Client

        url = self.cluster.url
        key = secrets.read_secret(self.settings.home, secrets.ADMIN_KEY)
        return Client(url, key, timeout=self.settings.limits.request_timeout_s + 5)

    def predict(self, name: str, inputs: Any, **options: Any) -> list[Any]:
        """Call a deployed model; returns a prediction for each input. See deployments.client.Client.predict."""
        with self.client() as client:
            return client.predict(name, inputs, **options)
