"""The frame of the HTML report: one file that works offline, on phones and in dark mode."""

import html
from collections.abc import Mapping

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

_CSS = """
:root { color-scheme: light dark; --bg: #f6f7f9; --card: #fff; --text: #1b2330; --muted: #5d6878;
  --line: #dfe3ea; --accent: #2f7df6; --good: #12805c; --bad: #c7313c; --shade: #eef1f5; }
@media (prefers-color-scheme: dark) { :root { --bg: #0f131a; --card: #171c25; --text: #e6eaf1;
  --muted: #97a3b5; --line: #2a3240; --accent: #6aa5ff; --good: #3ecf9a; --bad: #ff7078;
  --shade: #1f2631; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 1.2rem; margin: 40px 0 4px; }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
p { margin: 4px 0 12px; max-width: 76ch; }
.lead { font-size: 1.1rem; }
.muted, figcaption { color: var(--muted); font-size: 0.9rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 14px 16px; margin: 12px 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 18px 0; }
.tile { margin: 0; padding: 12px 14px; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.25; font-weight: 650;
  font-variant-numeric: tabular-nums; }
.tile span { color: var(--muted); font-size: 0.85rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr));
  gap: 12px; }
.pair .card { margin: 0; }
.figure { width: 100%; height: 300px; }
.figure.space { height: min(600px, 72vh); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 12px 7px 0; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; font-size: 0.92rem; }
th { color: var(--muted); font-weight: 600; vertical-align: bottom; white-space: normal; }
tbody tr:last-child td { border-bottom: 0; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0;
  background: var(--card); padding-right: 16px; }
td.text, th.text { text-align: left; }
td.wrap { white-space: normal; min-width: 14rem; text-align: left; }
table.narrow { width: auto; }
table.sortable th { cursor: pointer; user-select: none; }
table.sortable th[aria-sort]::after { content: " \\25B4"; }
table.sortable th[aria-sort="descending"]::after { content: " \\25BE"; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
.good { color: var(--good); } .bad { color: var(--bad); }
.badge { font-size: 0.8rem; font-weight: 600; border: 1px solid currentColor; border-radius: 99px;
  padding: 1px 9px; white-space: nowrap; }
.head { display: flex; flex-wrap: wrap; gap: 4px 12px; align-items: baseline; margin-bottom: 8px; }
figure { margin: 0; }
.matches { overflow-x: auto; border-radius: 8px; }
.matches img { display: block; width: 100%; height: auto; min-width: 560px; border-radius: 8px;
  cursor: zoom-in; }
.alone img { display: block; max-width: 100%; height: auto; border-radius: 8px; }
.thumbs { display: flex; flex-wrap: wrap; gap: 10px; margin-top: 10px; }
.thumbs figure { width: 118px; }
.thumbs img { display: block; width: 100%; height: auto; border-radius: 6px; cursor: zoom-in; }
.thumbs figcaption { font-size: 0.78rem; overflow-wrap: anywhere; line-height: 1.3;
  margin-top: 2px; }
pre { overflow-x: auto; font-size: 0.85rem; margin: 8px 0 0; }
summary { cursor: pointer; color: var(--muted); }
dialog { border: 0; padding: 0; max-width: 98vw; max-height: 96vh; background: #000;
  overflow: auto; }
dialog::backdrop { background: rgba(0, 0, 0, 0.8); }
dialog img { display: block; max-width: none; cursor: zoom-out; }
@media (max-width: 600px) { main { padding: 18px 12px 40px; } h1 { font-size: 1.4rem; }
  .tile b { font-size: 1.2rem; } .card { padding: 12px; }
  .tiles { grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 8px; }
  .thumbs figure { width: 86px; } }
@media print { .figure.space { break-inside: avoid; } body { background: #fff; } }
"""

_JS = """
const dark = matchMedia("(prefers-color-scheme: dark)");
function theme() {
  const style = getComputedStyle(document.documentElement);
  return { "font.color": style.getPropertyValue("--text").trim(),
           "font.family": getComputedStyle(document.body).fontFamily,
           "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
           "modebar.bgcolor": "rgba(0,0,0,0)", "modebar.color": "#8a94a3" };
}
for (const [id, figure] of Object.entries(FIGURES)) {
  const place = document.getElementById(id);
  const eye = figure.layout.scene?.camera?.eye;
  if (eye && place.clientWidth < place.clientHeight)  // step back, or the sides are cut off
    for (const axis of "xyz") eye[axis] *= 1.7;
  Plotly.newPlot(place, figure.data, figure.layout, { responsive: true, displaylogo: false,
    displayModeBar: Boolean(eye), modeBarButtons: [["resetCameraDefault3d"]] })
    .then(() => Plotly.relayout(place, theme()));
}
dark.addEventListener("change", () => {
  for (const id of Object.keys(FIGURES)) Plotly.relayout(id, theme());
});
const value = (row, column) => {
  const data = row.cells[column].dataset.value;
  return data === undefined ? row.cells[column].textContent : parseFloat(data);
};
for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => head.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [value(a, column), value(b, column)];
      const order = typeof x === "number" ? x - y || 0
        : x.localeCompare(y, "en", { numeric: true });
      return down ? -order : order;
    });
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    table.tBodies[0].append(...rows);
  }));
}
const dialog = document.querySelector("dialog");
document.addEventListener("click", event => {
  if (dialog.open) dialog.close();
  else if (event.target.matches(".matches img, .thumbs img")) {
    dialog.querySelector("img").src = event.target.src;
    dialog.showModal();
  }
});
"""


def page(title: str, body: str, figures: Mapping[str, go.Figure]) -> str:
    """A whole HTML document in one string, plotly.js included.

    Args:
        title: Title of the document, plain text.
        body: HTML of the content; holds a ``figure_place`` for every figure.
        figures: Figures by the id of their place.
    """
    # "</script" or "<!--" in a photo's name must not end or change the script
    data = ",".join(
        f'"{name}":' + (figure.to_json() or "null").replace("<", r"\u003c")
        for name, figure in figures.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_CSS}</style>\n</head><body>\n"
        f'<main>\n{body}\n</main>\n<dialog><img alt="the picture in full size"></dialog>\n'
        f"<script>{get_plotlyjs()}</script>\n"
        f"<script>const FIGURES = {{{data}}};\n{_JS}</script>\n</body></html>\n"
    )


def figure_place(name: str, *, height_px: int | None = None, is_3d: bool = False) -> str:
    """The HTML element that a figure is drawn into."""
    kind = "figure space" if is_3d else "figure"
    style = "" if height_px is None else f' style="height: {height_px}px"'
    return f'<div class="{kind}" id="{html.escape(name)}"{style}></div>'
