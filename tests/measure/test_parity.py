import numpy as np
import pytest

from edgekd.errors import ParityError
from edgekd.measure.parity import check_parity, output_range, parity, steps_between

# Range 255, so that one int8 step is 1.
REFERENCE = np.array([[0.0, 255.0], [10.0, 5.0], [1.0, 2.0], [7.0, 3.0]])


def test_parity_by_hand_and_the_worst_batch_size_counts():
    near = REFERENCE + np.array([[1, 0], [0, 0], [0, 0], [0, -2]])  # mean 3/8
    far = REFERENCE.copy()
    far[1] = [4.0, 6.0]  # mean 7/8, and another class
    found = parity(REFERENCE, {1: near, 4: far}, "static_wi8_ai8")
    assert output_range(REFERENCE) == 255.0
    assert (found.num_samples, found.batch_sizes) == (4, (1, 4))
    assert found.max_abs == 6.0
    assert found.mean_abs == found.mean_steps == pytest.approx(7 / 8)
    assert found.argmax_agreement == 0.75


def test_float_files_have_no_steps():
    assert parity(REFERENCE, {1: REFERENCE}, "fp32").mean_steps is None
    assert parity(REFERENCE, {1: REFERENCE}, "dynamic_wi8_afp32").mean_steps == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_errors(bad):
    broken = REFERENCE.copy()
    broken[2, 0] = bad
    with pytest.raises(ParityError, match="at batch size 4 the file gives NaN or infinity"):
        parity(REFERENCE, {1: REFERENCE, 4: broken}, "fp32")


def test_other_shapes_and_nothing_at_all_are_errors():
    with pytest.raises(ParityError, match=r"at batch size 1 the file gives shape \(4, 1\), not \(4, 2\)"):
        parity(REFERENCE, {1: REFERENCE[:, :1]}, "fp32")
    with pytest.raises(ParityError, match="at least one"):
        parity(REFERENCE, {}, "fp32")
    with pytest.raises(ParityError, match="at least one"):
        parity(REFERENCE[:0], {1: REFERENCE[:0]}, "fp32")


def shifted(scheme, scale, error):
    """Parity of outputs of range `scale` that are all off by `error`."""
    reference = REFERENCE / 255.0 * scale
    return parity(reference, {1: reference + error}, scheme), scheme, output_range(reference)


@pytest.mark.parametrize(
    ("scheme", "scale", "inside", "outside"),
    [
        ("fp32", 0.5, 0.9e-4, 1.1e-4),  # absolute where the range is below 1
        ("fp32", 20.0, 1.9e-3, 2.1e-3),  # 1e-4 of the range above
        ("fp16", 0.5, 4.9e-3, 5.1e-3),  # 1e-2 of the range always
        ("fp16", 20.0, 0.19, 0.21),
        ("static_wi8_ai8", 255.0, 0.99, 1.01),  # one step
        ("static_wi8_ai8", 510.0, 1.99, 2.01),
        ("dynamic_wi8_afp32", 255.0, 0.99, 1.01),
    ],
)
def test_each_scheme_has_its_limit(scheme, scale, inside, outside):
    check_parity(*shifted(scheme, scale, inside))
    with pytest.raises(ParityError, match=f"the {scheme} file does not compute what its model does"):
        check_parity(*shifted(scheme, scale, outside))


def test_int8_must_choose_the_same_class_on_99_of_100():
    reference = np.tile([0.0, 1.5], (200, 1))  # further apart than one step, which is 1
    reference[0] = [0.0, 255.0]
    for flips, passes in ((2, True), (3, False)):
        outputs = reference.copy()
        outputs[1 : 1 + flips] = [1.5, 0.0]
        found = parity(reference, {1: outputs}, "static_wi8_ai8")
        if passes:
            check_parity(found, "static_wi8_ai8", 255.0)
        else:
            with pytest.raises(ParityError, match=r"same class on 98\.50% of samples, limit 99%"):
                check_parity(found, "static_wi8_ai8", 255.0)


def test_which_of_two_classes_within_a_step_wins_is_rounding_in_int8_only():
    reference = np.array([[0.0, 0.9], [0.0, 255.0]])  # the step is 1
    swapped = {1: np.array([[0.9, 0.0], [0.0, 255.0]])}
    assert parity(reference, swapped, "static_wi8_ai8").argmax_agreement == 1.0
    assert parity(reference, swapped, "fp32").argmax_agreement == 0.5
    reference[0, 1] = 1.1
    assert parity(reference, swapped, "static_wi8_ai8").argmax_agreement == 0.5


