from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eloquent.errors import ConfigurationError
from netem import Bursts, Change, GilbertElliott, Impairment, Outage, Scenario, scenario, scenario_names
from netem.impairment import SHORTEST_S
from netem.jitter import DISTRIBUTIONS
from netem.scenario import CrossTraffic
from netem.scenario_file import find_scenario, format_scenario, load_scenario
from netem.trace import DeliveryTrace


def load(folder: Path, text: str) -> Scenario:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return load_scenario(path)


def test_every_field_has_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "slow.down").write_text("4\n")
    found = load(
        tmp_path,
        """
        name = "all of it"
        source = "a drive"
        licence = "MIT"
        note = "in the rain"

        [both]
        delay_s = 0.03
        loss = 0.1
        ecn = true

        [up]
        loss = 0.2
        gilbert_elliott = { p = 0.1, r = 0.5 }
        rate_bps = 1_000_000
        queue_bytes = 30_000

        [[changes]]
        at_s = 2
        both = { bursts = { good_s = 1, bad_s = 0.1 } }
        down = { trace = "slow.down" }

        [[outages]]
        start_s = 1
        duration_s = 0.5
        period_s = 5
        held = true

        [[outages]]
        start_s = 3
        duration_s = 1
        loss = 0.5

        [[cross_traffic]]
        start_s = 1
        duration_s = 2
        direction = "up"
        congestion_control = "bbr"
        connections = 2
        """,
    )
    bursts = Bursts(good_s=1, bad_s=0.1)
    assert found == Scenario(
        "all of it",
        up=Impairment(
            delay_s=0.03,
            loss=0.2,
            ecn=True,
            gilbert_elliott=GilbertElliott(0.1, 0.5),
            rate_bps=1e6,
            queue_bytes=30_000,
        ),
        down=Impairment(delay_s=0.03, loss=0.1, ecn=True),
        changes=(
            Change(
                2.0,
                up=Impairment(bursts=bursts),
                down=Impairment(bursts=bursts, trace=DeliveryTrace((4,), "slow.down")),
            ),
        ),
        outages=(Outage(1.0, 0.5, period_s=5.0, held=True), Outage(3.0, 1.0, loss=0.5)),
        cross_traffic=(CrossTraffic(1.0, 2.0, "up", "bbr", 2),),
        source="a drive",
        licence="MIT",
        note="in the rain",
    )


def test_an_empty_file_is_a_path_that_does_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Scenario("mine", up=Impairment(), down=Impairment())


