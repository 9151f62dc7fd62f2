"""The stylesheet of the report: light, dark and print."""

CSS = """
:root {
  --page: #ffffff; --card: #f7f7f5; --line: #e3e2de; --text: #1c1b19; --muted: #6a6862;
  --accent: #2a6fd0; --bad: #c4362f; --soft: #dbe7f8; --halo: #ffffff;
  --c0: #2a6fd0; --c1: #e0621f; --c2: #138a62; --c3: #b98200; --c4: #cf3f7f;
  --c5: #6a4fc3; --c6: #4b8b12; --c7: #c4362f; --c8: #0f8ea3; --c9: #8a6148;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #171716; --card: #201f1e; --line: #383735; --text: #eceae4;
    --muted: #a09d95; --accent: #6ea6f2; --bad: #f0776f; --soft: #24364f;
    --halo: #201f1e;
    --c0: #6ea6f2; --c1: #f2894e; --c2: #3dbd90; --c3: #dba93a; --c4: #ee7bac;
    --c5: #a391f0; --c6: #86bf4a; --c7: #f0776f; --c8: #45bccf; --c9: #c39a7f;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 40px 28px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0; letter-spacing: -0.01em;
  overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 44px 0 14px; padding-bottom: 6px;
  border-bottom: 1px solid var(--line); }
h3 { font-size: 14px; margin: 0; }
p { margin: 0 0 12px; max-width: 75ch; }
small, .muted { color: var(--muted); }
ul { list-style: none; margin: 0; padding: 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 7px 14px 7px 0; vertical-align: top; }
thead th { color: var(--muted); font-weight: 500; font-size: 13px;
  vertical-align: bottom; border-bottom: 1px solid var(--line); }
tbody th { font-weight: 500; white-space: nowrap; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
.number { text-align: right; white-space: nowrap; }
.wide { overflow-x: auto; }
.protocols { font-size: 13.5px; }
.fixed { white-space: nowrap; }
.overview { margin: 6px 0 26px; }
.overview th:first-child { min-width: 160px; }
.overview .number { padding-left: 22px; min-width: 132px; }
.overview td small { display: block; font-size: 11.5px; }
.overview .best { font-weight: 700; }
.overview .best small { font-weight: 400; }
.bar { display: block; height: 3px; margin: 4px 0 0 auto; border-radius: 2px;
  background: var(--soft); }
.best .bar { background: var(--accent); }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(400px, 1fr));
  gap: 18px; }
figure { margin: 0; }
.panel { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px 14px 8px; break-inside: avoid; }
figcaption { display: flex; flex-wrap: wrap; gap: 2px 16px;
  justify-content: space-between; margin-bottom: 6px; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 13px;
  color: var(--muted); }
.legend b { color: var(--text); font-weight: 600; font-variant-numeric: tabular-nums; }
.swatch { display: inline-block; width: 14px; height: 3px; border-radius: 2px;
  background: var(--k); margin-right: 6px; vertical-align: middle; }
.swatch.round { width: 10px; height: 10px; border-radius: 50%; }
.bad { color: var(--bad); font-style: normal; }
svg { display: block; width: 100%; height: auto; font: 11px system-ui, sans-serif; }
svg text { fill: var(--muted); }
.grid { stroke: var(--line); }
.axis { stroke: var(--muted); stroke-opacity: 0.6; }
polyline { fill: none; stroke: var(--k); stroke-width: 2; stroke-linejoin: round;
  stroke-linecap: round; }
.hit { fill: transparent; }
.dot { fill: var(--k); }
.point .dot { opacity: 0; }
.point.few .dot, .point:hover .dot { opacity: 1; }
.point:hover .dot { stroke: var(--halo); stroke-width: 2; r: 4.5px; }
.scatter { display: flex; flex-wrap: wrap; gap: 20px; align-items: flex-start; }
.scatter svg { flex: 1 1 420px; max-width: 680px; }
.scatter .dot { opacity: 0.75; }
.frame { fill: var(--card); stroke: var(--line); }
.scatter .name { fill: var(--text); font-size: 15px; font-weight: 700;
  text-anchor: middle; dominant-baseline: middle; paint-order: stroke;
  stroke: var(--halo); stroke-width: 4px; stroke-linejoin: round;
  pointer-events: none; }
.legend.tall { flex: 0 1 190px; flex-direction: column; gap: 5px; }
.legend.tall li { color: var(--text); }
.legend.tall span { color: var(--muted); float: right; padding-left: 12px; }
.neighbors td { padding: 6px 7px; border: 0 !important; text-align: center;
  font-size: 12px; line-height: 1.3; }
.neighbors img { display: block; width: 68px; height: 68px; object-fit: contain;
  border-radius: 6px; image-rendering: pixelated; background: var(--card);
  margin: 0 auto 3px; outline: 1px solid var(--line); }
.neighbors span { display: inline-block; max-width: 84px; overflow-wrap: anywhere; }
.neighbors .query { padding-right: 26px; font-weight: 600; }
.neighbors .query img { outline: 2px solid var(--text); }
.neighbors .other img { outline: 2px solid var(--bad); }
.neighbors .other span::before { content: "≠ "; color: var(--bad); font-weight: 700; }
.sheet { display: block; max-width: 100%; height: auto; border-radius: 8px;
  border: 1px solid var(--line); image-rendering: pixelated; }
.settings { display: grid; grid-template-columns: repeat(auto-fill, minmax(310px, 1fr));
  gap: 0 28px; margin: 0; font-size: 13.5px; }
.settings div { display: flex; justify-content: space-between; gap: 14px;
  padding: 5px 0; border-bottom: 1px solid var(--line); break-inside: avoid; }
dt { color: var(--muted); }
dd { margin: 0; text-align: right; overflow-wrap: anywhere; }
.c0 { --k: var(--c0); } .c1 { --k: var(--c1); } .c2 { --k: var(--c2); }
.c3 { --k: var(--c3); } .c4 { --k: var(--c4); } .c5 { --k: var(--c5); }
.c6 { --k: var(--c6); } .c7 { --k: var(--c7); } .c8 { --k: var(--c8); }
.c9 { --k: var(--c9); } .rest { --k: var(--muted); }
@media (max-width: 520px) {
  main { padding: 24px 16px; }
  .panels { grid-template-columns: 1fr; }
}
@media print {
  body { font-size: 11px; }
  main { max-width: none; padding: 0; }
  h2 { break-after: avoid; margin-top: 24px; }
  .panels { grid-template-columns: 1fr 1fr; }
  .scatter svg { max-width: 420px; }
  .neighbors tr, .settings div, .scatter { break-inside: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
