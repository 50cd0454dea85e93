"""The model card: README.md of a bundle, written from its manifest.

After Mitchell et al., "Model Cards for Model Reporting", 2019, as far as the manifest knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.bundle import Manifest, TensorSpec


def render(manifest: Manifest) -> str:
    """Write the card as Markdown."""
    parts = [f"# {manifest.name}", manifest.summary or f"A model for {manifest.task.replace('-', ' ')}."]
    parts.append(
        "## What it takes and gives\n\n"
        + "\n".join(f"- {_tensor(spec)}" for spec in (*manifest.inputs, *manifest.outputs))
        + f"\n- labels: {', '.join(manifest.answer.labels)}"
    )
    if manifest.metrics:
        rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in sorted(manifest.metrics.items()))
        parts.append(f"## Scores on held-out rows\n\n| metric | value |\n|---|---|\n{rows}")
    if manifest.dataset:
        sizes = ", ".join(f"{count} {part}" for part, count in manifest.dataset.rows.items())
        parts.append(
            f"## Data\n\n{manifest.dataset.source}. Licence: {manifest.dataset.licence}. Rows: {sizes}.\n\n"
            f"Fingerprint: `{manifest.dataset.fingerprint}`"
        )
    made = [f"Made {manifest.created:%Y-%m-%d} with " + ", ".join(f"{k} {v}" for k, v in manifest.versions.items())]
    if manifest.git_commit:
        made.append(f"from commit `{manifest.git_commit}`")
    parts.append("## Origin\n\n" + " ".join(made) + ". The whole recipe stands in bundle.json.")
    return "\n\n".join(parts) + "\n"


def _tensor(spec: TensorSpec) -> str:
    return f"`{spec.name}`: {spec.datatype}, shape ({', '.join('any' if n < 0 else str(n) for n in spec.shape)})"
