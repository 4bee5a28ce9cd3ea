"""Functions run in several processes that are joined by gloo."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import traceback

import torch
import torch.distributed as dist


def launcher(module):
    """Return `launch`; a server that has `module` and torch loaded forks its processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])

    def launch(n_processes, folder, label, target, *arguments):
        """Run ``target(rank, *arguments)`` in each process; returns the exit codes.

        What a process dies of is in the file LABEL-RANK.error of `folder`.
        """
        everywhere = (n_processes, folder, label, target, arguments)
        processes = [context.Process(target=_enter, args=(rank, *everywhere)) for rank in range(n_processes)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(600)  # generous: on a crowded machine importing torch alone takes minutes
            if process.is_alive():
                process.kill()
                process.join()
        return [process.exitcode for process in processes]

    return launch


def _enter(rank, n_processes, folder, label, target, arguments):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder / f'{label}-rendezvous'}",
            rank=rank,
            world_size=n_processes,
            timeout=datetime.timedelta(seconds=300),
        )
        target(rank, *arguments)
        dist.destroy_process_group()
    except BaseException:
        (folder / f"{label}-{rank}.error").write_text(traceback.format_exc(), encoding="utf-8")
        os._exit(1)
