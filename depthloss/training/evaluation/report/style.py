"""The style sheet of the report."""

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --text: #1b1f24; --soft: #57606a; --line: #d0d7de;
  --card: #f6f8fa; --better: #0a5ca8; --worse: #a13d00; --note: #fff4d6; --head: #eef1f4;
  --m0: #0072b2; --m1: #e69f00; --m2: #009e73; --m3: #cc79a7; --m4: #d55e00; --m5: #56b4e9; --m6: #8c6bb1;
  --m7: #777777; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --text: #e6e9ed; --soft: #a3adb8;
  --line: #3a424c; --card: #1d2228; --better: #7cc0ff; --worse: #ffac70; --note: #3a3216;
  --head: #262c33; --m0: #56b4e9; --m5: #0072b2; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 20px 24px 60px; }
h1 { font-size: 26px; line-height: 1.25; margin: 8px 0 6px; overflow-wrap: anywhere; }
h2 { font-size: 20px; margin: 38px 0 6px; padding-top: 10px; border-top: 1px solid var(--line); }
h3 { font-size: 16px; margin: 24px 0 6px; }
p { margin: 6px 0; max-width: 900px; }
.lead { font-size: 18px; }
.soft, caption, .facts, .place, .panel span, .marks, .colourbar em, .swatch { color: var(--soft); }
nav { margin: 10px 0; display: flex; flex-wrap: wrap; gap: 4px 18px; }
a { color: var(--better); }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 0 40px;
  align-items: start; }
ul { margin: 6px 0; padding-left: 22px; max-width: 900px; }
.note { background: var(--note); border-left: 4px solid var(--m1); padding: 8px 14px; margin: 14px 0; }
.note h3 { margin-top: 2px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 16px; margin: 6px 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
code { font: 13px/1.45 ui-monospace, "SFMono-Regular", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.scroll { overflow-x: auto; margin: 8px 0 14px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 4px 0; }
.data th, .data td { padding: 4px 9px; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; white-space: nowrap; }
.data thead th { background: var(--head); vertical-align: bottom; font-weight: 600; }
.data th:first-child { text-align: left; position: sticky; left: 0; background: var(--page); }
.data thead th:first-child { background: var(--head); }
.data .words, .data thead .words { text-align: left; white-space: normal; min-width: 190px;
  color: var(--soft); }
.data tbody th { font-weight: 600; }
.data tbody th:first-child { white-space: normal; min-width: 110px; }
.data.names tbody th:first-child { overflow-wrap: anywhere; min-width: 200px; }
.wide th, .wide td { font-size: 13px; padding: 4px 7px; }
.unit, td small { display: block; font-weight: 400; font-size: 12px; color: var(--soft); }
.better, td small.better { color: var(--better); } .worse, td small.worse { color: var(--worse); }
.better, .worse { font-weight: 600; }
.bars { width: 100%; max-width: 600px; } .bars caption { color: var(--text); font-weight: 600; }
.bars th { font-weight: 400; text-align: right; padding: 3px 10px 3px 0; width: 1%; white-space: nowrap;
  max-width: 200px; overflow: hidden; text-overflow: ellipsis; }
.bars td { border-left: 1px solid var(--soft); padding: 3px 0; }
.bar { display: flex; align-items: center; height: 17px; font-size: 13px; }
.bar i { display: block; height: 13px; margin-right: 6px; flex: none; }
.m0 { --m: var(--m0); } .m1 { --m: var(--m1); } .m2 { --m: var(--m2); } .m3 { --m: var(--m3); }
.m4 { --m: var(--m4); } .m5 { --m: var(--m5); } .m6 { --m: var(--m6); } .m7 { --m: var(--m7); }
.legend i, .bar i { background: var(--m); }
.beside { display: flex; flex-wrap: wrap; gap: 0 40px; align-items: flex-start; }
.beside { break-inside: avoid; }
.beside > :first-child { flex: 1 1 560px; min-width: 0; }
.legend span { margin-right: 22px; } .legend i, .swatch i { display: inline-block; width: 14px; height: 14px;
  vertical-align: -2px; margin-right: 6px; }
.swatch i { background: #999999; }
.chart { width: 100%; min-width: 560px; max-width: 860px; height: auto; display: block; }
.chart text { font-size: 13px; fill: var(--text); } .chart .middle { text-anchor: middle; }
.chart .end { text-anchor: end; } .chart text.guide { fill: var(--soft); }
.chart line.grid { stroke: var(--line); } .chart line.guide { stroke: var(--soft); stroke-dasharray: 3 4; }
.chart rect { fill: var(--m); } .chart path { fill: none; stroke: var(--m); stroke-width: 2.5; }
.frame { margin: 18px 0 26px; padding: 12px 14px; background: var(--card); border: 1px solid var(--line);
  border-radius: 6px; }
.frame figcaption { margin-bottom: 8px; overflow-wrap: anywhere; } .place { margin: 0 14px 0 8px; }
.facts { float: right; }
.panels { clear: both; display: grid; grid-auto-flow: column; grid-template-rows: repeat(2, auto);
  grid-auto-columns: minmax(0, 1fr); gap: 10px 12px; align-items: start; }
.panels.many, .panels.row { grid-auto-flow: row; grid-template-rows: none;
  grid-template-columns: repeat(4, minmax(0, 1fr)); }
.panels.row { grid-template-columns: repeat(3, minmax(0, 1fr)); }
.panel img { display: block; width: 100%; height: auto; background: #999999; }
.coarse { image-rendering: pixelated; }
.panel span { font-size: 13px; } .panel .lost { color: var(--worse); font-weight: 600; margin-left: 8px; }
.key { padding: 0 2px; } .key.wide { display: grid; gap: 4px 36px; align-items: end; margin-top: 8px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 260px), 1fr)); }
.colourbar em { font-style: normal; font-size: 13px; } .ramp { height: 12px; border: 1px solid var(--line); }
.marks { display: flex; justify-content: space-between; font-size: 12px; } .colourbar { margin-bottom: 8px; }
.swatch { font-size: 13px; margin: 0 0 4px; }
.sheet { background: #ffffff; padding: 8px; min-width: 700px; width: 100%; height: auto; display: block; }
@media screen and (max-width: 760px) {
  main { padding: 12px 12px 40px; } .facts { float: none; display: block; }
  .panels, .panels.many, .panels.row { grid-auto-flow: row; grid-template-rows: none; grid-auto-columns: auto;
    grid-template-columns: repeat(2, 1fr); }
  .panels .key { grid-column: 1 / -1; order: 1; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: 6px; }
  .data .words { display: none; } }
@media print { :root { --page: #ffffff; --text: #000000; --soft: #444444; --line: #bbbbbb; --card: #ffffff;
  --better: #0a5ca8; --worse: #a13d00; --m0: #0072b2; --m5: #56b4e9; --note: #fff4d6; --head: #eeeeee; }
  @page { size: A4 landscape; margin: 12mm; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { font-size: 11px; } main { max-width: none; padding: 0; } nav { display: none; }
  .frame, .data, .bars, .note, .chart, .sheet { break-inside: avoid; }
  h2, h3, main > p { break-after: avoid; } .facts { float: right; }
  .scroll { overflow: visible; } .data th:first-child { position: static; }
  .wide th, .wide td, .wide .unit, .wide small { font-size: 9px; padding: 2px 3px; }
  .sheet { min-width: 0; } .chart { min-width: 0; } code, .unit, td small, .bar { font-size: 10px; } }
"""
