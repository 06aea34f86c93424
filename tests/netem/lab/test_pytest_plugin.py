"""The marker and the fixture, in runs of pytest of their own."""

import sys

import pytest

from netem.lab.kernel import wire as kernel
from netem.lab.namespace import namespaces

pytest_plugins = ["pytester"]

INI = """
[pytest]
asyncio_mode = {mode}
asyncio_default_fixture_loop_scope = function
addopts = --strict-markers
filterwarnings = error
"""

HEAD = """
import os, signal, pytest
from netem import Cable, Lab, Scenario, Impairment, scenario
from netem.lab.namespace import namespaces
"""

PRIVATE_MOUNTS = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
HIDE_TUN = 'mount -t tmpfs netem /dev/net && exec "$0" "$@"'


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder for tests that use the plugin."""
    monkeypatch.delenv("CI", raising=False)
    pytester.makeconftest('pytest_plugins = ["netem.pytest_plugin"]')
    pytester.makeini(INI.format(mode="auto"))
    return pytester


def write(inner: pytest.Pytester, source: str) -> None:
    inner.makepyfile(HEAD + source)


def run(inner: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return inner.runpytest_subprocess("-p", "no:cacheprovider", *arguments)


def run_without_tun(inner: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return inner.run(*PRIVATE_MOUNTS, HIDE_TUN, sys.executable, "-m", "pytest", "-ra", *arguments)


def left(label: str) -> list[str]:
    return [each.name for each in namespaces() if label in each.name]


def test_a_test_asks_for_a_network_in_one_line(inner: pytest.Pytester) -> None:
    (inner.path / "mine.toml").write_text('name = "mine"\n[both]\ndelay_s = 0.02\n')
    write(
        inner,
        """
async def rtt_ms(lab):
    done = await lab.host("client").run(["ping", "-c", "1", lab.host("server").address])
    return float(done.stdout.partition("time=")[2].split()[0])

@pytest.mark.netem("clean", rtt_s=0.03, seed=5)
async def test_name(lab: Lab) -> None:
    assert lab.backend == "user"
    assert lab.host("client").namespace.name.startswith("netem.test_name.")
    assert await rtt_ms(lab) >= 30.0

@pytest.mark.netem("mine.toml", backend="user")
async def test_file(lab):
    assert await rtt_ms(lab) >= 40.0

@pytest.mark.netem(Scenario("value", up=Impairment(delay_s=0.05), down=Impairment()))
async def test_value(lab):
    assert await rtt_ms(lab) >= 50.0

@pytest.mark.netem([Cable(scenario("clean"), "a", "b"), Cable(scenario("clean"), "b", "c")])
async def test_cables(lab):
    assert lab.host("c").address == "10.77.1.2"

@pytest.mark.netem("clean")
@pytest.mark.parametrize("which", ["x/y z", "ü"])
async def test_names_of_any_form(lab, which):
    assert lab.host("server")

@pytest.mark.netem("clean")
class TestClass:
    async def test_in_a_class(self, lab):
        assert lab.host("server")

def test_nothing_is_left():
    assert not [each for each in namespaces() if f".{os.getpid()}." in each.name]
""",
    )
    run(inner, "--assert=plain").assert_outcomes(passed=8)


@pytest.mark.slow
def test_it_works_where_every_async_test_must_be_marked(inner: pytest.Pytester) -> None:
    inner.makeini(INI.format(mode="strict"))
    write(
        inner,
        """
@pytest.mark.asyncio
@pytest.mark.netem("clean")
async def test_marked(lab):
    assert lab.host("server")
""",
    )
    run(inner).assert_outcomes(passed=1)


@pytest.mark.slow
def test_it_works_on_several_workers(inner: pytest.Pytester) -> None:
    write(
        inner,
        """
@pytest.mark.netem("clean")
@pytest.mark.parametrize("number", range(4))
async def test_many(lab, number):
    done = await lab.host("client").run(["ping", "-c", "1", lab.host("server").address])
    assert done.returncode == 0
""",
    )
    run(inner, "-n", "2").assert_outcomes(passed=4)


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("assert False", {"failed": 1}),
        ("raise BaseException", {"failed": 1}),
        ("pytest.exit('enough')", {}),
        ("os.kill(os.getpid(), signal.SIGINT)", {}),
        ("os.kill(os.getpid(), signal.SIGTERM)", None),
        ("raise SystemExit(3)", None),
    ],
    ids=["failure", "exception", "exit", "SIGINT", "SIGTERM", "SystemExit"],
)
def test_nothing_is_left_whatever_the_test_does(
    inner: pytest.Pytester, body: str, outcome: dict[str, int] | None, request: pytest.FixtureRequest
) -> None:
    name = f"test_ends_{request.node.callspec.id}"
    write(
        inner,
        f"""
