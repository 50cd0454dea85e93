"""Subcommands of serving: deploy (a model), apply (a pipeline's file), undeploy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli import deploy_options as options
from cluster.cli.completion import complete_models
from cluster.cli.rollout import (
    CanaryPercent,
    MinAgreement,
    MinStep,
    ShadowPercent,
    SplitBy,
    Steps,
    build_plan,
    describe_rollout,
)
from cluster.cli.terminal import Reason, Reference, context, print_line, print_note, show_status

if TYPE_CHECKING:
    from cluster.shoal import Shoal
    from deployments.specs.model_deployment import ModelDeployment


def add_commands(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (deploy, apply, undeploy):
        app.command()(command)


def deploy(
    reference: Reference,
    min_replicas: options.MinReplicas = None,
    max_replicas: options.MaxReplicas = None,
    target: options.Target = None,
    slo_p99: options.SloP99 = None,
    upscale_delay: options.UpscaleDelay = None,
    downscale_delay: options.DownscaleDelay = None,
    downscale_to_zero_delay: options.DownscaleToZeroDelay = None,
    cpus: options.Cpus = None,
    gpus: options.Gpus = None,
    dtype: options.Dtype = "fp32",
    compile_: options.Compile = False,
    trust: options.Trust = "",
    reason: Reason = "",
    canary: CanaryPercent = None,
    steps: Steps = None,
    shadow: ShadowPercent = None,
    split: SplitBy = "",
    min_step: MinStep = None,
    min_agreement: MinAgreement = None,
) -> None:
    """Serve a published version at /v2/models/NAME.

    Options of scale that are not given stay as they are for a model that is deployed already.
    With --canary (or --steps) or --shadow the deployed version goes on serving, and `shoal rollout status NAME` shows
    how the new one compares; it is promoted or rolled back by itself, with --shadow alone only rolled back.
    """
    given = {
        "min_replicas": min_replicas,
        "max_replicas": max_replicas,
        "target_ongoing_requests": target,
        "upscale_delay_s": upscale_delay,
        "downscale_delay_s": downscale_delay,
        "downscale_to_zero_delay_s": downscale_to_zero_delay,
        "cpus": cpus,
        "gpus": gpus,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if slo_p99 is not None:
        changes["slo_p99_s"] = slo_p99 or None
    plan = build_plan(canary, steps, shadow, split, min_step, min_agreement)
    _deploy(reference, plan, scale=changes, dtype=dtype, compile=compile_, trust=trust, reason=reason)


def _deploy(reference: str, plan: dict[str, Any], **choices: Any) -> None:
    from cluster.local.running_cluster import require_cluster
    from cluster.local.signals import interrupt_on_termination
    from cluster.rollout.deploy import change_scale
    from cluster.shoal import Shoal
    from deployments.specs.model_deployment import Scale

    # A value that no scale can have is refused before anything else.
    change_scale(Scale(), choices["scale"])
    require_cluster(context.settings)
    interrupt_on_termination()
    shoal = Shoal(context.settings)
    with show_status(f"deploying {reference}") as on_status:
        if plan:
            rollout = shoal.deploy_canary(reference, **plan, **choices, on_status=on_status)
        else:
            deployment = shoal.deploy(reference, **choices, on_status=on_status)
    if plan:
        print_line(describe_rollout(rollout))
        print_note(f"next: shoal rollout status {rollout.spec.name}")
    else:
        _print_deployed(shoal, deployment)


def _print_deployed(shoal: "Shoal", deployment: "ModelDeployment") -> None:
    endpoint, scale = deployment.endpoint, deployment.scale
    url = f"{shoal.cluster.url}/v2/models/{deployment.name}"
    bounds = f"{scale.min_replicas}-{scale.max_replicas}"
    print_line(f"deployed {deployment.name}:{endpoint.version} at {url} (replicas {bounds}, {endpoint.variant})")
    print_note(_describe_others(shoal.registry.list_versions(deployment.name), endpoint.version))
    print_note(f"next: shoal predict {deployment.name} FILE|JSON")


def apply(
    file: Annotated[Path, typer.Argument(help="A .yaml file, or a .py file that binds `pipeline`.")],
    reason: Reason = "",
) -> None:
    """Serve a pipeline of deployed models at /v2/models/NAME."""
    from cluster.cli.scripts import require_binding

    require_binding(str(file), "pipeline")
    from cluster.local.running_cluster import require_cluster
    from cluster.local.signals import interrupt_on_termination
    from cluster.shoal import Shoal
    from deployments.specs.pipeline_files import load_pipeline

    pipeline = load_pipeline(file)
    cluster = require_cluster(context.settings)
    interrupt_on_termination()
    with show_status(f"applying {pipeline.name}") as on_status:
        deployment = Shoal(context.settings).apply(pipeline, reason=reason, on_status=on_status)
    version = deployment.endpoint.version
    print_line(f"applied {deployment.name}:{version} at {cluster.url}/v2/models/{deployment.name}")


def undeploy(
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_models)], reason: Reason = ""
) -> None:
    """Stop serving a model or pipeline."""
    from cluster.shoal import Shoal

    with show_status(f"undeploying {name}") as on_status:
        Shoal(context.settings).undeploy(name, reason=reason, on_status=on_status)
    print_line(f"undeployed {name}")


def _describe_others(versions: list[Any], deployed: int) -> str:
    """What else could be deployed under the name."""
    others = [
        f"{version.version} ({', '.join(version.aliases)})" if version.aliases else str(version.version)
        for version in versions
        if version.version != deployed
    ]
    return f"other versions: {', '.join(others)}" if others else "no other versions"
