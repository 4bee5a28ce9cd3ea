"""A sweep over protocols and restarts on a Dask cluster, for a laptop or a thousand cores."""

from dataclasses import replace
from pathlib import Path

from distributed import LocalCluster

from training.committee.protocols import PROTOCOLS
from training.committee.sweep import Training, run_all


def main():
    """Train the minima on the cluster's workers, and say how the restarts ended."""
    protocols = [replace(PROTOCOLS["sgd-fast"], name=f"width-{K}", K=K) for K in (5, 9)]
    trainings = [Training(each, Path("sweep"), restarts=2, n_train=100) for each in protocols]
    # Your own cluster: scheduler="tcp://HOST:8786", or the scheduler_address of a SLURMCluster.
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        results = run_all(trainings, chunk=1, scheduler=cluster.scheduler_address)
    for minima in results:
        print(minima.summary())


if __name__ == "__main__":  # workers import this file
    main()
