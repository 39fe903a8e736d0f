"""Two Ray nodes on this machine, away from every network; and a command with them around it.

python tests/ray/cluster.py COMMAND …     finds the cluster at $PRELABEL_TEST_RAY
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CPUS = 8
"""Of each node, as Ray is told: workers that only sleep need none."""


@contextmanager
def two_nodes() -> Iterator[tuple[Any, Any]]:
    """A cluster and its second node."""
    interfaces = Path("/proc/net/dev").read_text().splitlines()[2:]
    if {line.partition(":")[0].strip() for line in interfaces} != {"lo"}:
        sys.exit("Ray listens on every address there is: run this by scripts/test-ray")
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": CPUS, "include_dashboard": False, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        second = cluster.add_node(**node)
        cluster.wait_for_nodes()
        yield cluster, second
    finally:
        ray.shutdown()
        cluster.shutdown()


def main() -> None:
    with two_nodes() as (cluster, _):
        environment = {**os.environ, "PRELABEL_TEST_RAY": cluster.address}
        code = subprocess.run(sys.argv[1:], check=False, env=environment).returncode
    sys.exit(code)


if __name__ == "__main__":
    main()
