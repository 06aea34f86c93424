"""The named scenarios, each with its source and licence.

Figures are the source's; what the source does not say and was added here is in `note`. All
profiles treat both directions alike unless the source does not. Delays are one way; where a source
gives one latency for a whole path, each direction has half. Where the source is `arbitrary`, the
note says what the scenario stands for, and nothing in it was measured.
"""

from __future__ import annotations

import difflib
from dataclasses import replace

from eloquent.errors import ConfigurationError
from netem.impairment import Bursts, GilbertElliott, Impairment
from netem.scenario import Change, CrossTraffic, Outage, Scenario

ARBITRARY = "arbitrary"
"""The source of scenarios that were made up here."""

_QUEUE_S = 1.0
"""Depth of the queue before every limited rate. No source gives one; 1 s is arbitrary, and in the
range of what mobile and home networks show."""


def scenario(name: str, *, rtt_s: float | None = None) -> Scenario:
    """Return the named scenario, with half of `rtt_s` as the delay each way if given.

    Raises ConfigurationError, which lists the names, where there is none of that name.
    """
    found = _SCENARIOS.get(name)
    if found is None:
        close = difflib.get_close_matches(name, _SCENARIOS, n=1)
        guess = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigurationError(
            f"no scenario is named {name!r}{guess}; the names are: {', '.join(_SCENARIOS)}"
        )
    return found if rtt_s is None else found.with_rtt(rtt_s)


def scenario_names(*, is_simulated: bool | None = None) -> tuple[str, ...]:
    """Return the names that scenario() knows, in the order of the sources.

    `is_simulated` leaves those that simulation and relay can play, or cannot.
    """
    return tuple(each.name for each in _ALL if is_simulated is None or each.is_simulated == is_simulated)


def _symmetric(
    name: str,
    impairment: Impairment,
    *,
    outages: tuple[Outage, ...] = (),
    cross_traffic: tuple[CrossTraffic, ...] = (),
    source: str = "",
    licence: str = "",
    note: str = "",
) -> Scenario:
    return Scenario(
        name,
        up=impairment,
        down=impairment,
        outages=outages,
        cross_traffic=cross_traffic,
        source=source,
        licence=licence,
        note=note,
    )


def _str0m(name: str, p: float, r: float, delay_s: float, jitter_s: float, note: str = "") -> Scenario:
    """Every datagram in the bad state is lost; jitter is uniform, as in that project's emulator."""
    impairment = Impairment(
        delay_s=delay_s,
        jitter_s=jitter_s,
        jitter_distribution="uniform",
        gilbert_elliott=GilbertElliott(p, r),
    )
    return _symmetric(name, impairment, source="algesten/str0m", licence="MIT", note=note)


def _atc(
    name: str, *, up_kbps: float, down_kbps: float, up_ms: float, down_ms: float, loss: float = 0.0
) -> Scenario:
    def one_way(kbps: float, ms: float) -> Impairment:
        return Impairment(delay_s=ms / 1e3, loss=loss, rate_bps=kbps * 1e3, queue_s=_QUEUE_S)

    return Scenario(
        name,
        up=one_way(up_kbps, up_ms),
        down=one_way(down_kbps, down_ms),
        source="facebookarchive/augmented-traffic-control, utils/profiles",
        licence="BSD",
        note="queue of 1 s",
    )


def _comcast(name: str, *, latency_ms: float, loss: float, kbps: float | None = None) -> Scenario:
    impairment = Impairment(
        delay_s=latency_ms / 2e3,
        loss=loss,
        rate_bps=None if kbps is None else kbps * 1e3,
        queue_s=None if kbps is None else _QUEUE_S,
    )
    return _symmetric(
        name,
        impairment,
        source="tylertreat/comcast",
        licence="Apache-2.0",
        note="half of the latency each way, the loss in both directions"
        + ("" if kbps is None else ", queue of 1 s"),
    )


def _driving(
    name: str, *, rtt_s: float, jitter_s: float, loss: float, held: Outage, quantiles: str
) -> Scenario:
    """Frequent held outages stand for handovers: a radio link delays in order, it rarely drops."""
    impairment = Impairment(delay_s=rtt_s / 2, jitter_s=jitter_s, loss=loss)
    return _symmetric(
        name,
        impairment,
        outages=(held,),
        source="computed from the UCC 5G and LTE set of MMSys 2020 (figures only)",
        licence="figures only",
        note=f"RTT p50/p90/p99 {quantiles}, to which delay, jitter and held outages were fitted; "
        "the loss is each way",
    )


