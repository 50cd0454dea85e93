"""Subcommands of serving: deploy (a model), apply (a pipeline's file), undeploy."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

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


def add_commands(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (deploy, apply, undeploy):
        app.command()(command)


def deploy(
    reference: Reference,
    min_replicas: Annotated[int | None, typer.Option(help="Replicas that always run.")] = None,
    max_replicas: Annotated[int | None, typer.Option(help="Replicas at most; Serve scales between the two.")] = None,
    target: Annotated[float | None, typer.Option(help="Requests in one replica that scaling aims at.")] = None,
    cpus: Annotated[float | None, typer.Option(help="CPUs of one replica.")] = None,
    gpus: Annotated[
        float | None, typer.Option(help="GPUs of one replica, or a share of one; 1 where the cluster has any.")
    ] = None,
    dtype: Annotated[Literal["fp32", "bf16"], typer.Option(help="Precision of matrix products.")] = "fp32",
    compile_: Annotated[bool, typer.Option("--compile", help="Compile the net when it is loaded.")] = False,
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
    With --canary or --shadow the deployed version goes on serving, and `shoal rollout status NAME` shows how the new
    one compares; it is promoted or rolled back by itself.
    """
    from cluster.local.running_cluster import require_cluster
    from cluster.local.signals import interrupt_on_termination
    from cluster.rollout.deploy import change_scale
    from cluster.shoal import Shoal
    from deployments.specs.model_deployment import Scale

    shoal = Shoal(context.settings)
    given = {
        "min_replicas": min_replicas,
        "max_replicas": max_replicas,
        "target_ongoing_requests": target,
        "cpus": cpus,
        "gpus": gpus,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    change_scale(Scale(), changes)  # a value that no scale can have is refused before anything else
    plan = build_plan(canary, steps, shadow, split, min_step, min_agreement)
    require_cluster(context.settings)
    interrupt_on_termination()
    if plan:
        with show_status(f"deploying {reference}") as on_status:
            options: dict[str, Any] = {"scale": changes, "dtype": dtype, "compile": compile_, "reason": reason}
            rollout = shoal.deploy_canary(reference, **plan, **options, on_status=on_status)
        print_line(describe_rollout(rollout))
        print_note(f"next: shoal rollout status {rollout.spec.name}")
        return
    with show_status(f"deploying {reference}") as on_status:
        version = shoal.registry.resolve(reference)
        deployment = shoal.deploy(
            version, scale=changes, dtype=dtype, compile=compile_, reason=reason, on_status=on_status
        )
    bounds = f"{deployment.scale.min_replicas}-{deployment.scale.max_replicas}"
    url = f"{shoal.cluster.url}/v2/models/{deployment.name}"
    print_line(f"deployed {version} at {url} (replicas {bounds}, {deployment.endpoint.variant})")
    print_note(_describe_others(shoal.registry.list_versions(version.name), version.version))
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
