"""The model of a step's time: worked out by hand, and found again from steps that it made."""

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from r2d2.training.time_model import GBIT, PAYLOAD, Fitted, Measured, Network, Work, fit, fit_curve, predict, slowest

STUDY = Path(__file__).parents[2] / "experiments" / "scaling" / "time_model.py"
UNET = Work(compute_s=0.2, gradient_bytes=100e6)


def test_a_worker_alone_takes_its_step_whatever_the_network():
    step = predict(replace(UNET, spread_s=0.1), Network(1.0, latency_s=1.0, busy_s_per_byte=1.0), 1)
    assert (step.step_s, step.wire_s, step.exposed_s, step.waiting_s, step.efficiency) == (0.2, 0, 0, 0, 1)


def test_two_workers_send_their_gradients_once_and_four_one_and_a_half_times():
    link = Network(1 * GBIT, share=1.0)  # 125 MB/s
    two, four = predict(UNET, link, 2), predict(UNET, link, 4)
    assert two.wire_s == pytest.approx(0.8) and four.wire_s == pytest.approx(1.2)
    assert two.step_s == pytest.approx(1.0) and two.efficiency == pytest.approx(0.2)
    assert predict(UNET, link, 1024).wire_s == pytest.approx(2 * 1023 / 1024 * 0.8)


def test_headers_latency_and_copying_add_to_it():
    link = Network(1 * GBIT, share=0.8, latency_s=0.01, busy_s_per_byte=1e-9)
    step = predict(UNET, link, 3)  # 133 MB sent in four messages
    assert step.wire_s == pytest.approx(4 / 3 * 0.8 / 0.8 + 0.04)
    assert step.step_s == pytest.approx(0.2 + 4 / 3 * 0.1 + step.wire_s)


def test_what_is_hidden_costs_nothing_and_never_gives_time_back():
    assert predict(replace(UNET, hidden=0.5), Network(10 * GBIT), 2).exposed_s == 0  # 84 ms behind 100 ms
    step = predict(replace(UNET, hidden=0.5), Network(1 * GBIT, share=1.0), 2)
    assert step.exposed_s == pytest.approx(0.8 - 0.1) and step.step_s == pytest.approx(0.9)


def test_what_is_added_up_while_more_is_on_its_way_hides_the_wire_as_well():
    link = Network(1 * GBIT, share=1.0, busy_s_per_byte=2e-9, pipelined=0.75)
    step = predict(UNET, link, 2)  # 0.2 s for 100 MB, three quarters of them beside 0.8 s of wire
    assert step.exposed_s == pytest.approx(0.65) and step.step_s == pytest.approx(0.2 + 0.2 + 0.65)


def test_all_wait_for_the_slowest():
    assert (
        slowest(1) == 0
        and slowest(2) == pytest.approx(0.5642, abs=0.03)
        and slowest(18) == pytest.approx(1.82, abs=0.03)
    )
    step = predict(replace(UNET, spread_s=0.02), Network(1e12), 18)
    assert step.step_s == pytest.approx(0.2 + 0.02 * slowest(18), rel=0.01)


def test_storage_that_all_read_from_is_the_ceiling():
    reading = replace(UNET, gradient_bytes=0.0, input_bytes=10e6)
    served = Network(1e12, storage_bytes_per_s=500e6)
    assert predict(reading, served, 10).efficiency == 1  # 100 MB in 0.2 s
    assert predict(reading, served, 18).efficiency == pytest.approx(10 / 18)


