"""How the report looks: light, dark, narrow, printed."""

from __future__ import annotations

from edgepack.svg import DARK, LIGHT

CSS = (
    ":root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--line:#d9dee6;--good:#0f7b6c;"
    "--warn:#8a5a00;" + LIGHT + "}"
    "@media(prefers-color-scheme:dark){:root{--page:#0e1116;--card:#161b22;--line:#2c3542;"
    "--good:#5fd6c4;--warn:#ffc46b;" + DARK + "}}"
    """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main,header,footer{max-width:1080px;margin:0 auto;padding:0 20px}
header{padding-top:32px}
h1{font-size:28px;line-height:1.2;margin:0 0 4px}
h2{font-size:20px;margin:40px 0 12px;padding-top:8px;border-top:1px solid var(--line)}
h3{font-size:15px;margin:18px 0 2px}figcaption h3{margin-top:0}
p{margin:4px 0 10px;max-width:75ch}
a{color:var(--s1)}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin:12px 0 0}
.muted,figcaption p,footer{color:var(--muted)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:20px 0}
.card,figure,.next{background:var(--card);border:1px solid var(--line);border-radius:10px}
.card{padding:12px 14px}
.card b{display:block;font-size:24px;line-height:1.25;font-variant-numeric:tabular-nums}
.card span{color:var(--muted);font-size:13px}
.next{padding:14px 18px;border-left:5px solid var(--s1)}
.next ol{margin:6px 0 0;padding-left:20px}
code{font:13px ui-monospace,monospace;background:var(--page);border:1px solid var(--line);
  border-radius:5px;padding:1px 5px;overflow-wrap:anywhere}
figure{margin:14px 0;padding:16px 18px;break-inside:avoid}
figure svg{display:block;width:100%;height:auto}
.narrow{display:none}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(320px,1fr));gap:14px}
.grid figure{margin:0}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:5px 10px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child,td.text,th.text{text-align:left}
td.text{white-space:normal}td.text:last-child{min-width:34ch}td:first-child{min-width:11ch}
caption{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
th{color:var(--muted);font-weight:600}
summary{cursor:pointer;color:var(--s1);margin-top:8px;font-size:13px}
.badge{display:inline-block;border-radius:999px;padding:0 9px;border:1px solid currentColor;
  font-size:12px}
.fresh{color:var(--good)}.cooling{color:var(--warn)}.cold,.alarm{color:var(--bad)}
ul.plain{padding-left:18px;margin:6px 0}
footer{padding:32px 20px;font-size:13px}
@media(max-width:640px){
  body{font-size:16px}main,header,footer{padding-left:12px;padding-right:12px}
  figure{padding:12px 8px}figcaption{padding:0 6px}
  .wide{display:none}.narrow{display:block}
  h1{font-size:24px}
}
@media print{
  :root{"""
    + LIGHT
    + """;--page:#fff;--card:#fff;--line:#bbb;--good:#0f7b6c;--warn:#8a5a00}
  body{font-size:11px}nav,summary{display:none}
  p{break-inside:avoid}h2,h2+p,h3{break-after:avoid}.grid{grid-template-columns:1fr 1fr}
  .scroll{overflow:visible}table{font-size:9px}th,td{padding:3px 5px;white-space:normal}
  footer{padding:4px 20px}
}
"""
)
