"""A sweep over protocols and restarts on a Dask cluster; the same lines serve a laptop and a thousand cores."""

from dataclasses import replace
from pathlib import Path

from distributed import LocalCluster

from training.committee.protocols import PROTOCOLS
from training.committee.sweep import Training, run_all


def main():
    """Train the minima on the cluster's workers, and say how the restarts ended."""
    trainings = [
        Training(replace(PROTOCOLS["sgd-fast"], name=f"width-{K}", K=K), Path("sweep"), restarts=2, n_train=100)
        for K in (5, 9)
    ]
    # Your own cluster: scheduler="tcp://HOST:8786", or dask_jobqueue.SLURMCluster(...).scheduler_address.
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        results = run_all(trainings, chunk=1, scheduler=cluster.scheduler_address)
    for minima in results:
        print(minima.summary())


if __name__ == "__main__":  # workers import this file
    main()
