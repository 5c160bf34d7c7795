from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd import gate
from edgekd.figures import class_drops, contents, distribution, flips
from edgekd.measure.contents import Constant
from edgekd.types import Predictions


def answering(labels, answers, classes):
    """Predictions whose highest score is the given answer."""
    scores = np.zeros((len(labels), classes), np.float32)
    scores[np.arange(len(labels)), answers] = 1
    ids = np.array([f"s{i:06d}" for i in range(len(labels))])
    return Predictions(ids, np.asarray(labels, np.int64), scores)


def pair_of(labels, teacher, file, classes):
    return gate.pair(answering(labels, teacher, classes), answering(labels, file, classes))


def counted(label, b, c, n, right, classes, other):
    """n samples of a class: b lost, c won, `right` right in both, the others wrong in both."""
    wrong = (label + other) % classes
    teacher = [label] * b + [wrong] * c + [label] * right + [wrong] * (n - b - c - right)
    file = [wrong] * b + [label] * c + [label] * right + [wrong] * (n - b - c - right)
    return [label] * n, teacher, file


def joined(parts):
    return ([value for part in column for value in part] for column in zip(*parts, strict=True))


def test_drops_by_class_have_the_published_intervals():
    # Tango's interval at 90 % for (b, c, n) as in the specification of the gate.
    golden = {
        0: ((9, 3, 32), (0.01019013, 0.35744514)),
        2: ((0, 1, 44), (-0.09566243, 0.03651694)),
        3: ((0, 0, 500), (-0.00538196, 0.00538196)),
    }
    parts = [counted(k, b, c, n, 10, 5, 1) for k, ((b, c, n), _) in golden.items()]
    found = class_drops(pair_of(*joined(parts), 5), 0.05)
    assert [d.class_index for d in found.worst] == [0, 3, 2]  # 6 of 32 lost, none, one of 44 won
    assert (found.left_out, found.without_samples) == (0, 2)
    for d in found.worst:
        (b, c, n), interval = golden[d.class_index]
        assert (d.lost, d.won, d.n) == (b, c, n)
        assert d.teacher_right == b + 10 and d.file_right == c + 10
        assert d.drop_interval == pytest.approx([100 * end for end in interval], abs=1e-5)
        assert d.drop_pp == pytest.approx(100 * (b - c) / n)


def test_of_very_many_classes_the_worst_are_kept_and_the_others_counted():
    # Class k of 130 loses k % 7 of its 20 samples.
    parts = [counted(k, k % 7, 0, 20, 20 - k % 7, 130, 1) for k in range(130)]
    found = class_drops(pair_of(*joined(parts), 130), 0.05)
    assert len(found.worst) == 100 and found.left_out == 30 and found.without_samples == 0
    expected = sorted(range(130), key=lambda k: (-(k % 7), k))[:100]
    assert [d.class_index for d in found.worst] == expected


@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.integers(1, 300))
def test_drops_and_flips_count_what_a_loop_counts(seed, classes, n):
    rng = np.random.default_rng(seed)
    labels, teacher, file = rng.integers(0, classes, (3, n)).tolist()
    pair = pair_of(labels, teacher, file, classes)
    samples = list(zip(labels, teacher, file, strict=True))
    for d in class_drops(pair, 0.05).worst:
        own = [(t, f) for label, t, f in samples if label == d.class_index]
        assert d.n == len(own)
        assert d.lost == sum(t == d.class_index != f for t, f in own)
        assert d.won == sum(f == d.class_index != t for t, f in own)
    found = flips(pair)
    pairs = Counter((t, f) for _, t, f in samples if t != f)
    lost = Counter((t, f) for label, t, f in samples if t != f and t == label)
    won = Counter((t, f) for label, t, f in samples if t != f and f == label)
    assert found.n == pairs.total() and found.lost == lost.total() and found.won == won.total()
    counts = [p.n for p in found.pairs]
    assert counts == sorted(pairs.values(), reverse=True)[:30]
    for p in found.pairs:
        key = p.teacher_class, p.file_class
        assert (p.n, p.lost, p.won) == (pairs[key], lost[key], won[key])
    assert found.other_pairs == max(0, len(pairs) - 30)


def test_the_order_of_the_files_samples_does_not_matter():
    rng = np.random.default_rng(5)
    labels, teacher, file = rng.integers(0, 4, (3, 200))
    one, other = answering(labels, teacher, 4), answering(labels, file, 4)
    mixed = rng.permutation(200)
    shuffled = Predictions(other.sample_ids[mixed], other.labels[mixed], other.scores[mixed])
    assert flips(gate.pair(one, shuffled)) == flips(gate.pair(one, other))
    assert class_drops(gate.pair(one, shuffled), 0.05) == class_drops(gate.pair(one, other), 0.05)


def test_a_few_stalls_do_not_squeeze_the_histogram():
    # 1,000 runs from 1.000 to 1.999 ms in steps of 0.001, and five of a second.
    values = np.array([1 + i / 1000 for i in range(1000)] + [1000.0] * 5)
    found = distribution(values)
    assert found.low_ms == pytest.approx(1.0)
    # By hand, with numpy's linear rule on 1,005 values: quartiles at places 251 and 753.
    q1, q3 = 1.251, 1.753
    assert found.high_ms == pytest.approx(q3 + 3 * (q3 - q1))
    assert (found.below, found.above) == (0, 5)
    assert sum(found.counts) == 1000
    # A bin is 2.259 / 40 = 0.0565 ms: 56 or 57 runs; 1.999 is in bin 17.
    assert set(found.counts[:17]) <= {56, 57} and sum(found.counts[18:]) == 0
    assert found.quantiles_ms[0] == 1.0 and found.quantiles_ms[-1] == 1000.0
    assert found.quantiles_ms[5] == pytest.approx(1.502)  # place 502 of 0 to 1,004


@given(st.lists(st.floats(1e-4, 1e5, allow_nan=False), min_size=1, max_size=300))
def test_every_run_is_counted_once(values):
    found = distribution(np.array(values))
    assert sum(found.counts) + found.below + found.above == len(values)
    assert found.low_ms < found.high_ms
    assert found.below == sum(v < found.low_ms for v in values)
    assert found.above == sum(v > found.high_ms for v in values)


@pytest.mark.parametrize("values", [[0.5], [0.5] * 50, [0.5] * 50 + [0.6], [0.0, 0.0]])
def test_runs_that_took_the_same_have_a_histogram_too(values):
    found = distribution(np.array(values))
    assert found.low_ms < found.high_ms and max(found.counts) >= len(values) - 1


def test_bytes_are_summed_by_layer_and_type_and_bounded():
    constants = [Constant(f"layer{i:02d}", "CONV_2D", "int8", 1000 - i) for i in range(40)]
    constants += [Constant("layer00", "CONV_2D", "int8", 5), Constant("layer00", "CONV_2D", "int32", 64)]
    found = contents(constants, 100_000)
    assert found.layers[0].layer == "layer00" and found.layers[0].size_bytes == 1005
    assert len(found.layers) == 30
    # 40 layers and one further type; the ten smallest layers (990 to 961 less ...) and 64 bytes are left.
    left = [1000 - i for i in range(30, 40)] + [64]
    assert (found.other_layers, found.other_layers_bytes) == (11, sum(left))
    total = sum(1000 - i for i in range(40)) + 5
    assert found.by_dtype == {"int8": total, "int32": 64}
    assert found.graph_bytes == 100_000 - total - 64
