"""Subcommands of provenance: models verify, models sign, trace, and the keys that are trusted."""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.terminal import (
    Json,
    Reference,
    context,
    format_metrics,
    make_table,
    open_registry,
    print_json,
    print_line,
    print_note,
    print_table,
)
from training.errors import UserError

if TYPE_CHECKING:
    from cluster.provenance import BundleReport
    from training.provenance.trust import TrustedKey
    from training.provenance.verification import Attestation

app = typer.Typer(
    help="Public keys whose signatures count: list, add, remove, key.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Rule = Annotated[
    str,
    typer.Option(
        "--trust",
        metavar="any|signed|FILE",
        help="Whose signature counts: any checks the files alone; by default signed, or what SHOAL_TRUST asks for.",
        show_default=False,
    ),
]
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="What the key is called here.")]


def add_commands(root: typer.Typer, models: typer.Typer) -> None:
    """Register the commands that stand in other groups."""
    root.command()(trace)
    models.command()(verify)
    models.command()(sign)


def verify(reference: Reference, trust: Rule = "", as_json: Json = False) -> None:
    """Check a version's files and signatures.

    The exit code is 1 where a file is not as the manifest lists it, or no signature counts.
    """
    from cluster.provenance import verify_version

    report = verify_version(context.settings, reference, trust)
    if as_json:
        print_json(_describe_report(report))
    else:
        _print_report(report)
    if report.problem:
        raise typer.Exit(1)


def sign(reference: Reference) -> None:
    """Sign a version: as trained here by its run, or as imported."""
    registry = open_registry()
    version = registry.resolve(reference)
    if registry.sign_version(version):
        print_line(f"signed {version}")
    else:
        print_line(f"{version} is signed by this cluster already; nothing was signed")
    print_note(f"next: shoal models verify {version}")


def trace(
    request_id: Annotated[
        str, typer.Argument(metavar="REQUEST_ID", help="An answer's x-request-id.", show_default=False)
    ] = "",
    model: Annotated[
        str, typer.Option(help="Its x-shoal-model, where no log has the request.", show_default=False)
    ] = "",
    version: Annotated[str, typer.Option(help="Its x-shoal-version.", show_default=False)] = "",
    digest: Annotated[str, typer.Option(help="Its x-shoal-digest, or the first digits.", show_default=False)] = "",
    nodes: Annotated[str, typer.Option(help="A pipeline's x-shoal-nodes.", show_default=False)] = "",
    as_json: Json = False,
) -> None:
    """Trace an answer to its bundle, run, data and commit."""
    from cluster.provenance import describe_trace
    from cluster.provenance import trace as trace_request
    from cluster.request_lookup import ServedRequest, find_request

    served = find_request(context.settings, request_id) if request_id else None
    given = ServedRequest(request_id, model, version, digest, tuple(filter(None, nodes.split(","))))
    if served is None:
        if not (model or digest or nodes):
            asked = f"no answer with request id {request_id!r} is recorded here" if request_id else "nothing to trace"
            raise UserError(
                f"{asked}; give what its headers say (--digest of x-shoal-digest, or --model and --version), or set "
                "SHOAL_EDGE__ACCESS_LOG=true before `shoal up` to have requests recorded"
            )
        served = given
    elif not served.model:
        raise UserError(f"request {request_id} got status {served.status}, and no model's answer")
    traced = [describe_trace(each) for each in trace_request(context.settings, served)]
    request = {
        "request_id": served.request_id or None,
        "time": datetime.fromtimestamp(served.time_s).astimezone().isoformat() if served.time_s else None,
        "caller": served.caller or None,
        "status": served.status or None,
        "model": served.model or None,
        "version": served.version or None,
        "nodes": list(served.nodes),
    }
    if as_json:
        print_json(request | {"models": traced})
        return
    if served.request_id and served.status:
        pipeline = f", pipeline {served.model}:{served.version}" if served.nodes else ""
        print_line(f"request {served.request_id}: status {served.status} at {request['time']}{pipeline}")
    for each in traced:
        _print_trace(each)