def test_the_fit_finds_what_the_steps_were_made_with_and_foretells_others():
    true = Fitted(Network(1.0, PAYLOAD, 0.004, 1.5e-9, 0.5), {"unet": 0.2, "fcn": 0.3})
    works = {"unet": Work(0.25, 31e6, 0.004), "fcn": Work(0.6, 90e6, 0.01)}

    def layout(name, workers, rate, overlap):
        one = Measured(name, works[name], overlap, workers, rate * GBIT, 1.0)
        return replace(one, step_s=true.step(one).step_s)

    some = [
        layout(name, n, rate, how) for name in works for n in (2, 3) for rate in (1, 2, 10) for how in (True, False)
    ]
    found = fit(some)
    assert found.network.latency_s == pytest.approx(0.004, rel=0.05)
    assert found.network.pipelined == pytest.approx(0.5, rel=0.05)
    assert found.network.busy_s_per_byte == pytest.approx(1.5e-9, rel=0.02)
    assert found.hidden == pytest.approx(true.hidden, rel=0.05)
    for one in (layout("unet", 4, 2.5, True), layout("fcn", 8, 5, False)):
        assert abs(found.error(one)) < 0.01
    assert found.error(replace(some[0], step_s=some[0].step_s / 2)) == pytest.approx(1.0, abs=0.05)


def test_a_study_s_curve_goes_through_its_steps():
    step = {n: 0.1 + 0.03 * 2 * (n - 1) / n + 0.001 * 2 * (n - 1) for n in (1, 2, 4, 64)}
    curve = fit_curve([(n, step[n]) for n in (1, 2, 4)])
    assert curve.step_s(64) == pytest.approx(step[64])
    one = fit_curve([(1, 0.1), (2, 0.12), (2, 0.14)])
    assert one.latency_s == 0 and one.step_s(2) == pytest.approx(0.13, rel=0.02)
    assert one.step_s(1024) == pytest.approx(0.1 + 2 * 0.03, rel=0.05)


def test_steps_that_get_no_longer_make_no_network_that_gives_time_back():
    assert fit_curve([(1, 0.1), (2, 0.09), (4, 0.08)]).step_s(64) == pytest.approx(0.1)


@pytest.mark.parametrize("steps", [[], [(1, 0.1)], [(2, 0.1), (4, 0.1)]])
def test_without_one_worker_and_more_there_is_no_curve(steps):
    assert fit_curve(steps) is None
    assert np.isfinite(slowest(2))


@pytest.fixture
def study(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])  # which the study adds the benchmarks' folder to
    return runpy.run_path(str(STUDY))


def test_hosts_alone_spread_each_by_itself_and_one_turn_that_was_held_up_does_not_count(study):
    def turn(*hosts):
        return [[(wall, 0.0) for wall in walls] for walls in hosts]

    uneven, even = (
        [1.0, 2.0, 3.0, 4.0, 5.0],
        [3.0] * 5,
    )  # quartiles at 1.5 and 4.5; the mean of both varies half as much
    held_up = turn([10 * wall for wall in uneven], [30.0] * 5)
    told = study["summed_up"]("alone", [turn(uneven, even), turn(even[::-1], uneven), held_up])
    assert told["step_s"] == 3.0 and told["spread_s"] == pytest.approx(3 / 1.349 / 2) and told["steps"] == 15
    assert told["walls_s"][0] == [uneven, even] and len(told["walls_s"]) == 3


def test_a_ring_s_step_is_its_slowest_host_s_and_it_communicates_as_long_as_who_waits_least(study):
    block = [[(1.0, 0.5), (4.0, 0.1), (2.0, 0.3)], [(2.0, 0.1), (1.0, 3.0), (3.0, 0.2)]]
    told = study["summed_up"]("overlap", [block])
    assert (told["step_s"], told["communication_s"], told["steps"]) == (3.0, 0.1, 3)
    assert "walls_s" not in told


def test_without_a_controller_of_shares_it_is_refused_before_hosts_are_made(study, tmp_path, monkeypatch):
    refused = study["refused"]
    monkeypatch.setattr("os.getuid", lambda: 1000)
    assert refused() == "hosts are made by root"
    monkeypatch.setattr("os.getuid", lambda: 0)
    monkeypatch.setitem(refused.__globals__, "GROUPS", tmp_path)
    assert "cgroup v1" in refused() and "\n" not in refused()
    (tmp_path / "cpu.cfs_quota_us").write_text("-1")
    assert refused() == ""
