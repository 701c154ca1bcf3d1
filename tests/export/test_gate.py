import numpy as np
import pytest

from export.gate import judge, recommend

FAST = {"1": {"float32": 10.0, "int8": 4.0}, "8": {"float32": 70.0, "int8": 30.0}}


def outputs(images, wrong, other_wrong, share=0.25):
    """A verdict on images of which so many are wrong in float32 alone, and so many others in int8 alone."""
    labels = np.zeros(images, np.int64)
    float32, int8 = (np.tile(np.array([[1.0, 0.0]], np.float32), (images, 1)) for _ in range(2))
    float32[:wrong] = float32[:wrong, ::-1]
    int8[wrong : wrong + other_wrong] = int8[wrong : wrong + other_wrong, ::-1]
    return judge(float32, int8, labels, share)


def test_numbers_are_those_of_the_images():
    verdict = outputs(1000, 20, 25)
    assert verdict.float32 == pytest.approx(0.98)
    assert verdict.int8 == pytest.approx(0.975)
    assert verdict.difference.value == pytest.approx(-0.005)
    assert verdict.difference.interval.low < -0.005 < verdict.difference.interval.high
    assert verdict.agreement == pytest.approx(0.955)
    assert "accuracy 0.9800 -> 0.9750 on 1000 images (difference -0.0050" in str(verdict)


def test_nothing_lost_on_enough_images_is_good_enough():
    verdict = outputs(400, 0, 1)
    assert verdict.reasons == []
    choice, why = recommend(verdict, FAST)
    assert choice == "int8"
    assert why == "as good, 2.5 times as fast at batch 1, 2.3 times as fast at batch 8, 0.25 of the size"
    assert verdict.as_json()["good_enough"] is True


def test_few_images_cannot_show_it():
    (reason,) = outputs(50, 0, 0).reasons
    assert "on these 50 images it may lose up to" in reason
    assert reason.endswith("; more images would tell")


def test_what_is_lost_and_what_is_large_is_said():
    lost = outputs(2000, 0, 60).reasons
    assert "loses 3.00 points" in lost[0]
    assert len(lost) == 2
    (large,) = outputs(2000, 0, 0, share=0.4).reasons
    assert large == "it takes 0.40 of float32's bytes, more than 0.35"
    choice, why = recommend(outputs(2000, 0, 60), FAST)
    assert choice == "float32"
    assert why.startswith("int8 is not good enough: it loses 3.00 points")


def test_what_is_not_faster_is_not_recommended():
    slow = FAST | {"1": {"float32": 2.4, "int8": 3.0}}
    choice, why = recommend(outputs(2000, 0, 0), slow)
    assert choice == "float32"
    assert "not faster on this processor (0.8 times as fast at batch 1" in why


def test_of_several_classes_every_one_must_be_right():
    labels = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], np.float32)
    float32 = np.array([[2, -1], [1, 1], [-1, -1], [-1, 1]], np.float32)
    int8 = np.array([[2, 1], [1, 1], [-1, -1], [1, 1]], np.float32)
    verdict = judge(float32, int8, labels, 0.3)
    assert (verdict.float32, verdict.int8, verdict.agreement) == (1.0, 0.5, 0.5)
