"""`list` and `show`, and what the documentation says of them."""

import json
import re
import struct
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

import netem
from netem import scenario, scenario_names
from netem.commands.list import command as list_command
from netem.commands.list import row_of
from netem.commands.show import command as show_command
from netem.scenario import CrossTraffic
from netem.scenario_file import find_scenario, load_scenario

DOCUMENT = Path(__file__).parents[2] / "docs/reference/scenarios.md"


def show(*arguments: str) -> Result:
    return CliRunner().invoke(show_command, list(arguments), catch_exceptions=False)


def test_list_has_a_line_for_each_scenario() -> None:
    result = CliRunner().invoke(list_command, catch_exceptions=False)
    assert result.exit_code == 0
    names = [line.split()[0] for line in result.stdout.splitlines()[3:]]
    assert names == list(scenario_names())
    assert re.search(r"^wifi-download +20 +20000 +cubic download +arbitrary$", result.stdout, re.MULTILINE)


def test_list_has_figures_for_programs() -> None:
    result = CliRunner().invoke(list_command, ["--json"], catch_exceptions=False)
    rows = {row["name"]: row for row in json.loads(result.stdout)["rows"]}
    assert set(rows) == set(scenario_names())
    row = rows["2g-rural"]
    assert (row["rtt_s"], row["rate_up_bps"], row["loss_down"]) == (1.3, 18_000, 0.02)
    assert rows["clean"]["rate_down_bps"] is None
    assert [row["is_simulated"] for row in rows.values()] == [
        scenario(name).is_simulated for name in scenario_names()
    ]


def test_ranges_are_of_the_whole_timeline() -> None:
    row = row_of(scenario("train"))
    assert row["RTT, ms"] == "50-400"
    assert row["kbit/s"] == "60-10000/120-20000"
    assert row["timeline"] == "4 changes, 4 outages of 0.3-10 s"
    assert row_of(scenario("wifi-scan"))["timeline"] == "1 outage of 0.25 s every 5 s"


@pytest.mark.parametrize("name", ["train", "wifi-download", "bursty", "starlink-handover", "dsl-atc"])
def test_a_picture_is_drawn(name: str, tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    result = show(name, "--seed", "3", "--output", str(file))
    assert (result.exit_code, result.stdout) == (0, f"{file}\n")
    width, height = struct.unpack(">II", file.read_bytes()[16:24])
    assert width > 1000
    assert height > 500


def test_a_picture_says_what_is_in_the_scenario(tmp_path: Path) -> None:
    (tmp_path / "fast.down").write_text("1\n")
    path = tmp_path / "mine.toml"
    path.write_text(
        """
        [down]
        trace = "fast.down"
        jitter_s = 0.01
        [[outages]]
        start_s = 1
        duration_s = 1
        [[cross_traffic]]
        start_s = 2
        duration_s = 1
        connections = 3
        """
    )
    file = tmp_path / "picture.svg"
    assert show(str(path), "--output", str(file), "--duration", "4").exit_code == 0
    # Text is drawn as shapes; what it says is in the comments before them.
    said = {
        (each.text or "").strip()
        for each in ElementTree.parse(file, _with_comments()).iter()
        if each.tag is ElementTree.Comment
    }
    assert said >= {"mine", "seed 0", "no limit", "outage", "TCP cubic × 3", "delay: median, 5 to 95 %"}
    assert "burst of loss" not in said


def _with_comments() -> ElementTree.XMLParser:
    return ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))


def test_the_picture_is_named_after_the_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert show("clean").stdout == "clean.png\n"
    assert (tmp_path / "clean.png").exists()


def test_a_scenario_is_printed_as_a_file_to_begin_with(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(show("train", "--toml").stdout)
    assert load_scenario(path) == scenario("train")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("trainn",), 2, "did you mean 'train'"),
        (("nowhere.toml",), 2, "cannot read the scenario nowhere.toml"),
        (("train", "--output", "train.gif"), 2, "must end in one of: .png, .svg, .pdf"),
        (("train", "--output", "/nowhere/train.png"), 1, "cannot write the picture"),
        (("train", "--duration", "0"), 2, "--duration"),
        (("train", "--duration", "nan"), 2, "nan is not a finite number of seconds"),
        (("train", "--duration", "inf"), 2, "inf is not in the range"),
        (("train", "--duration", "1e9"), 2, "1000000000.0 is not in the range"),
    ],
    ids=["name", "file", "format", "folder", "duration", "nan", "infinite", "years"],
)
def test_what_cannot_be_shown_is_refused(arguments: tuple[str, ...], status: int, message: str) -> None:
    result = show(*arguments)
    assert result.exit_code == status
    assert message in " ".join(result.stderr.split())


@pytest.mark.filterwarnings("ignore:Glyph 0")
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "a\\u0000b"')
    result = show(str(path))
    assert result.exit_code == 1
    assert "cannot write the picture: embedded null byte" in result.stderr


def test_the_documented_table_is_that_of_the_code() -> None:
    keys = list(row_of(scenario("clean")))
    lines = [f"| {' | '.join(keys)} |", "|" + "---|" * len(keys)]
    for name in scenario_names():
        lines.append(f"| {' | '.join(str(value) for value in row_of(scenario(name)).values())} |")
    table = "\n".join(lines)
    assert table in DOCUMENT.read_text(), f"the table must be:\n{table}"


def test_the_documented_file_can_be_read(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```toml\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "lte.down").write_text("3\n5\n")
    (tmp_path / "commute.toml").write_text(example)
    found = find_scenario(tmp_path / "commute.toml")
    assert found.down.trace is not None
    assert (len(found.changes), len(found.outages), len(found.cross_traffic)) == (1, 2, 1)


def test_every_field_is_documented() -> None:
    text = DOCUMENT.read_text()
    for value in (
        netem.Impairment, netem.GilbertElliott, netem.Bursts, netem.Outage, netem.Change,
        CrossTraffic, netem.Scenario,
    ):  # fmt: skip
        for name in value.__dataclass_fields__:
            assert re.search(rf"^\| .*`{name}`", text, re.MULTILINE), f"{name} of {value.__name__}"
