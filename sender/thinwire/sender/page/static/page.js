// Takes the changing part of the page anew every few seconds; without this script the page is as of when it was loaded.
"use strict";
const live = document.getElementById("live"), off = document.getElementById("off");
const busy = () => document.hidden || live.contains(document.activeElement) || String(getSelection());
async function look() {
  if (!busy()) {
    try {
      const answer = await fetch(live.dataset.from, { headers: { accept: "text/html" } });
      if (!answer.ok) throw new Error(answer.status);
      const open = new Set([...live.querySelectorAll("details[open]")].map((each) => each.closest("article").getAttribute("aria-labelledby")));
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (!busy()) {
        live.replaceChildren(...fresh.body.childNodes);
        for (const each of live.querySelectorAll("details")) each.open = open.has(each.closest("article").getAttribute("aria-labelledby"));
      }
      off.hidden = true;
    } catch { off.hidden = false; }
  }
  setTimeout(look, 3000);
}
setTimeout(look, 3000);
