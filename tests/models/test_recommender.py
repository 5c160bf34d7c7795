import numpy as np
import pytest
import torch

from edgekd.errors import UsageError
from edgekd.models import recommender
from edgekd.tasks import interactions


@pytest.fixture(scope="module")
def task():
    return interactions.read(interactions.Options(users=60, items=50, taken=12, candidates=6), 0)


def build(task, **options):
    return recommender.build((7,), 6, task=task, **options).eval()


@torch.no_grad()
def test_by_hand(task):
    net = build(task, width=4, hidden=[5, 3])
    sample = torch.from_numpy(np.array(task.splits["train"].inputs[:2]))
    users, items, popularity = (v.table.weight.numpy() for v in (net.users, net.items, net.popularity))
    weights = {name: value.numpy() for name, value in net.state_dict().items()}
    for found, ids in zip(net(sample).numpy(), sample.numpy(), strict=True):
        for score, item in zip(found, ids[1:], strict=True):
            u, i = users[ids[0]], items[item]
            wide = weights["wide.weight"][0] @ (u * i) + weights["wide.bias"][0] + popularity[item, 0]
            x = weights["of_user.weight"] @ u + weights["of_user.bias"] + weights["of_item.weight"] @ i
            x = np.maximum(x, 0)
            x = np.maximum(weights["deep.1.weight"] @ x + weights["deep.1.bias"], 0)
            deep = weights["deep.3.weight"][0] @ x + weights["deep.3.bias"][0]
            assert score == pytest.approx(wide + deep, abs=1e-5)


@torch.no_grad()
def test_few_rows_give_every_id_a_vector_of_its_own(task):
    net = build(task, width=8, rows=10)
    count = task.notes["items"]
    assert net.items.table.weight.shape == (10, 8)
    assert net.items.further.weight.shape == (-(-count // 10), 8)
    ids = torch.arange(count)
    found = net.items(ids).numpy()
    table, further = net.items.table.weight.numpy(), net.items.further.weight.numpy()
    np.testing.assert_allclose(found, [table[i % 10] + further[i // 10] for i in range(count)], atol=1e-6)
    assert len({tuple(v) for v in found.round(5)}) == count


def test_as_many_rows_as_ids_are_one_table(task):
    net = build(task, rows=1000)
    assert net.items.further is None and len(net.items.table.weight) == task.notes["items"]


def test_what_does_not_fit_is_refused(task):
    with pytest.raises(UsageError, match="takes a user and candidates"):
        recommender.build((7,), 5, task=task)
    with pytest.raises(UsageError, match="takes a user and candidates"):
        recommender.build((7,), 6)
    with pytest.raises(UsageError, match="must be at least 1"):
        build(task, hidden=[0])