def _radio(
    delay_ms: float, *, up_kbps: float, down_kbps: float, jitter_ms: float, bursts: Bursts | None = None
) -> tuple[Impairment, Impairment]:
    """A moment of a mobile link: (up, down), which differ in their rate."""

    def one_way(kbps: float) -> Impairment:
        return Impairment(
            delay_s=delay_ms / 1e3,
            jitter_s=jitter_ms / 1e3,
            bursts=bursts,
            rate_bps=kbps * 1e3,
            queue_s=_QUEUE_S,
        )

    return one_way(up_kbps), one_way(down_kbps)


def _train() -> Scenario:
    station = _radio(25, up_kbps=10_000, down_kbps=20_000, jitter_ms=3)
    country = _radio(
        35,
        up_kbps=3_000,
        down_kbps=8_000,
        jitter_ms=8,
        bursts=Bursts(good_s=3.0, bad_s=0.15, loss_in_good=0.005, loss_in_bad=0.5),
    )
    cutting = _radio(
        50,
        up_kbps=700,
        down_kbps=2_000,
        jitter_ms=15,
        bursts=Bursts(good_s=0.8, bad_s=0.2, loss_in_good=0.02, loss_in_bad=0.6),
    )
    edge_of_coverage = _radio(
        200,
        up_kbps=60,
        down_kbps=120,
        jitter_ms=30,
        bursts=Bursts(good_s=0.6, bad_s=0.25, loss_in_good=0.03, loss_in_bad=0.5),
    )
    return Scenario(
        "train",
        *station,
        changes=(
            Change(6.0, *country),
            Change(22.0, *cutting),
            Change(44.0, *edge_of_coverage),
            Change(56.0, *country),
        ),
        outages=(
            Outage(10.0, 0.3, held=True),
            Outage(16.0, 0.5, held=True),
            Outage(28.0, 10.0),
            Outage(55.0, 1.2, held=True),
        ),
        source=ARBITRARY,
        note="one minute of a train ride, then as it ends: a station, open country with two handovers, a "
        "cutting with a tunnel of 10 s in it, the edge of coverage, a handover to open country",
    )


def _lift() -> Scenario:
    landing = Impairment(delay_s=0.015, jitter_s=0.003)
    fading = Impairment(
        delay_s=0.040,
        jitter_s=0.015,
        bursts=Bursts(good_s=0.3, bad_s=0.2, loss_in_good=0.05, loss_in_bad=0.8),
    )
    return Scenario(
        "lift",
        up=landing,
        down=landing,
        changes=(Change(4.0, fading, fading), Change(16.0, landing, landing)),
        outages=(Outage(6.0, 8.0),),
        source=ARBITRARY,
        note="a lift ride: two seconds of fading, 8 s without any signal, two seconds of fading",
    )


def _handover() -> Scenario:
    wifi = Impairment(delay_s=0.008, jitter_s=0.002)
    fading = Impairment(
        delay_s=0.020,
        jitter_s=0.010,
        bursts=Bursts(good_s=0.4, bad_s=0.15, loss_in_good=0.05, loss_in_bad=0.7),
    )
    cellular = Impairment(delay_s=0.050, jitter_s=0.015)
    return Scenario(
        "handover",
        up=wifi,
        down=wifi,
        changes=(Change(6.0, fading, fading), Change(9.0, cellular, cellular)),
        outages=(Outage(9.0, 1.5),),
        source=ARBITRARY,
        note="out of the house: Wi-Fi that fades for 3 s, 1.5 s of nothing, a cellular network; the "
        "address stays, which outside of a laboratory it would not",
    )


_DOWNLOAD = CrossTraffic(start_s=5.0, duration_s=20.0)
_BURSTY = Bursts(good_s=0.368, bad_s=0.029, loss_in_good=0.04, loss_in_bad=0.50)
_SCANS = Impairment(delay_s=0.003)

