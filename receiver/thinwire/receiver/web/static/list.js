// The worklist: a selected row, keys, live rows.
import { onKeys, onChange, replaceParts } from "./keys.js";

const rows = () => [...document.querySelectorAll("tr[data-key]")];
let chosen = sessionStorage.getItem("chosen");

function mark(row, scroll) {
  for (const each of rows()) each.classList.toggle("selected", each === row);
  if (!row) return;
  chosen = row.dataset.key;
  sessionStorage.setItem("chosen", chosen);
  if (scroll) row.scrollIntoView({ block: "nearest" });
}

const selected = () => rows().find((each) => each.dataset.key === chosen);

function step(by) {
  const all = rows(), at = all.indexOf(selected());
  mark(all[Math.min(all.length - 1, Math.max(0, at < 0 ? 0 : at + by))], true);
}

const open = (row) => row && location.assign(row.querySelector("a").href);
const follow = (selector) => document.querySelector(selector)?.click();
const urgency = (n) => document.querySelectorAll("nav[aria-label=Urgency] a")[n]?.click();

onKeys({
  j: () => step(1), ArrowDown: () => step(1), k: () => step(-1), ArrowUp: () => step(-1),
  Enter: (event) => { const link = event.target.closest("a, button"); link ? link.click() : open(selected()); },
  "/": () => document.getElementById("search").focus(),
  n: () => follow("a[rel=next]"), p: () => follow("a[rel=prev]"),
  0: () => urgency(0), 1: () => urgency(1), 2: () => urgency(2), 3: () => urgency(3), 4: () => urgency(4),
});
document.getElementById("main").addEventListener("click", (event) => {
  const row = event.target.closest("tr[data-key]");
  if (!row) return;
  mark(row);
  if (!event.target.closest("a") && !String(getSelection())) open(row);
});

mark(selected());
if (location.pathname === "/") {
  onChange(async () => {
    const before = new Set(rows().map((each) => each.dataset.key));
    if (!await replaceParts(`/rows${location.search}`, "worklist-rows")) return;
    for (const row of rows()) row.classList.toggle("fresh", !before.has(row.dataset.key));
    mark(selected());
  });
}
