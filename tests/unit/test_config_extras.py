"""wgq's own settings, in comments of a configuration."""

from __future__ import annotations

import pytest

from wgquick.config.document import Document
from wgquick.config.extras import joined, of_options
from wgquick.config.models import Interface, WgQuickConfig
from wgquick.config.parser import examine, parse
from wgquick.config.settings import LAN, Extras
from wgquick.config.text import settings_text
from wgquick.errors import WgqError
from wgquick.net import Prefix

PUBLIC = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
NETWORK = Prefix.parse("192.0.2.0/24")
EVERYTHING = Extras(kill_switch=True, exclude=(LAN, NETWORK, Prefix.parse("2001:db8::1")), keep_inbound=True)
LINES = "# wgq: kill-switch = on\n# wgq: exclude = lan, 192.0.2.0/24 2001:db8::1\n# wgq: keep-inbound = on\n"


def extras(text: str) -> Extras:
    return parse(Document.parse(text.encode()), "wg0").extras


def places(text: str) -> list[tuple[int, int, str]]:
    return [(each.line, each.column, each.code) for each in examine(Document.parse(text.encode()), "wg0").faults]


@pytest.mark.parametrize("text", [LINES, f"[Interface]\n{LINES}", f"[Interface]\nMTU = 1400\n  ##{LINES[1:]}"])
def test_settings_may_stand_in_interface_or_above_it(text: str) -> None:
    assert extras(text) == EVERYTHING


def test_lines_of_exclude_add_up() -> None:
    assert extras("# wgq: exclude = lan\n# wgq: exclude=192.0.2.0/24, lan\n").exclude == (LAN, NETWORK)


def test_the_last_value_of_a_switch_wins() -> None:
    assert extras("# wgq: kill-switch = on\n# wgq: kill-switch = off\n") == Extras()


@pytest.mark.parametrize(
    "line",
    ["# WGQ: kill-switch = on", "#wgq : kill-switch=on", "# wgq: Kill-Switch = ON", "\t## Wgq:kill-switch = On"],
)
def test_case_and_blanks_before_the_colon_do_not_matter(line: str) -> None:
    assert extras(f"[Interface]\n{line}\n") == Extras(kill_switch=True)


@pytest.mark.parametrize(
    "line",
    [
        "# wgq: ignore zero-key",
        "# wgq is: kill-switch = on",
        "# about wgq: kill-switch = on",
        "PostUp = echo '# wgq: x = y'",
        "MTU = 1 # wgq:",
    ],
)
def test_other_comments_are_not_settings(line: str) -> None:
    document = Document.parse(f"[Interface]\n{line}\n".encode())
    report = examine(document, "wg0")
    assert [fault.code for fault in report.faults if fault.code == "wgq-setting"] == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("# wgq: kill-switch\n", (1, 8)),
        ("# wgq: kill-switch =\n", (1, 8)),
        ("# wgq: kill-switch = yes\n", (1, 22)),
        ("# wgq: network = x\n", (1, 8)),
        ("# wgq:\n", (1, 7)),
        ("# wgq: exclude = ,\n", (1, 8)),
        ("[Interface]\nMTU = 1400 # wgq: kill-switch = on\n", (2, 19)),
        ("[Interface]\n  # wgq: exclude = lan, 10.0.0.1/8\n", (2, 25)),
        (
            "[Interface]\n[Peer]\nPublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\n# wgq: exclude = lan\n",
            (4, 8),
        ),
    ],
)
def test_an_invalid_setting_is_a_fault_with_its_place(text: str, place: tuple[int, int]) -> None:
    assert places(text) == [(*place, "wgq-setting")]


def test_a_key_in_a_faulty_setting_is_not_shown() -> None:
    document = Document.parse(b"# wgq: yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n")
    (fault,) = examine(document, "wg0").faults
    assert "yAnz5" not in f"{fault.message}{fault.remedy}"


def test_models_and_texts_keep_the_settings() -> None:
    config = WgQuickConfig.from_text(LINES)
    assert config.settings.extras == EVERYTHING
    assert parse(Document.parse(settings_text(config.settings).encode()), "wg0").extras == EVERYTHING
    assert WgQuickConfig.from_text(config.to_text()) == config


def test_a_model_accepts_networks_as_text() -> None:
    interface = Interface(kill_switch=True, exclude=["lan", "192.0.2.0/24"])
    assert WgQuickConfig(name="wg0", interface=interface).settings.extras == Extras(True, (LAN, NETWORK))
    with pytest.raises(ValueError, match="exclude"):
        Interface(exclude=["home"])


def test_options_are_merged_with_the_files_settings() -> None:
    told = of_options(kill_switch=True, exclude="192.0.2.0/24,lan", keep_inbound=False)
    found = joined(Extras(exclude=(LAN,)), told)
    assert found == Extras(kill_switch=True, exclude=(LAN, NETWORK))
    with pytest.raises(WgqError) as raised:
        of_options(kill_switch=False, exclude="home", keep_inbound=False)
    assert raised.value.where == "--exclude"
