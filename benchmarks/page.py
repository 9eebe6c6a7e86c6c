"""Writes the results of `benchmarks.tunnel`: a page with table, command and machine, and a picture."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BAR, GAP, PANEL_GAP = 18, 4, 34
NAMES, WIDTH, VALUES = 120, 420, 110
OURS, OTHERS = "#88171a", "#9aa5b1"


class Figure(NamedTuple):
    """A figure of the table: its key in the measurement, its heading, and its format."""

    key: str
    heading: str
    form: str
    scale: float = 1.0
    less_is_better: bool = False

    def write(self, value: float) -> str:
        return format(value * self.scale, self.form)


FIGURES = (
    Figure("TCP Gbit/s", "TCP, one stream, Gbit/s", ".1f"),
    Figure("TCP, 4 streams", "TCP, four streams", ".1f"),
    Figure("TCP, reverse", "TCP, reverse", ".1f"),
    Figure("TCP, both ways", "TCP, both ways", ".1f"),
    Figure("64 B packets/s", "64-byte packets, million/s", ".2f", 1e-6),
    Figure("processor s/Gbit", "processor, s/Gbit", ".2f", less_is_better=True),
    Figure("ping under load ms", "ping under load, ms", ".1f", less_is_better=True),
    Figure("peak memory MB", "peak memory, MB", ".1f", less_is_better=True),
)
SHOWN = tuple(figure for figure in FIGURES if figure.key not in {"TCP, 4 streams", "TCP, reverse"})


def _short(command: str) -> str:
    return Path(shlex.split(command)[0]).name


def _versions(commands: Sequence[str]) -> str:
    found = []
    for command in commands:
        program = shlex.split(command)[0]
        shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
        found.append(shown.partition("\n")[0].strip() or program)
    return ", ".join(found)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    wide = any(line.startswith("flags") and "avx512ifma" in line for line in lines)
    return f"{model}, {os.cpu_count()} processors, {'with' if wide else 'without'} AVX-512 IFMA"


def table(medians: Mapping[str, Mapping[str, float]]) -> str:
    """The medians as a Markdown table: a row for each command, and the ratios of the first to the others."""
    first, *others = medians
    lines = ["| | " + " | ".join(figure.heading for figure in FIGURES) + " |", "|---" * (len(FIGURES) + 1) + "|"]
    for command, row in medians.items():
        lines.append(f"| {_short(command)} | " + " | ".join(f.write(row[f.key]) for f in FIGURES) + " |")
    for other in others:
        ratios = [f"{medians[first][f.key] / medians[other][f.key]:.2f}x" for f in FIGURES]
        lines.append(f"| *{_short(first)} over {_short(other)}* | " + " | ".join(ratios) + " |")
    return "\n".join(lines)


def _panel(figure: Figure, medians: Mapping[str, Mapping[str, float]], top: int) -> list[str]:
    largest = max(row[figure.key] for row in medians.values())
    note = " (less is better)" if figure.less_is_better else ""
    drawn = [f'<text x="0" y="{top + 12}" font-weight="bold">{escape(figure.heading)}{note}</text>']
    for number, (command, row) in enumerate(medians.items()):
        y = top + 20 + number * (BAR + GAP)
        width = max(1.0, row[figure.key] / largest * WIDTH)
        drawn += [
            f'<text x="{NAMES - 8}" y="{y + 13}" text-anchor="end">{escape(_short(command))}</text>',
            f'<rect x="{NAMES}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{OTHERS if number else OURS}"/>',
            f'<text x="{NAMES + width + 6:.1f}" y="{y + 13}">{figure.write(row[figure.key])}</text>',
        ]
    return drawn


def picture(medians: Mapping[str, Mapping[str, float]]) -> str:
    """The medians as bars, an SVG."""
    panel = 20 + len(medians) * (BAR + GAP) + PANEL_GAP - 20
    width, height = NAMES + WIDTH + VALUES, panel * len(SHOWN)
    drawn = [line for number, figure in enumerate(SHOWN) for line in _panel(figure, medians, number * panel)]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        *drawn,
        "</svg>\n",
    ])  # fmt: skip


def write(folder: Path, medians: Mapping[str, Mapping[str, float]], rounds: int) -> None:
    """Write `performance.md` and `performance.svg` into the folder."""
    commands = " ".join(shlex.quote(command) for command in medians)
    machine = f"{_processor()}, Linux {platform.release().split('-')[0]}; {datetime.now(UTC):%B %Y}"
    (folder / "performance.svg").write_text(picture(medians))
    (folder / "performance.md").write_text(f"""# The speed of wgq-userspace

Both ends of a tunnel on one machine, in two network namespaces joined by a veth pair; medians of {rounds} rounds
in which the programs took turns. "Processor" is what both daemons used while one TCP stream ran.

{table(medians)}

![The same as bars](performance.svg)

The command, as root, with nothing else running, after `./scripts/test` (which installs the first two)
and `cargo install --locked gotatun-cli@0.10.2 boringtun-cli@0.7.1`
(what `./scripts/test` builds of these two is not optimised):

    PATH=$HOME/.cargo/bin:$PWD/.cache/venv/bin:$PWD/.cache/bin:$PATH \\
    python -m benchmarks.tunnel --rounds {rounds} --page docs \\
    {commands}

The machine: {machine}. The programs: {_versions([*medians])}.
""")