def _print_trace(traced: dict[str, Any]) -> None:
    run, data, statement = traced["run"], traced["data"], traced["statement"] or {}
    made_by = f"{run['name']} ({run['id']}, {run['status']})" if run else "imported; made elsewhere"
    packages = statement.get("packages")
    rows = {
        "model": f"{traced['model']}:{traced['version']}",
        "digest": traced["digest"],
        "bundle": traced["bundle"],
        "problem": traced["problem"],
        "signature": traced["signature"],
        "run": made_by,
        "recipe": _summarize_json(traced["recipe"]),
        "data": f"{data['fingerprint']} ({data['source']})" if data else "",
        "commit": traced["commit"] or "",
        "packages": "" if packages is None else f"{packages}, by name and version in the statement",
        "metrics": format_metrics(traced["metrics"]),
    }
    table = make_table("", "")
    table.show_header = False
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    print_table(table)


def _summarize_json(value: Any) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _describe_report(report: "BundleReport") -> dict[str, Any]:
    version = report.version
    return {
        "model": version.name,
        "version": version.version,
        "digest": version.digest,
        "bundle": version.uri,
        "trust": report.policy.rule,
        "verified": not report.problem,
        "problem": report.problem,
        "files": [
            {"name": each.name, "sha256": each.actual, "listed": each.listed, "matches": each.actual == each.listed}
            for each in report.files
        ],
        "signatures": [_describe_attestation(each) for each in report.attestations],
    }


def _describe_attestation(attestation: "Attestation") -> dict[str, Any]:
    signer, statement = attestation.signer, attestation.statement
    return {
        "key_ids": list(attestation.key_ids),
        "signer": signer.name if signer else None,
        "problem": attestation.problem,
        "statement": statement.model_dump(mode="json", by_alias=True) if statement else None,
    }


def _print_report(report: "BundleReport") -> None:
    from cluster.provenance import describe_predicate

    table = make_table("file", "sha256", "")
    for each in report.files:
        verdict = "as listed" if each.actual == each.listed else "altered" if each.listed else "not listed"
        table.add_row(each.name, each.actual or "none", "missing" if not each.actual else verdict)
    print_table(table)
    for attestation in report.attestations:
        signer = attestation.signer
        key = f"{signer.name} ({signer.key.id})" if signer else ", ".join(attestation.key_ids) or "an unnamed key"
        print_line(f"\nsigned by {key}" if signer else f"\nclaimed to be signed by {key}")
        if attestation.problem:
            print_line(f"does not count: {attestation.problem}")
        if attestation.predicate:
            lines = make_table("", "")
            lines.show_header = False
            for name, value in describe_predicate(attestation.predicate).items():
                lines.add_row(name, value if isinstance(value, str) else _summarize_json(value))
            print_table(lines)
    version = report.version
    outcome = f"not verified: {report.problem}" if report.problem else f"verified, by trust {report.policy.rule}"
    print_line(f"\n{version} ({version.digest}): {outcome}")


@app.callback()
def default(context_: typer.Context, as_json: Json = False) -> None:
    """List, add, remove, key; list where no command follows."""
    if not context_.invoked_subcommand:
        list_(as_json)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the keys whose signatures count."""
    from training.provenance.trust import SIGNED, load_policy

    rows = [_describe_key(each) for each in load_policy(context.settings.home, SIGNED).keys]
    if as_json:
        print_json(rows)
        return
    if not rows:
        print_note("no keys yet; `shoal trust add NAME FILE` trusts another cluster's, `shoal init` makes this one's")
        return
    table = make_table("name", "key")
    for row in rows:
        table.add_row(row["name"], row["key"])
    print_table(table)


@app.command()
def add(name: KeyName, file: Annotated[Path, typer.Argument(help="What `shoal trust key` printed there.")]) -> None:
    """Trust another cluster's public key."""
    from cluster.provenance import trust_key

    added = trust_key(context.settings, name, file)
    print_line(f"trusted {added.name} ({added.key.id})")


@app.command()
def remove(name: KeyName) -> None:
    """Trust a key no longer; what runs goes on until it starts anew."""
    from cluster.provenance import distrust_key

    removed = distrust_key(context.settings, name)
    print_line(f"removed {removed.name} ({removed.key.id})")


@app.command()
def key(as_json: Json = False) -> None:
    """Print this cluster's public key, for others to trust."""
    from training.provenance.keys import ensure_signing_key

    public = ensure_signing_key(context.settings.home).public
    if as_json:
        print_json({"key": public.id, "pem": public.pem})
        return
    print_line(public.pem.rstrip())


def _describe_key(trusted: "TrustedKey") -> dict[str, str]:
    return {"name": trusted.name, "key": trusted.key.id, "pem": trusted.key.pem}
