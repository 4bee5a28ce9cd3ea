"""Data-parallel training in two gloo processes: the same as with whole batches in one, noise included."""

import pytest
import torch

from tests.bpflat.optim.toy_networks import same_bits
from tests.gloo_processes import launcher

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
if torch.distributed.is_available():
    from tests.bpflat.optim import ddp_processes


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Folder of what two processes left."""
    folder = tmp_path_factory.mktemp("ddp")
    assert launcher("tests.bpflat.optim.ddp_processes")(2, folder, "ddp", ddp_processes.run, folder) == [0, 0]
    return folder


def outcomes(folder, job):
    return [torch.load(folder / f"{job}-{rank}.pt", weights_only=True) for rank in range(2)]


def assert_close(ours, theirs):
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-12)


def test_entropy_sgd_of_half_batches_is_that_of_whole_ones(two):
    results = outcomes(two, "seeded")
    assert same_bits(*results)
    model = ddp_processes.network(0)
    ddp_processes.train([model], ddp_processes.entropy_sgd(model.parameters(), seed=7))
    assert_close(model.state_dict(), results[0][0])


def test_without_a_seed_all_processes_add_the_same_noise(two):
    results = outcomes(two, "unseeded")
    assert same_bits(*results)
    assert same_bits(*results[0]["states"])
    one, other = results[0]["numbers"]
    assert one.ne(0).all()
    assert one.ne(other).all()  # but every optimizer its own


def test_processes_that_resume_from_one_checkpoint_go_on_alike(two):
    assert all(result["same"] for result in outcomes(two, "unseeded"))


def test_replicas_of_half_batches_are_those_of_whole_ones(two):
    models = [ddp_processes.network(a) for a in range(2)]
    ddp_processes.train(models, ddp_processes.replicated_sgd(models))
    for rank in range(2):
        for model, result in zip(models, outcomes(two, "replicas")[rank], strict=True):
            assert_close(model.state_dict(), result)


@pytest.mark.parametrize("name", ["fully_shard", "fsdp"])
def test_sharded_parameters_are_refused(two, name):
    lines = (two / f"{name}-0.refused").read_text(encoding="utf-8").splitlines()
    assert [line.split(" has sharded parameters")[0] for line in lines] == ["inner", "replicas[0]"]
    assert all("use DistributedDataParallel" in line for line in lines)
