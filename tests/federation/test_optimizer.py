"""The server's arithmetic on updates, against values computed by hand."""

import math

import numpy as np
import pytest

from server.aggregation import (
    HEAD_RATE,
    IterateAverage,
    ServerOptimizer,
    Signal,
    noise_deviation,
    weighted_mean,
)
from shared.adapters import Arrays
from shared.config import ServerSection
from shared.errors import FederationError
from shared.messages import Reply
from shared.plan import Mechanism
from shared.ratings import HEAD


def array(*values: float) -> Arrays:
    return {"w": np.array(values, dtype=np.float32)}


def step(optimizer: ServerOptimizer, adapter: float, update: float) -> float:
    return float(optimizer.step(array(adapter), array(update))["w"][0])


def test_the_mean_is_weighted_by_declared_users() -> None:
    mean = weighted_mean([array(1.0, 0.0), array(4.0, 8.0)], [30.0, 10.0])
    assert mean["w"].tolist() == [(30 * 1 + 10 * 4) / 40, (10 * 8) / 40]


def test_the_mean_is_float32_and_keeps_every_name() -> None:
    parts = [{"a": np.ones(2, np.float32), "b": np.zeros((1, 2), np.float32)}] * 3
    mean = weighted_mean(parts, [1.0, 2.0, 3.0])
    assert {name: (str(value.dtype), value.shape) for name, value in mean.items()} == {
        "a": ("float32", (2,)),
        "b": ("float32", (1, 2)),
    }


def test_no_update_has_no_mean() -> None:
    with pytest.raises(FederationError, match="no update"):
        weighted_mean([], [])


def test_average_adds_the_update_whatever_the_learning_rate() -> None:
    optimizer = ServerOptimizer(ServerSection(optimizer="average", learning_rate=0.1))
    assert step(optimizer, 1.0, 0.25) == 1.25


def test_normalised_goes_the_way_of_momentum_by_the_length_of_the_learning_rate() -> None:
    optimizer = ServerOptimizer(
        ServerSection(optimizer="normalised", learning_rate=1.5, momentum=0.5)
    )
    # 100 times as loud an update is no longer a step.
    first = optimizer.step(array(1.0, 1.0), array(30.0, -40.0))["w"]
    assert first.tolist() == pytest.approx([1.0 + 1.5 * 0.6, 1.0 - 1.5 * 0.8])
    # m = 0.5 * (15, -20) + 0.5 * (-15, 20 + 24) = (0, 12)
    second = optimizer.step(array(0.0, 0.0), array(-15.0, 44.0))["w"]
    assert second.tolist() == pytest.approx([0.0, 1.5])
    usual = ServerOptimizer(ServerSection())
    assert usual.step(array(0.0), array(-7.0))["w"].tolist() == pytest.approx([-1.2])
    still = ServerOptimizer(ServerSection(optimizer="normalised"))
    assert still.step(array(2.0), array(0.0))["w"].tolist() == [2.0]


def test_momentum_adds_the_corrected_decaying_mean_of_updates() -> None:
    optimizer = ServerOptimizer(
        ServerSection(optimizer="momentum", learning_rate=0.5, momentum=0.9)
    )
    first = step(optimizer, 1.0, 2.0)
    assert first == pytest.approx(1.0 + 0.5 * 2.0)
    # m = 0.9 * 0.2 + 0.1 * (-1) = 0.08, over 1 - 0.9 ** 2 = 0.19
    assert step(optimizer, first, -1.0) == pytest.approx(first + 0.5 * 0.08 / 0.19, rel=1e-6)


def test_adam_takes_two_steps_as_reddi_et_al_give_them() -> None:
    optimizer = ServerOptimizer(
        ServerSection(optimizer="adam", learning_rate=0.1, momentum=0.9, second_momentum=0.999)
    )
    first = step(optimizer, 1.0, 2.0)
    assert first == pytest.approx(1.0 + 0.1 * 2.0 / math.sqrt(4.0), rel=1e-6)
    m = (0.9 * 0.2 - 0.1) / (1 - 0.9**2)
    v = (0.999 * 0.004 + 0.001 * 1.0) / (1 - 0.999**2)
    assert step(optimizer, first, -1.0) == pytest.approx(first + 0.1 * m / math.sqrt(v), rel=1e-5)


@pytest.mark.parametrize("name", ["average", "momentum", "adam"])
def test_an_optimiser_leaves_the_given_adapter_alone_and_stays_float32(name: str) -> None:
    optimizer = ServerOptimizer(ServerSection.model_validate({"optimizer": name}))
    before = array(1.0, 2.0)
    after = optimizer.step(before, array(0.5, -0.5))
    assert before["w"].tolist() == [1.0, 2.0]
    assert after["w"].dtype == np.float32


