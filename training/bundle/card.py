"""The model card: README.md of a bundle, written from its manifest.

Train walk: save.py -> [card.py]
After Mitchell et al., "Model Cards for Model Reporting", 2019: intended use, training, evaluation, and their limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from training.schema import TableInput

if TYPE_CHECKING:
    from training.bundle.manifest import Manifest, TensorSpec


def render_card(manifest: Manifest, images: Sequence[str] = ()) -> str:
    """Render the card as Markdown; images are the names of PNG files in its folder."""
    parts = [
        f"# {manifest.name}",
        manifest.summary or f"A model for {manifest.task.replace('-', ' ')}.",
        f"## Intended use\n\n{manifest.intended_use}" if manifest.intended_use else "",
        _render_tensors(manifest),
        _render_metrics(manifest),
        _render_per_class_metrics(manifest),
        _render_dataset(manifest),
        _render_training(manifest),
        _render_energy(manifest),
        _render_origin(manifest),
        "\n\n".join(f"![{name.removesuffix('.png')}]({name})" for name in images),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _render_tensors(manifest: Manifest) -> str:
    lines = [f"- {_describe_tensor(spec)}" for spec in (*manifest.inputs, *manifest.outputs)]
    # A net that was brought encodes by itself, or not.
    if manifest.recipe and isinstance(manifest.input_schema, TableInput):
        lines.append(f"- encoded for the net: {manifest.input_schema.describe_encoding()}")
    labels = getattr(manifest.output_schema, "labels", None)
    if labels:
        lines.append(f"- labels: {', '.join(labels)}")
    lines.append(
        f"- compiled or in another precision: differs from fp32 by at most {manifest.tolerance:.2g} of the largest "
        "output on the bundle's example, or is refused"
    )
    return "## Inputs and outputs\n\n" + "\n".join(lines)


def _render_metrics(manifest: Manifest) -> str:
    if not manifest.metrics:
        return ""
    rows = []
    for name, value in sorted(manifest.metrics.items(), key=lambda item: (item[0] != manifest.primary_metric, item[0])):
        interval = manifest.intervals.get(name)
        interval_text = f"{interval.low:.4f} to {interval.high:.4f}" if interval else ""
        rows.append(f"| {name} | {value:.4f} | {interval_text} |")
    table = "| metric | value | 95% interval (bootstrap over the held-out rows) |\n|---|---|---|\n" + "\n".join(rows)
    calibration = manifest.calibration
    if calibration:
        temperature = getattr(manifest.output_schema, "temperature", 1.0)
        table += (
            f"\n\nExpected calibration error {calibration.error_before:.4f}; {calibration.error_after:.4f} with the "
            f"temperature {temperature:.3f}, which was fitted on the validation rows and is applied to served scores."
        )
    return f"## Metrics on held-out rows\n\n{table}"


def _render_per_class_metrics(manifest: Manifest) -> str:
    if not manifest.per_class_metrics:
        return ""
    names = list(next(iter(manifest.per_class_metrics.values())))
    header = f"| label | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}\n"
    rows = [
        f"| {label} | "
        + " | ".join(f"{metrics[name]:.0f}" if name == "support" else f"{metrics[name]:.4f}" for name in names)
        + " |"
        for label, metrics in manifest.per_class_metrics.items()
    ]
    return "## Metrics of each label\n\n" + header + "\n".join(rows)


def _render_dataset(manifest: Manifest) -> str:
    dataset = manifest.dataset
    if not dataset:
        return ""
    sizes = ", ".join(f"{count} {split}" for split, count in dataset.rows.items())
    lines = [f"{dataset.source}. License: {dataset.license}. Rows: {sizes}."]
    if dataset.split:
        lines.append(f"Split: {dataset.split}.")
    if dataset.dropped_rows:
        dropped = ", ".join(f"{count} {reason}" for reason, count in dataset.dropped_rows.items())
        lines.append(f"Dropped before the split: {dropped}.")
    if dataset.leaked_rows is not None:
        lines.append(f"Test rows whose input is in the training split too: {dataset.leaked_rows}.")
    return "## Data\n\n" + " ".join(lines) + f"\n\nFingerprint: `{dataset.fingerprint}`"


def _render_training(manifest: Manifest) -> str:
    if not manifest.training:
        return ""
    return "## Training\n\n" + ", ".join(f"{key} {value}" for key, value in manifest.training.items()) + "."


def _render_energy(manifest: Manifest) -> str:
    if not manifest.training:
        return ""
    energy = manifest.energy
    if energy is None:
        return "## Energy\n\nNot measured."
    carbon = (
        f"about {energy.kg_co2 * 1000:.2f} g of CO2 at the mean of {energy.country}'s grid"
        if energy.kg_co2 is not None
        else "CO2 not estimated (SHOAL_COUNTRY was not set)"
    )
    return f"## Energy\n\n{energy.kwh * 1000:.3f} Wh ({energy.method}), {carbon}; by codecarbon, for the whole machine."


def _render_origin(manifest: Manifest) -> str:
    versions = ", ".join(f"{package} {version}" for package, version in manifest.versions.items())
    text = f"## Origin\n\nCreated {manifest.created:%Y-%m-%d} with {versions}"
    if manifest.git_commit:
        text += f" from commit `{manifest.git_commit}`"
    if manifest.recipe:
        text += (
            f". The full recipe is in bundle.json; `shoal reproduce {manifest.name}:VERSION` trains it again and "
            "compares the result"
        )
    return text + "."


def _describe_tensor(spec: TensorSpec) -> str:
    return f"`{spec.name}`: {spec.datatype}, shape ({', '.join('any' if n < 0 else str(n) for n in spec.shape)})"
