// The study page: its viewers, tools, keys, the draft's sentences, the report.
import { onKeys, onChange, replaceParts } from "./keys.js";
import { Viewer } from "./viewer.js";

const figures = [...document.querySelectorAll(".viewer")];
const viewers = figures.map((figure) => new Viewer(figure));
const [own, prior] = viewers;
const button = (name) => document.querySelector(`[data-do="${name}"]`);
const press = (element, on) => element?.setAttribute("aria-pressed", String(on));
const every = (act) => { for (const viewer of viewers) act(viewer); };

function selectTool(tool) {
  every((viewer) => { viewer.tool = tool; });
  for (const each of document.querySelectorAll("[data-tool]")) press(each, each.dataset.tool === tool);
}

const slider = button("opacity");
let before = 30;
function attention(percent) {
  slider.value = percent;
  every((viewer) => { viewer.opacity = percent / 100; viewer.draw(); });
}

const acts = {
  invert() { every((viewer) => viewer.invert()); press(button("invert"), own.inverted); },
  reset() { every((viewer) => viewer.reset()); press(button("invert"), false); },
  native() { every((viewer) => viewer.oneToOne()); },
  dim() { every((viewer) => { viewer.dim = !viewer.dim; viewer.draw(); }); press(button("dim"), own.dim); },
  prior() {
    if (!prior) return;
    const shown = prior.figure.hidden;
    prior.figure.hidden = !shown;
    press(button("prior"), shown);
    if (shown) prior.load();
  },
};
for (const each of document.querySelectorAll("[data-tool]")) each.addEventListener("click", () => selectTool(each.dataset.tool));
for (const [name, act] of Object.entries(acts)) button(name)?.addEventListener("click", act);
slider.addEventListener("input", () => attention(Number(slider.value)));
figures[0].addEventListener("shown", ({ detail }) => {
  const legend = document.querySelector(".legend");
  legend.hidden = !detail.mixed && !detail.approximate;
  legend.querySelector(".exact").hidden = !detail.mixed;
});

function highlight(sentence) {
  const shares = sentence?.dataset.shares ? sentence.dataset.shares.split(",").map(Number) : null;
  own.shares = shares?.length ? shares : null;
  own.draw();
  const most = Math.max(...(shares ?? [1]));
  for (const dot of document.querySelectorAll("[data-patch]")) {
    dot.classList.toggle("highlighted", Boolean(own.shares) && own.shares[Number(dot.dataset.patch)] >= most / 2);
  }
}
const report = document.getElementById("report");
for (const name of ["pointerover", "focusin"]) report.addEventListener(name, ({ target }) => highlight(target.closest(".sentence")));
for (const name of ["pointerleave", "focusout"]) report.addEventListener(name, () => highlight(null));

const text = document.getElementById("text"), form = document.getElementById("writing"), sign = document.getElementById("sign");
let changed = false;
text?.addEventListener("input", () => { changed = true; });
form?.addEventListener("submit", () => { changed = false; });
document.querySelector("[data-sign]")?.addEventListener("click", () => sign.showModal());
sign?.querySelector("[data-close]").addEventListener("click", () => sign.close());
addEventListener("beforeunload", (event) => { if (changed) event.preventDefault(); });
document.addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "s" && form) {
    event.preventDefault();
    form.requestSubmit(form.querySelector("[value=save]"));
  }
});

const go = (name) => document.querySelector(`[data-nav="${name}"]`)?.click();
onKeys({
  j: () => go("next"), k: () => go("previous"), u: () => go("list"),
  g: () => document.querySelector('[data-key-name="full"]')?.click(),
  w: () => selectTool("window"), m: () => selectTool("pan"), d: () => selectTool("measure"),
  "+": () => every((viewer) => viewer.zoom(1.25)), "=": () => every((viewer) => viewer.zoom(1.25)),
  "-": () => every((viewer) => viewer.zoom(0.8)), 0: () => every((viewer) => viewer.fit()),
  x: acts.native, i: acts.invert, o: acts.dim, c: acts.prior, r: acts.reset,
  a: () => { const now = Number(slider.value); if (now) before = now; attention(now ? 0 : before); },
  e: () => text?.focus(),
});

own.load();
// A draft that is written after the page was made becomes the report's text, if no person has begun one.
function begin() {
  if (!form || changed || text.value || form.elements.version.value !== "0" || document.activeElement === text) return;
  text.value = [...document.querySelectorAll(".sentence")].map((each) => each.textContent).join(" ");
  form.elements.from_draft.value = String(Boolean(text.value));
  form.querySelector("[data-unedited]").hidden = !text.value;
}

onChange(async () => {
  const drafted = document.querySelector(".draft");
  await replaceParts(`${own.figure.dataset.view}/state`, "patient", "state", "details", ...(drafted ? [] : ["draft"]));
  if (!drafted) begin();
  await own.load();
  if (prior && !prior.figure.hidden) await prior.load();
});
