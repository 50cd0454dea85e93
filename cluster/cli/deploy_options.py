"""Options of `shoal deploy`: their types and help texts."""

from typing import Annotated, Literal

import typer

from cluster.cli.quantities import SECONDS, parse_seconds

MinReplicas = Annotated[int | None, typer.Option(help="Replicas that always run; 0: it sleeps while nobody calls.")]
MaxReplicas = Annotated[int | None, typer.Option(help="Replicas at most; Serve scales between the two.")]
Target = Annotated[float | None, typer.Option(help="Requests in one replica that scaling aims at.")]
SloP99 = Annotated[
    float | None,
    typer.Option(
        parser=parse_seconds,
        metavar=SECONDS,
        help="Goal: seconds (0.05, or 50ms) within which 99% of the requests are answered; passes and scaling then "
        "follow from the model's profile. 0: none.",
    ),
]
UpscaleDelay = Annotated[
    float | None,
    typer.Option(parser=parse_seconds, metavar=SECONDS, help="Seconds for which more must have been needed."),
]
DownscaleDelay = Annotated[
    float | None,
    typer.Option(parser=parse_seconds, metavar=SECONDS, help="Seconds for which fewer must have sufficed."),
]
DownscaleToZeroDelay = Annotated[
    float | None, typer.Option(parser=parse_seconds, metavar=SECONDS, help="Seconds without a call before it sleeps.")
]
Cpus = Annotated[float | None, typer.Option(help="CPUs of one replica.")]
Gpus = Annotated[
    float | None, typer.Option(help="GPUs of one replica, or a share of one; 1 where the cluster has any.")
]
Dtype = Annotated[Literal["fp32", "bf16"], typer.Option(help="Precision of matrix products.")]
Trust = Annotated[
    str,
    typer.Option(
        metavar="any|signed|FILE",
        help="Whose signature it needs: signed, by this cluster or a key of `shoal trust`; or by this public key.",
        show_default=False,
    ),
]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the net when it is loaded.")]
