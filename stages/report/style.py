"""How the report's page looks: light and dark, wide and narrow, on paper."""

from __future__ import annotations

_LIGHT = """--paper: #ffffff; --ink: #1b1f24; --muted: #57606a; --line: #d1d9e0; --soft: #f6f8fa;
  --tint: #eef5fb; --accent: #0060a8; --series-0: #0072b2; --series-1: #c04e00;
  --series-2: #007a59; --series-3: #a8527f; --series-4: #806200; --series-5: #5f4fc0;"""

_DARK = """--paper: #14171a; --ink: #e6e9ec; --muted: #a3adb8; --line: #3a424b; --soft: #1d2226;
  --tint: #182633; --accent: #6cb6ff; --series-0: #5cb0e8; --series-1: #ff9d5c;
  --series-2: #45c9a0; --series-3: #e39ac4; --series-4: #d9b64a; --series-5: #aa9cff;"""

# Dark is for screens alone: ink on paper is black.
STYLE = f""":root {{ color-scheme: light dark; {_LIGHT} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }}
main {{ max-width: 78rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }}
h1 {{ font-size: 1.9rem; line-height: 1.2; margin: 0 0 1rem; text-wrap: balance;
  overflow-wrap: anywhere; }}
h2 {{ font-size: 1.3rem; line-height: 1.3; margin: 3rem 0 .5rem; padding-top: 1.25rem;
  border-top: 1px solid var(--line); }}
p {{ max-width: 46rem; margin: .5rem 0 1rem; overflow-wrap: anywhere; }}
a {{ color: var(--accent); }}
.lead {{ font-size: 1.06rem; max-width: 50rem; }}
.note, figcaption {{ color: var(--muted); font-size: .9rem; max-width: 46rem;
  overflow-wrap: anywhere; }}
.scroll {{ overflow-x: auto; margin: 1rem 0; border: 1px solid var(--line); border-radius: 6px; }}
table {{ border-collapse: collapse; width: 100%; font-size: .875rem;
  font-variant-numeric: tabular-nums; }}
th, td {{ padding: .45rem .6rem; text-align: left; vertical-align: baseline;
  border-bottom: 1px solid var(--line); }}
td {{ white-space: nowrap; }}
.dense table {{ font-size: .8125rem; }}
.dense th, .dense td {{ padding-inline: .45rem; }}
tbody tr:last-child > * {{ border-bottom: 0; }}
thead th, thead td {{ background: var(--soft); vertical-align: bottom; line-height: 1.3; }}
thead tr:first-child:not(:last-child) th[colspan] {{ border-left: 1px solid var(--line); }}
thead tr:last-child:not(:first-child) th {{ font-weight: 500; }}
tbody th {{ font-weight: 500; min-width: 12rem; position: sticky; left: 0;
  background: var(--paper); overflow-wrap: anywhere; }}
.number {{ text-align: right; white-space: nowrap; }}
.beside {{ color: var(--muted); font-style: italic; background: var(--soft); }}
.stressed > * {{ background: var(--tint); font-weight: 600; }}
.stressed > .beside {{ font-weight: 400; }}
figure {{ margin: 1.5rem 0 2.5rem; }}
figure > div {{ overflow-x: auto; }}
figure svg {{ display: block; width: 100%; height: auto; min-width: 34rem; max-width: 50rem; }}
figcaption {{ margin-top: .5rem; }}
pre {{ overflow: auto; max-height: 28rem; background: var(--soft); border: 1px solid var(--line);
  border-radius: 6px; padding: .75rem 1rem; font-size: .8125rem; line-height: 1.6; }}
ul {{ max-width: 52rem; padding-left: 1.2rem; overflow-wrap: anywhere; }}
:focus-visible {{ outline: 2px solid var(--accent); outline-offset: 2px; }}
@media (max-width: 40rem) {{
  main {{ padding: 1.5rem 1rem 3rem; }}
  h1 {{ font-size: 1.5rem; }}
  tbody th {{ min-width: 8.5rem; max-width: 10rem; }}
}}
@media print {{
  main {{ max-width: none; padding: 0; }}
  .scroll, pre, figure > div {{ overflow: visible; max-height: none; }}
  pre {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
  table {{ font-size: .65rem; }}
  th, td {{ padding: .2rem .3rem; }}
  td {{ white-space: normal; }}
  tbody th {{ position: static; min-width: 6rem; }}
  figure svg {{ min-width: 0; }}
  tr, figure {{ break-inside: avoid; }}
  h2 {{ break-after: avoid; }}
}}
"""