def test_a_coordinate_without_updates_does_not_move_under_adam() -> None:
    optimizer = ServerOptimizer(ServerSection(optimizer="adam"))
    assert step(optimizer, 3.0, 0.0) == 3.0


def test_the_iterate_average_is_the_mean_of_the_tail() -> None:
    average = IterateAverage(share=0.5, rounds=4)
    for round_number, value in enumerate([100.0, 50.0, 3.0, 5.0], start=1):
        average.add(round_number, array(value))
    assert average.result(array(5.0))["w"].tolist() == [4.0]


def test_without_a_tail_the_last_adapter_is_the_result() -> None:
    average = IterateAverage(share=0.0, rounds=4)
    for round_number in range(1, 5):
        average.add(round_number, array(float(round_number)))
    assert average.result(array(9.0))["w"].tolist() == [9.0]


def test_the_noise_of_a_weighted_mean_is_that_of_its_sum_over_its_users() -> None:
    mechanism = Mechanism("step", 0.5, 4.0, 1.5)
    replies = [Reply("a", 30, 1, {}), Reply("b", 10, 1, {})]
    # Each adds deviation 6 a step; two houses, three steps of size 0.1, divided by q times users.
    expected = 6.0 * math.sqrt(2 * 3) * 0.1 / (0.5 * 40)
    assert noise_deviation(replies, mechanism, 3, 0.1) == pytest.approx(expected)


def test_the_noise_of_a_weighted_mean_is_the_one_that_simulated_houses_give() -> None:
    generator = np.random.default_rng(0)
    mechanism, sizes, coordinates = Mechanism("step", 1.0, 3.0, 1.0), (50, 10), 20_000
    replies = [Reply(str(size), size, 1, {}) for size in sizes]
    noise = [generator.normal(0.0, 3.0, coordinates) / size for size in sizes]
    mean = weighted_mean(
        [{"w": n.astype(np.float32)} for n in noise], [float(size) for size in sizes]
    )
    # The deviation of 20,000 draws has a standard error of 0.5%; five of them are allowed.
    expected = noise_deviation(replies, mechanism, 1, 1.0)
    assert float(mean["w"].std()) == pytest.approx(expected, rel=0.025)


def test_updates_without_noise_are_all_signal() -> None:
    signal = Signal()
    signal.add(array(0.1, -0.2), 0.0)
    assert signal.reliability() == 1.0


def test_updates_of_noise_alone_are_no_signal() -> None:
    generator, signal = np.random.default_rng(0), Signal()
    for _ in range(5):
        signal.add({"w": generator.normal(0.0, 0.3, 5000).astype(np.float32)}, 0.3)
    assert signal.reliability() < 0.05


def test_a_signal_that_repeats_stands_out_of_noise_with_more_rounds() -> None:
    generator = np.random.default_rng(0)
    found = []
    for rounds in (2, 50):
        signal = Signal()
        for _ in range(rounds):
            noisy = 0.1 + generator.normal(0.0, 0.3, 5000)
            signal.add({"w": noisy.astype(np.float32)}, 0.3)
        found.append(signal.reliability())
    # Energy of the signal 0.01, of the mean's noise 0.09 / rounds.
    assert found[0] == pytest.approx(0.01 / (0.01 + 0.045), abs=0.06)
    assert found[1] == pytest.approx(0.01 / (0.01 + 0.0018), abs=0.03)
    assert found[1] > found[0]


def test_before_any_round_nothing_is_reliable() -> None:
    assert Signal().reliability() == 0.0


def test_a_rating_head_takes_nothing_of_the_adapters_step_and_is_not_thrown_by_its_bias() -> None:
    """Of one fixed length the bias, whose gradient is largest, would take most."""
    adapter = {"a.lora_B.w": np.zeros((2, 3), np.float32)}
    head = {f"{HEAD}linear.weight": np.zeros((1, 4), np.float32)}
    head |= {f"{HEAD}linear.bias": np.zeros(1, np.float32)}
    update = {name: np.full_like(value, 0.01) for name, value in (adapter | head).items()}
    update[f"{HEAD}linear.bias"] = np.full(1, 5.0, np.float32)
    options = ServerSection(optimizer="normalised", learning_rate=0.3)
    both = ServerOptimizer(options).step(adapter | head, update)
    alone = ServerOptimizer(options).step(adapter, {name: update[name] for name in adapter})
    assert both["a.lora_B.w"].tolist() == alone["a.lora_B.w"].tolist()
    assert np.linalg.norm(both["a.lora_B.w"]) == pytest.approx(0.3)
    for name in head:
        assert both[name] == pytest.approx(np.full_like(head[name], HEAD_RATE), rel=1e-3)