def test_a_trace_that_is_named_twice_is_one_value(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("4\n")
    found = load(
        tmp_path, 'both = { trace = "t" }\n[[changes]]\nat_s = 1\nboth = { trace = "t", loss = 0.1 }'
    )
    assert found.up.trace is not None
    assert found.up.trace is found.down.trace is found.changes[0].up.trace


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "cannot read the scenario .*mine.toml: Invalid value"),
        ("name = 5", "mine.toml, top level: name is 5; it must be a string"),
        ("outage = 5", r"top level: there is no key 'outage' \(did you mean 'outages'\?\)"),
        ("xyz = 5", r"top level: there is no key 'xyz' \(the keys are: name, .*cross_traffic\)"),
        ("up = 5", "top level: up is 5; it must be a table"),
        ("outages = 5", r"top level: outages is 5; it must be tables, each below a line \[\[outages\]\]"),
        ("[outages]\nstart_s = 5", r"it must be tables, each below a line \[\[outages\]\]"),
        ("[up]\nloss = 5", r"mine.toml, \[up\]: loss is 5; it must be a probability"),
        ("[up]\nloss = '5 %'", r"\[up\]: loss is '5 %'"),
        ("[up]\nlos = 0.1", r"\[up\]: there is no key 'los' \(did you mean 'loss'\?\)"),
        ("[both]\ndelay_s = true", r"\[both\]: delay_s is True; it must be a time"),
        ("[both]\nqueue_s = 1\n[up]\nloss = 1", r"\[up\] with what \[both\] adds: a queue limit is given"),
        ("[down]\nbursts = 5", r"\[down\]: bursts is 5; it must be a table"),
        ("[down]\nbursts = { good_s = 5 }", r"\[down\], bursts: bad_s is missing"),
        ("[down]\nbursts = { good_s = 5, bad_s = 0 }", r"\[down\], bursts: bad_s is 0; .* at least 0.001"),
        ("[down]\ngilbert_elliott = { q = 0 }", r"\[down\], gilbert_elliott: there is no key 'q'"),
        ("[down]\ntrace = 5", r"\[down\]: trace is 5; it must be a string"),
        ('[down]\ntrace = "a\\u0000b"', r"\[down\]: cannot read the trace '.*a\\x00b': embedded null byte"),
        (f"[down]\ndelay_s = {'9' * 5000}", "cannot read the scenario .*mine.toml: .* 5000 digits"),
        (f"[down]\ndelay_s = 0x{'f' * 5000}", r"\[down\]: delay_s is a number of too many digits"),
        (f"name = 0x{'f' * 5000}", "cannot read the scenario .*mine.toml: .* digits"),
        (f"a = {'[' * 100_000}", "cannot read the scenario .*mine.toml: it is nested too deeply"),
        (f"name{'.a' * 10_000} = 1", "cannot read the scenario .*mine.toml: it is nested too deeply"),
        ("[down]\ntrace = 'nowhere'", r"\[down\]: cannot read the trace .*nowhere"),
        ("[[outages]]\nstart_s = 5", r"\[\[outages\]\] number 1: duration_s is missing"),
        (
            "[[outages]]\nstart_s = 5\nduration_s = 1\n[[outages]]\nstart = 5",
            r"number 2: there is no key 'start' \(did you mean 'start_s'\?\)",
        ),
        ("[[changes]]\nup = {}", r"\[\[changes\]\] number 1: at_s is missing"),
        ("[[changes]]\nat_s = 0", r"\[\[changes\]\] number 1: at_s is 0; .* above 0"),
        ("[[changes]]\nat_s = 1\nup = { loss = 5 }", r"\[\[changes\]\] number 1, up: loss is 5"),
        ("[[changes]]\nat_s = 2\n[[changes]]\nat_s = 1", r"top level: .* times must increase"),
        ("[[cross_traffic]]\nstart_s = 1\nduration_s = 1\ndirection = 'in'", "direction is 'in'"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_wrong_is_named_with_its_file_and_table(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(tmp_path, text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read the scenario .*nowhere.toml"):
        load_scenario(tmp_path / "nowhere.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match=r"cannot read the scenario .*binary.toml"):
        load_scenario(tmp_path / "binary.toml")


def test_a_scenario_is_found_by_name_or_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("both = { delay_s = 1 }")
    assert find_scenario("bursty") is scenario("bursty")
    assert find_scenario(path).name == find_scenario(str(path)).name == "mine"
    for wanted in ("bursty", path):
        assert find_scenario(wanted, rtt_s=0.5).up.delay_s == 0.25
    with pytest.raises(ConfigurationError, match="no scenario is named 'mine'"):
        find_scenario("mine")


@pytest.mark.parametrize("name", scenario_names())
def test_every_profile_can_be_written_and_read(name: str, tmp_path: Path) -> None:
    assert load(tmp_path, format_scenario(scenario(name))) == scenario(name)


def test_a_trace_is_written_as_its_file(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("4\n")
    traced = Impairment(trace=DeliveryTrace((4,), "t"), queue_s=1.0)
    path = Scenario("mine", up=traced, down=Impairment())
    assert load(tmp_path, format_scenario(path)) == path
    traced = Impairment(trace=DeliveryTrace((4,)))
    with pytest.raises(ConfigurationError, match="did not come from a file"):
        format_scenario(Scenario("mine", up=traced, down=traced))


chances = st.floats(0.0, 1.0)
seconds = st.floats(0.0, 1e6)
some_seconds = st.floats(1e-6, 1e6)
durations = st.floats(SHORTEST_S, 1e6)
texts = st.text(st.characters(codec="utf-8"), max_size=20)
bursts = st.builds(Bursts, durations, durations, chances, chances)
models = st.builds(GilbertElliott, chances, st.floats(1e-6, 1.0), chances, chances)


@st.composite
def impairments(draw: st.DrawFn) -> Impairment:
    rate: dict[str, Any] = draw(
        st.just({})
        | st.fixed_dictionaries({"rate_bps": st.floats(1.0, 1e9), "queue_s": seconds})
        | st.fixed_dictionaries({"rate_bps": st.floats(1.0, 1e9), "queue_bytes": st.integers(0, 10**6)})
    )
    late: dict[str, Any] = draw(
        st.just({})
        | st.fixed_dictionaries({"reordering": st.floats(1e-6, 1.0), "reordering_delay_s": some_seconds})
    )
    loss = draw(st.just(0.0) | st.floats(1e-6, 1.0))
    return Impairment(
        delay_s=draw(seconds),
        jitter_s=draw(seconds),
        jitter_distribution=draw(st.sampled_from(DISTRIBUTIONS)),  # type: ignore[arg-type]
        jitter_correlation=draw(st.floats(0.0, 0.99)),
        loss=loss,
        gilbert_elliott=draw(st.none() | models),
        bursts=draw(st.none() | bursts),
        ecn=loss > 0.0 and draw(st.booleans()),
        duplication=draw(chances),
        corruption=draw(chances),
        **late,
        **rate,
    )


outages = st.builds(Outage, seconds, durations, st.none() | st.floats(1e7, 1e8), chances, st.booleans())
traffic = st.builds(
    CrossTraffic, seconds, some_seconds, st.sampled_from(["up", "down"]), st.just("bbr"), st.integers(1, 9)
)


@given(
    sides=st.lists(impairments(), min_size=6, max_size=6),
    times=st.lists(some_seconds, unique=True, max_size=2).map(sorted),
    cuts=st.lists(outages, max_size=2).map(tuple),
    beside=st.lists(traffic, max_size=2).map(tuple),
    said=st.tuples(texts, texts, texts, texts),
)
def test_what_is_written_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    sides: list[Impairment],
    times: list[float],
    cuts: tuple[Outage, ...],
    beside: tuple[CrossTraffic, ...],
    said: tuple[str, str, str, str],
) -> None:
    up, down, *rest = sides
    changes = tuple(
        Change(at, up=rest[2 * number], down=rest[2 * number + 1]) for number, at in enumerate(times)
    )
    name, source, licence, note = said
    path = Scenario(name, up, down, changes, cuts, beside, source, licence, note)
    assert load(tmp_path_factory.getbasetemp(), format_scenario(path)) == path