@pytest.mark.netem("clean")
async def {name}(lab):
    print(*[each.name for each in namespaces() if "{name}" in each.name])
    async with lab.host("client").start(["sleep", "1000"]):
        {body}
""",
    )
    result = run(inner, "-s")
    if outcome is not None:
        result.assert_outcomes(**outcome)
    # It had begun: two hosts.
    assert result.stdout.str().count(f"netem.{name}.") == 2
    assert left(name) == []


WRONG_USES = [
    ("", 'the fixture `lab` needs to know the network: @pytest.mark.netem("bursty")'),
    ('@pytest.mark.netem("burst")', "@pytest.mark.netem: no scenario is named 'burst' (did you mean *"),
    ('@pytest.mark.netem("no.toml")', "@pytest.mark.netem: *no.toml*"),
    ("@pytest.mark.netem()", "@pytest.mark.netem: *'scenario'; the form is netem(scenario, *"),
    ('@pytest.mark.netem("clean", sed=1)', "@pytest.mark.netem: *'sed'; the form is netem(scenario, *"),
    ("@pytest.mark.netem(5)", "@pytest.mark.netem: 5 is no scenario; the form is *"),
    ('@pytest.mark.netem(["clean"])', "@pytest.mark.netem: *'clean'* is no scenario; the form is *"),
    ("@pytest.mark.netem([])", "@pytest.mark.netem: a laboratory needs at least one cable"),
    ('@pytest.mark.netem("clean", backend="x")', "@pytest.mark.netem: backend is 'x'; it must be *"),
    ('@pytest.mark.netem([Cable(scenario("clean"))], rtt_s=1.0)', "@pytest.mark.netem: rtt_s is not for *"),
]


def test_wrong_use_is_explained(inner: pytest.Pytester) -> None:
    tests = (
        f"{marker}\nasync def test_wrong_{number}(lab):\n    pass\n"
        for number, (marker, _) in enumerate(WRONG_USES)
    )
    write(inner, "\n".join(tests))
    result = run(inner)
    result.assert_outcomes(errors=len(WRONG_USES))
    result.stdout.fnmatch_lines([message.replace("[", "[[]") for _, message in WRONG_USES])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_where_the_machine_cannot_the_test_is_skipped_with_the_reason(inner: pytest.Pytester) -> None:
    write(inner, '@pytest.mark.netem("clean", backend="user")\nasync def test_needs_a_tun(lab):\n    pass\n')
    result = run_without_tun(inner)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*no laboratory on this machine: /dev/net/tun is missing; *"])


def test_where_the_kernel_refuses_the_test_is_skipped_too(inner: pytest.Pytester) -> None:
    write(inner, '@pytest.mark.netem("clean")\nasync def test_needs_rights(lab):\n    pass\n')
    refuse = 'mount -t tmpfs -o ro netem /run && exec "$0" "$@"'
    result = inner.run(*PRIVATE_MOUNTS, refuse, sys.executable, "-m", "pytest", "-ra")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*no laboratory on this machine: *cannot make network namespaces*"])


def test_an_ordinary_user_can_have_one(inner: pytest.Pytester) -> None:
    write(
        inner,
        '@pytest.mark.netem("clean")\nasync def test_ordinary(lab):\n    assert lab.backend == "user"\n',
    )
    ordinary = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"]
    inner.run(*ordinary, sys.executable, "-m", "pytest").assert_outcomes(passed=1)


def test_where_the_laboratory_is_required_the_test_fails(
    inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(inner, '@pytest.mark.netem("clean", backend="user")\nasync def test_needs_a_tun(lab):\n    pass\n')
    result = run_without_tun(inner, "--netem-required")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no laboratory on this machine: /dev/net/tun is missing; *"])
    monkeypatch.setenv("CI", "true")
    run_without_tun(inner).assert_outcomes(errors=1)
    monkeypatch.setenv("CI", "false")
    run_without_tun(inner).assert_outcomes(skipped=1)


@pytest.mark.skipif(not kernel.missing(), reason="this kernel has all that the backend needs")
def test_the_kernel_backend_is_never_required(inner: pytest.Pytester) -> None:
    write(inner, '@pytest.mark.netem("clean", backend="kernel")\nasync def test_kernel(lab):\n    pass\n')
    run(inner, "--netem-required").assert_outcomes(skipped=1)


def test_the_marker_is_registered(inner: pytest.Pytester) -> None:
    run(inner, "--markers").stdout.fnmatch_lines(["@pytest.mark.netem(scenario, *"])
