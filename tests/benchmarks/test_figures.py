"""What the bench makes of what it measured."""

from dataclasses import asdict

import pytest

from app.supervision.problems import StartProblem
from benchmarks.bench import chosen_parts
from benchmarks.histogram import merged, quantiles, quantiles_of
from benchmarks.markdown import markdown
from benchmarks.measure import Result
from benchmarks.profiles import PROFILES, chosen
from benchmarks.report import Report, print_comparison, print_result


def test_quantiles_name_the_smallest_value_that_enough_are_not_above() -> None:
    histogram = [0] * 200
    for ms in range(1, 101):
        histogram[ms] = 1
    assert quantiles(histogram) == {"p50": 50, "p90": 90, "p99": 99, "p99.9": 100, "max": 100}


def test_quantiles_of_values_are_those_of_their_histogram() -> None:
    values = [3, 1, 4, 1, 5, 9, 2, 6]
    histogram = [values.count(ms) for ms in range(20)]
    assert quantiles_of(values) == quantiles(histogram)


def test_no_value_has_no_quantiles() -> None:
    assert quantiles([0, 0]) == quantiles_of([]) == {}


def test_histograms_of_several_clients_add_up() -> None:
    assert merged([[1, 2, 3], [10, 20, 30]]) == [11, 22, 33]


def test_a_profile_takes_the_options_that_are_given() -> None:
    (profile,) = chosen("5k", ticks_per_s=20_000, symbols=None)
    assert (profile.users, profile.ticks_per_s, profile.symbols) == (5_000, 20_000, PROFILES["5k"].symbols)


def test_a_profile_may_be_given_at_another_rate() -> None:
    fast, slow = chosen("5k,5k@0.5")
    assert (fast.name, fast.hz) == ("5k", PROFILES["5k"].hz)
    assert (slow.name, slow.hz, slow.users) == ("5k@0.5", 0.5, 5_000)
    with pytest.raises(ValueError, match="no number of updates"):
        chosen("5k@often")


@pytest.mark.parametrize("names", ["", "5k,none", " , "])
def test_an_unknown_profile_is_refused(names: str) -> None:
    with pytest.raises(ValueError, match="there are smoke, 1k"):
        chosen(names)


def test_an_unknown_part_is_refused() -> None:
    assert chosen_parts("system, book") == ["system", "book"]
    with pytest.raises(ValueError, match="there are system, ticks"):
        chosen_parts("books")


def test_a_profile_too_large_for_the_machine_says_what_is_missing() -> None:
    (profile,) = chosen("25k", users=2_000_000, web_workers=2)
    assert profile.obstacle()
    assert PROFILES["smoke"].obstacle() is None


def test_a_comparison_shows_only_what_both_runs_have(capsys: pytest.CaptureFixture[str]) -> None:
    result = Result(profile=asdict(PROFILES["smoke"]), load_average=0.5, metrics={"frames_per_s": 200.0})
    result.latency_ms["price"] = {"p50": 60, "p99": 110}
    now = Report("here", profiles={"smoke": result}, parts={"book": {"revalue": 2.0}})
    then = asdict(now)
    then["profiles"]["smoke"]["metrics"]["frames_per_s"] = 100.0
    del then["parts"]["book"]
    print_comparison(then, now)
    shown = capsys.readouterr().out
    assert "2.00" in next(line for line in shown.splitlines() if "frames/s" in line)
    assert "revalue" not in shown


def test_a_void_run_says_so_above_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    result = Result(profile=asdict(PROFILES["smoke"]), load_average=0.5, void="the client was busy")
    print_result("smoke", result)
    assert capsys.readouterr().out.lstrip().startswith("VOID: the client was busy")


def test_a_readme_gets_a_column_for_each_profile_and_is_told_what_is_void() -> None:
    metrics = {"us_per_frame_web": 20.0, "memory_per_connection_bytes": 40_000.0, "frames_per_s": 12_345.0}
    sound = Result(asdict(PROFILES["1k"]), 0.5, metrics, {"price": {"p50": 60, "p99": 110}})
    sound.baselines["raw"] = {"us_per_frame": 10.0}
    spoilt = Result(asdict(PROFILES["5k"]), 0.5, metrics, void="others were busy")
    lines = markdown(Report("here", profiles={"1k": sound, "5k": spoilt}, skipped={"25k": "no memory"})).splitlines()
    assert lines[2] == "|  | 1k | 5k |"
    assert "| frames/s | 12,345 | 12,345 |" in lines
    assert next(line for line in lines if "raw" in line).endswith("| 10.0 (2.0) | – |")
    assert "- 5k: **void**: others were busy" in lines
    assert "- 25k: no memory" in lines
    assert {line.count("|") for line in lines if line.startswith("|")} == {4}


def test_a_wrong_option_is_a_problem_to_show_not_a_traceback() -> None:
    from app.entry.bench import run_bench

    with pytest.raises(StartProblem, match="there are smoke"):
        run_bench(parts="system", profiles="9k", changes={}, baselines=False, native=True, output=None, compare=None)
