"""How a run is spread over a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from iepile_cli.errors import UsageError
from iepile_cli.fields import check_fields, option

_CLUSTER = "Cluster"


@dataclass(frozen=True)
class ClusterOptions:
    """Where and how wide a run is spread; raises ``UsageError`` for values that cannot be."""

    ray: str | None = option(
        None,
        group=_CLUSTER,
        metavar="ADDRESS",
        help="Run on a Ray cluster: auto, HOST:PORT or ray://HOST:PORT; local starts one on this "
        "machine. -o is then a folder of shards.",
    )
    replicas: int = option(
        0,
        group=_CLUSTER,
        least=0,
        help="Workers at once, at most; 0: as many as the cluster has room for.",
    )
    gpus_per_replica: float = option(
        0.0, group=_CLUSTER, least=0, help="GPUs of each worker; 0.5: two share one."
    )
    shards: int = option(
        0,
        group=_CLUSTER,
        least=0,
        help="Number of shards. Default: one for every 1,000 texts, or 64 MB to convert.",
    )
    parquet: bool = option(
        False, group=_CLUSTER, help="Write shards as Parquet instead of JSON Lines."
    )

    def __post_init__(self) -> None:
        check_fields(self)
        given = self.replicas or self.gpus_per_replica or self.shards or self.parquet
        if given and self.ray is None:
            raise UsageError(
                "--replicas, --gpus-per-replica, --shards and --parquet are for --ray",
                hint="--ray local runs on this machine",
            )
