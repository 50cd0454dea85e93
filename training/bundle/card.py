"""The model card: README.md of a bundle, written from its manifest.

After Mitchell et al., "Model Cards for Model Reporting", 2019: what it is for, how it was made and judged, and how far
that can be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.bundle.manifest import Manifest, TensorSpec


def render_card(manifest: Manifest, images: Sequence[str] = ()) -> str:
    """Write the card as Markdown; pictures are the names of PNG files beside it."""
    parts = [
        f"# {manifest.name}",
        manifest.summary or f"A model for {manifest.task.replace('-', ' ')}.",
        f"## Use\n\n{manifest.intended_use}" if manifest.intended_use else "",
        _shapes(manifest),
        _scores(manifest),
        _classes(manifest),
        _data(manifest),
        _trained(manifest),
        _energy(manifest),
        _origin(manifest),
        "\n\n".join(f"![{name.removesuffix('.png')}]({name})" for name in images),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _shapes(manifest: Manifest) -> str:
    lines = [f"- {_tensor(spec)}" for spec in (*manifest.inputs, *manifest.outputs)]
    labels = getattr(manifest.output_schema, "labels", None)
    if labels:
        lines.append(f"- labels: {', '.join(labels)}")
    lines.append(
        f"- deployed in another precision or compiled: at most {manifest.tolerance:.2g} of the largest output away "
        "from fp32 on the bundle's example, or refused"
    )
    return "## What it takes and gives\n\n" + "\n".join(lines)


def _scores(manifest: Manifest) -> str:
    if not manifest.metrics:
        return ""
    rows = []
    for name, value in sorted(manifest.metrics.items(), key=lambda item: (item[0] != manifest.primary_metric, item[0])):
        span = manifest.intervals.get(name)
        rows.append(f"| {name} | {value:.4f} | {f'{span.low:.4f} to {span.high:.4f}' if span else ''} |")
    table = "| metric | value | 95% interval (bootstrap over the held-out rows) |\n|---|---|---|\n" + "\n".join(rows)
    found = manifest.calibration
    if found:
        temperature = getattr(manifest.output_schema, "temperature", 1.0)
        table += (
            f"\n\nCalibration error {found.error_before:.4f}, and {found.error_after:.4f} with the temperature "
            f"{temperature:.3f} that was fitted on the validation rows and that served scores are made with."
        )
    return f"## Scores on held-out rows\n\n{table}"


def _classes(manifest: Manifest) -> str:
    if not manifest.per_class_metrics:
        return ""
    names = list(next(iter(manifest.per_class_metrics.values())))
    head = f"| label | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}\n"
    rows = [
        f"| {label} | " + " | ".join(f"{scores[n]:.0f}" if n == "rows" else f"{scores[n]:.4f}" for n in names) + " |"
        for label, scores in manifest.per_class_metrics.items()
    ]
    return "## Each label\n\n" + head + "\n".join(rows)


def _data(manifest: Manifest) -> str:
    dataset = manifest.dataset
    if not dataset:
        return ""
    sizes = ", ".join(f"{count} {part}" for part, count in dataset.rows.items())
    lines = [f"{dataset.source}. Licence: {dataset.license}. Rows: {sizes}."]
    if dataset.split:
        lines.append(f"Split: {dataset.split}.")
    if dataset.dropped_rows:
        dropped = ", ".join(f"{count} {why}" for why, count in dataset.dropped_rows.items())
        lines.append(f"Dropped before the split: {dropped}.")
    if dataset.leaked_rows is not None:
        lines.append(f"Test rows whose input stands in the training part as well: {dataset.leaked_rows}.")
    return "## Data\n\n" + " ".join(lines) + f"\n\nFingerprint: `{dataset.fingerprint}`"


def _trained(manifest: Manifest) -> str:
    if not manifest.training:
        return ""
    return "## Training\n\n" + ", ".join(f"{key} {value}" for key, value in manifest.training.items()) + "."


def _energy(manifest: Manifest) -> str:
    if not manifest.training:
        return ""
    used = manifest.energy
    if used is None:
        return "## Energy\n\nNot measured."
    carbon = (
        f"about {used.kg_co2 * 1000:.2f} g of CO2 at the mean of {used.country}'s grid"
        if used.kg_co2 is not None
        else "CO2 not estimated (SHOAL_COUNTRY was not set)"
    )
    return f"## Energy\n\n{used.kwh * 1000:.3f} Wh ({used.method}), {carbon}; by codecarbon, for the whole machine."


def _origin(manifest: Manifest) -> str:
    made = [f"Made {manifest.created:%Y-%m-%d} with " + ", ".join(f"{k} {v}" for k, v in manifest.versions.items())]
    if manifest.git_commit:
        made.append(f"from commit `{manifest.git_commit}`")
    text = "## Origin\n\n" + " ".join(made) + "."
    if manifest.recipe:
        text += (
            f" The whole recipe stands in bundle.json; `shoal reproduce {manifest.name}:VERSION` trains it again and "
            "compares."
        )
    return text


def _tensor(spec: TensorSpec) -> str:
    return f"`{spec.name}`: {spec.datatype}, shape ({', '.join('any' if n < 0 else str(n) for n in spec.shape)})"
