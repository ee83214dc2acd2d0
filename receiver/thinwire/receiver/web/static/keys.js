// Keys that both pages share: help, and no key while a person writes.
export function onKeys(table) {
  document.addEventListener("keydown", (event) => {
    const writes = event.target.closest("input:not([type=range]), textarea, select");
    if (event.key === "Escape" && writes) { writes.blur(); return; }
    if (writes || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const act = event.key === "?" ? help : table[event.key];
    if (act) { event.preventDefault(); act(event); }
  });
  document.querySelector("[data-help]")?.addEventListener("click", help);
}

function help() { document.getElementById("help")?.showModal(); }

// Listen to the hub's events (list, progress) and refresh the page, at most every two seconds.
export function onChange(refresh) {
  let waits = false, last = 0;
  const soon = () => {
    if (waits) return;
    waits = true;
    setTimeout(async () => {
      waits = false; last = Date.now();
      if (!document.hidden) await refresh();
    }, Math.max(0, last + 2000 - Date.now()));
  };
  const events = new EventSource("/events");
  events.addEventListener("list", soon);
  events.addEventListener("progress", soon);
  events.addEventListener("ended", () => { events.close(); location.assign("/sign-in"); });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) soon(); });
  setInterval(soon, 30000); // ages grow also when nothing arrives
}

// Fetch parts of the page from the hub, and replace those with the same ids.
export async function replaceParts(address, ...ids) {
  const answer = await fetch(address, { headers: { Accept: "text/html" } });
  if (answer.status === 401) { location.assign("/sign-in"); return false; }
  if (answer.status === 410) { location.reload(); return false; } // the study was removed: its page says so
  if (!answer.ok) return false;
  const parsed = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const id of ids) {
    const fresh = parsed.getElementById(id), old = document.getElementById(id);
    // A part that has the focus stays: a person is about to use it.
    if (fresh && old && !old.contains(document.activeElement)) old.replaceWith(document.adoptNode(fresh));
  }
  return true;
}
