"""Subcommands of serving: deploy (a model), apply (a pipeline's file), undeploy."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cluster.cli.completion import complete_models
from cluster.cli.rollout import build_plan, describe_rollout
from cluster.cli.terminal import Reason, Reference, context, print_line, print_note, show_status


def add_commands(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (deploy, apply, undeploy):
        app.command()(command)


def deploy(
    reference: Reference,
    min_replicas: Annotated[
        int | None, typer.Option(help="Replicas that always run; 0: it sleeps while nobody calls.")
    ] = None,
    max_replicas: Annotated[int | None, typer.Option(help="Replicas at most; Serve scales between the two.")] = None,
    target: Annotated[float | None, typer.Option(help="Requests in one replica that scaling aims at.")] = None,
    slo_p99: Annotated[
        float | None,
        typer.Option(
            help="Goal: seconds within which 99% of the requests are answered; passes and scaling then follow from the "
            "model's profile. 0: none."
        ),
    ] = None,
    upscale_delay: Annotated[float | None, typer.Option(help="Seconds for which more must have been needed.")] = None,
    downscale_delay: Annotated[float | None, typer.Option(help="Seconds for which fewer must have sufficed.")] = None,
    downscale_to_zero_delay: Annotated[
        float | None, typer.Option(help="Seconds without a call before it sleeps.")
    ] = None,
    cpus: Annotated[float | None, typer.Option(help="CPUs of one replica.")] = None,
    gpus: Annotated[
        float | None, typer.Option(help="GPUs of one replica, or a share of one; 1 where the cluster has any.")
    ] = None,
    dtype: Annotated[Literal["fp32", "bf16"], typer.Option(help="Precision of matrix products.")] = "fp32",
    compile_: Annotated[bool, typer.Option("--compile", help="Compile the net when it is loaded.")] = False,
    reason: Reason = "",
    canary: Annotated[
        str | None, typer.Option(metavar="PERCENT", help="Beside the deployed version, for a share of the requests.")
    ] = None,
    steps: Annotated[
        str | None, typer.Option(metavar="PERCENTS", help="Shares of a canary, rising to 100: 5,25,50,100.")
    ] = None,
    shadow: Annotated[
        str | None, typer.Option(metavar="PERCENT", help="Send it copies of a share of the requests.")
    ] = None,
    split: Annotated[
        str, typer.Option(metavar="BY", help="What a canary's share is of: caller, request or header:NAME.")
    ] = "",
    min_step: Annotated[float | None, typer.Option(help="Seconds that a canary's step lasts at least.")] = None,
    min_agreement: Annotated[
        float | None, typer.Option(help="Share of shadow copies whose answers must agree; 0.95, say.")
    ] = None,
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
        "upscale_delay_s": upscale_delay,
        "downscale_delay_s": downscale_delay,
        "downscale_to_zero_delay_s": downscale_to_zero_delay,
        "cpus": cpus,
        "gpus": gpus,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if slo_p99 is not None:
        changes["slo_p99_s"] = slo_p99 or None
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