def test_message_holds_numbers_limit_and_what_locate_says():
    with pytest.raises(ParityError) as caught:
        check_parity(*shifted("fp32", 0.5, 0.25), locate=lambda: "first at layer2.conv1")
    text = str(caught.value)
    assert "largest error 0.25, limit 0.0001" in text
    assert "4 samples, batch sizes 1" in text
    assert text.endswith("; first at layer2.conv1")


def test_locate_is_not_asked_where_all_is_well():
    def locate():
        raise AssertionError

    check_parity(*shifted("fp32", 0.5, 0.0), locate=locate)


def test_constant_outputs_have_no_range_and_no_parity_but_their_own():
    flat = np.ones((3, 2))
    check_parity(parity(flat, {1: flat}, "fp32"), "fp32", 0.0)
    off = parity(flat, {1: flat + 0.5}, "static_wi8_ai8")
    with pytest.raises(ParityError, match="mean error inf output steps"):
        check_parity(off, "static_wi8_ai8", 0.0)


def test_what_a_model_does_not_keep_itself_no_file_can():
    """Of a model that moves by two steps a file may be off by two, and classes within two may be either."""
    off = REFERENCE + np.array([[1.5, 0], [0, 6.5], [-1.5, 0], [0, 1.5]])  # mean 11/8; 5 becomes 11.5
    span = output_range(REFERENCE)
    alone = parity(REFERENCE, {1: off}, "static_wi8_ai8")
    with pytest.raises(ParityError, match=r"mean error 1\.38 output steps, limit 1 \("):
        check_parity(alone, "static_wi8_ai8", span)
    with pytest.raises(ParityError, match=r"limit 1\.2, its model moves by 1\.2 where all is nudged"):
        check_parity(parity(REFERENCE, {1: off}, "static_wi8_ai8", own_steps=1.2), "static_wi8_ai8", span)
    # 10 against 5 is no tie even then
    moving = parity(REFERENCE, {1: off}, "static_wi8_ai8", own_steps=2.0)
    assert moving.argmax_agreement == 0.75
    with pytest.raises(ParityError, match=r"same class on 75\.00%"):
        check_parity(moving, "static_wi8_ai8", span)
    near = off - np.array([[0, 0], [0, 5], [0, 0], [0, 0]])  # 5 becomes 6.5
    tie = parity(REFERENCE - [[0, 0], [4, 0], [0, 0], [0, 0]], {1: near}, "static_wi8_ai8", own_steps=2.0)
    assert tie.argmax_agreement == 1.0  # of 6 and 5 either may be first
    check_parity(tie, "static_wi8_ai8", span)
    # and what moves by more than four steps gives no more room than four
    wild = parity(REFERENCE, {1: REFERENCE + 4.1}, "static_wi8_ai8", own_steps=9.0)
    with pytest.raises(ParityError, match=r"mean error 4\.1 output steps, limit 4, its model moves by 9"):
        check_parity(wild, "static_wi8_ai8", span)
    # a model that is calm makes no limit smaller
    calm = parity(REFERENCE, {1: REFERENCE + 0.9}, "static_wi8_ai8", own_steps=0.1)
    check_parity(calm, "static_wi8_ai8", span)


def test_steps_between_outputs_by_hand():
    mean, most = steps_between(REFERENCE, REFERENCE + np.array([[1, 0], [0, 0], [0, -2], [5, 0]]))
    assert (mean, most) == (1.0, pytest.approx(2 + 0.93 * 3))  # 99% of the way along eight values in order


def test_classes_that_are_nearer_than_what_moves_may_come_out_either_way():
    other = np.array([[0.0, 255.0], [6.0, 9.0], [1.0, 2.0], [7.0, 3.0]])
    alone = parity(REFERENCE, {1: other}, "static_wi8_ai8", own_steps=0.5)
    assert alone.argmax_agreement == 0.75  # 10 against 5 is five steps
    assert (
        parity(REFERENCE, {1: other}, "static_wi8_ai8", own_steps=0.5, own_spread=5.1).argmax_agreement == 1
    )
    far = np.array([[0.0, 255.0], [10.0, 5.0], [1.0, 2.0], [3.0, 15.0]]), np.array([[0.0, 9.0]] * 4)
    assert (
        parity(REFERENCE, {1: far[0]}, "static_wi8_ai8", own_steps=2.0, own_spread=99.0).argmax_agreement == 1
    )
    wide = REFERENCE + np.array([[0, 0], [0, 0], [0, 0], [9, 0]])  # 16 against 3
    assert (
        parity(wide, {1: far[0]}, "static_wi8_ai8", own_steps=2.0, own_spread=99.0).argmax_agreement == 0.75
    )
