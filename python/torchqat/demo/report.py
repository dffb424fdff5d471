"""The demo's report: rows of the result table, printed with rich and written as one self-contained HTML file."""

import base64
import html
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One line of the result table. accuracies: percent, one per seed; differing: (count, compared) summed over the seeds."""

    model: str
    method: str  # "float", "control", "ptq", "qat" or "lsq": the row's colour
    accuracies: tuple[float, ...]
    gap: float | None  # points above (+) or below (-) the float control, means over the seeds
    file_bytes: int
    differing: tuple[int, int] | None


@dataclass(frozen=True)
class LatencyRow:
    """Median milliseconds: batch 1 and 64, called from Python and as a frozen TorchScript file."""

    model: str
    method: str
    eager: tuple[float, float]
    scripted: tuple[float, float]


def accuracy_text(values: Sequence[float]) -> str:
    """Mean and, for several seeds, standard deviation."""
    mean = f"{statistics.mean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def size_text(size: int, reference: int) -> str:
    """KiB, and in brackets how many times smaller than the reference."""
    return f"{size / 1024:.1f}" + (f" ({reference / size:.1f}x)" if size != reference else "")


def gap_text(gap: float | None) -> str:
    return "" if gap is None else f"{gap:+.2f}"


def differing_text(differing: tuple[int, int] | None) -> str:
    return "" if differing is None else f"{differing[0]} of {differing[1]:,}"


RESULT_COLUMNS = (
    "model",
    "accuracy (%)",
    "to control",
    "file (KiB)",
    "differ",
)
LATENCY_COLUMNS = (
    "model",
    "batch 1",
    "batch 64",
    "script, 1",
    "script, 64",
)


def result_cells(row: Row, reference_bytes: int) -> tuple[str, ...]:
    """The row as text, one cell per entry of RESULT_COLUMNS."""
    return (
        row.model,
        accuracy_text(row.accuracies),
        gap_text(row.gap),
        size_text(row.file_bytes, reference_bytes),
        differing_text(row.differing),
    )


def latency_cells(row: LatencyRow, reference: LatencyRow) -> tuple[str, ...]:
    """The row as text, one cell per entry of LATENCY_COLUMNS, with ratios to the reference (the float model)."""
    pairs = zip(row.eager + row.scripted, reference.eager + reference.scripted, strict=True)
    return (row.model, *(f"{value:.2f}" + (f" ({base / value:.2f}x)" if row is not reference else "") for value, base in pairs))


def print_tables(console, rows: Sequence[Row], latencies: Sequence[LatencyRow], seeds: int) -> None:
    """Both tables on a rich console."""
    from rich.table import Table

    table = Table(
        title=f"Results, mean of {seeds} seed{'s' * (seeds != 1)}",
        caption="all as converted models; to control: points to the float control;\n"
        "differ: outputs of QAT in eval mode not bit-equal to the converted model's",
        title_justify="left",
        caption_justify="left",
    )
    for index, name in enumerate(RESULT_COLUMNS):
        table.add_column(name, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*result_cells(row, rows[0].file_bytes), style="dim" if row.method == "float" else None)
    console.print(table)
    table = Table(
        title="Milliseconds a call, batch 1 and 64",
        caption="in brackets: times as fast as float; script: as frozen TorchScript",
        title_justify="left",
        caption_justify="left",
    )
    for index, name in enumerate(LATENCY_COLUMNS):
        table.add_column(name, justify="left" if index == 0 else "right")
    for row in latencies:
        table.add_row(*latency_cells(row, latencies[0]))
    console.print(table)


_STYLE = """
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; color: #1c2126; background: #fff;
       max-width: 1040px; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.sub { color: #5b6570; margin-top: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .93rem; }
th { text-align: right; font-weight: 600; border-bottom: 2px solid #c9d0d6; padding: .4rem .6rem; vertical-align: bottom; }
td { text-align: right; border-bottom: 1px solid #e6eaed; padding: .4rem .6rem; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tr.qat td:first-child { border-left: 4px solid #1f6fb4; } tr.lsq td:first-child { border-left: 4px solid #2a9d63; }
tr.ptq td:first-child { border-left: 4px solid #d1603d; } tr.float td:first-child { border-left: 4px solid #999; }
tr.control td:first-child { border-left: 4px solid #444; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; } figcaption { color: #5b6570; font-size: .9rem; }
ul.facts { padding-left: 1.2rem; } code { background: #f1f4f6; padding: .1em .3em; border-radius: 3px; font-size: .9em; }
.ok { color: #1f7a4a; font-weight: 600; } .bad { color: #b3261e; font-weight: 600; }
"""


def _html_table(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "\n".join(
        f'<tr class="{kind}">' + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
        for kind, cells in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _html_figure(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    text = html.escape(caption)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def write_html(
    path: Path,
    *,
    subtitle: str,
    findings: Sequence[tuple[bool | None, str]],
    rows: Sequence[Row],
    latencies: Sequence[LatencyRow],
    figures: Sequence[tuple[str, Path, str]],
    setup: Sequence[str],
    files: Sequence[tuple[str, str]],
) -> Path:
    """Write the report.

    Args:
        findings: (holds, sentence); holds is None for a plain remark.
        figures: (heading, PNG, caption); the images are inlined.
        setup: sentences on how it was measured.
        files: (name, what it is), relative to the output folder.
    """
    marks = {True: '<span class="ok">holds</span> ', False: '<span class="bad">does not hold</span> ', None: ""}
    facts = "\n".join(f"<li>{marks[holds]}{html.escape(text)}</li>" for holds, text in findings)
    results = _html_table(RESULT_COLUMNS, [(row.method, result_cells(row, rows[0].file_bytes)) for row in rows])
    speed = _html_table(LATENCY_COLUMNS, [(row.method, latency_cells(row, latencies[0])) for row in latencies])
    images = "\n".join(f"<h2>{html.escape(title)}</h2>\n{_html_figure(png, text)}" for title, png, text in figures)
    notes = "\n".join(f"<li>{html.escape(text)}</li>" for text in setup)
    listing = "\n".join(f"<li><code>{html.escape(name)}</code> {html.escape(text)}</li>" for name, text in files)
    path.write_text(
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>torchqat demo</title><style>{_STYLE}</style></head><body>
<h1>torchqat demo: what you train is what ships</h1>
<p class="sub">{html.escape(subtitle)}</p>
<ul class="facts">{facts}</ul>
<h2>Results</h2>
{results}
<p class="sub">Mean ± standard deviation over the seeds. Every PTQ and QAT row is the converted model: integer weights,
integer kernels, 8-bit activations. To control: points above or below the float control. File: in brackets, how many times smaller
than the float file. Differ: how many outputs of QAT in eval mode are not bit-equal to the converted model's.</p>
<h2>Latency</h2>
{speed}
<p class="sub">Milliseconds a call, medians, the models taking turns; in brackets: how many times as fast as the float model.
Batch 1 and 64, called from Python, and as frozen TorchScript (where torch also folds the float model's BatchNorm).</p>
{images}
<h2>How it was measured</h2>
<ul>{notes}</ul>
<h2>Files</h2>
<ul>{listing}</ul>
</body></html>
""",
        encoding="utf-8",
    )
    return path