_ALL = (
    _symmetric("clean", Impairment(delay_s=0.025), note="50 ms RTT, arbitrary; nothing is lost"),
    _str0m("wifi", 0.005, 0.5, 0.005, 0.0, "5 ms each way, arbitrary"),
    _str0m("wifi-lossy", 0.025, 0.5, 0.015, 0.010),
    _str0m("cellular", 0.01, 0.5, 0.050, 0.015),
    _str0m("satellite", 0.01, 1 / 3, 0.600, 0.030),
    _str0m("congested", 0.05, 0.5, 0.080, 0.040),
    _symmetric(
        "bursty",
        Impairment(delay_s=0.030, bursts=_BURSTY),
        source="Thesys-lab/tambur",
        licence="Apache-2.0",
        note="wall-clock form of bursty-per-packet at a datagram per 25 ms; 60 ms RTT, arbitrary",
    ),
    _symmetric(
        "bursty-per-packet",
        Impairment(delay_s=0.030, gilbert_elliott=GilbertElliott(0.068, 0.852, 0.50, 0.04)),
        source="Thesys-lab/tambur",
        licence="Apache-2.0",
        note="60 ms RTT, arbitrary",
    ),
    _atc("2g-rural", up_kbps=18, down_kbps=20, up_ms=650, down_ms=650, loss=0.02),
    _atc("2g-urban", up_kbps=32, down_kbps=35, up_ms=650, down_ms=650),
    _atc("edge-average", up_kbps=200, down_kbps=240, up_ms=440, down_ms=400),
    _atc("edge-good", up_kbps=200, down_kbps=250, up_ms=370, down_ms=350),
    _atc("edge-lossy", up_kbps=200, down_kbps=240, up_ms=440, down_ms=400, loss=0.01),
    _atc("3g-average", up_kbps=330, down_kbps=780, up_ms=100, down_ms=100),
    _atc("3g-good", up_kbps=420, down_kbps=850, up_ms=100, down_ms=90),
    _atc("dsl-atc", up_kbps=256, down_kbps=2000, up_ms=5, down_ms=5),
    _atc("cable", up_kbps=1000, down_kbps=6000, up_ms=2, down_ms=2),
    _symmetric(
        "lte-walk",
        Impairment(
            delay_s=0.050,
            bursts=Bursts(good_s=1.0, bad_s=0.2, loss_in_good=0.03, loss_in_bad=0.63),
        ),
        source="third-party reading of the measurement in arXiv 2401.12961",
        licence="figures only",
        note="the reading gives 10.5-15.8 % loss above 100 kbit/s; the bursts (13 % in the mean) and "
        "100 ms RTT were chosen, and no rate is set because a token stream needs less than it had",
    ),
    _comcast("gprs", latency_ms=500, loss=0.02, kbps=50),
    _comcast("edge", latency_ms=300, loss=0.015, kbps=250),
    _comcast("3g", latency_ms=250, loss=0.015, kbps=750),
    _comcast("dsl", latency_ms=70, loss=0.02, kbps=2000),
    _comcast("starlink-comcast", latency_ms=20, loss=0.025),
    _symmetric(
        "starlink-handover",
        Impairment(delay_s=0.025),
        outages=(Outage(start_s=5.0, duration_s=1.0, period_s=15.0, loss=0.5),),
        source="APNIC blog, 2022-11-28",
        licence="figures only",
        note="arbitrary: that the loss of a handover lasts 1 s, and the first comes after 5 s",
    ),
    _symmetric(
        "wifi-scan",
        _SCANS,
        outages=(Outage(start_s=1.0, duration_s=0.250, period_s=5.0, held=True),),
        source="private-octopus/picoquic, picoquictest/wifitest.c",
        licence="MIT",
        note="what is sent during a scan is held, as in the source",
    ),
    _symmetric(
        "wifi-scan-hard",
        _SCANS,
        outages=tuple(
            Outage(start_s=1.0 + 0.255 * scan, duration_s=0.250, period_s=5.0, held=True) for scan in range(6)
        ),
        source="private-octopus/picoquic, picoquictest/wifitest.c",
        licence="MIT",
        note="the source has the six scans once; here they come every 5 s",
    ),
    _driving(
        "driving-lte",
        rtt_s=0.084,
        jitter_s=0.0077,
        loss=0.012,
        held=Outage(start_s=1.0, duration_s=0.295, period_s=10.0, held=True),
        quantiles="84/100/321 ms",
    ),
    _driving(
        "driving-hspa",
        rtt_s=0.118,
        jitter_s=0.014,
        loss=0.044,
        held=Outage(start_s=1.0, duration_s=0.423, period_s=3.13, held=True),
        quantiles="123/294/530 ms",
    ),
    _train(),
    _lift(),
    _handover(),
    replace(
        _atc("dsl-download", up_kbps=256, down_kbps=2000, up_ms=5, down_ms=5),
        cross_traffic=(_DOWNLOAD,),
        note="dsl-atc and beside it a TCP download (Cubic) from 5 to 25 s, arbitrary; queue of 1 s",
    ),
    _symmetric(
        "wifi-download",
        Impairment(delay_s=0.010, rate_bps=20e6, queue_s=0.25),
        cross_traffic=(_DOWNLOAD,),
        source=ARBITRARY,
        note="20 Mbit/s behind a queue of 0.25 s, filled by a TCP download (Cubic) from 5 to 25 s",
    ),
)

_SCENARIOS = {each.name: each for each in _ALL}
