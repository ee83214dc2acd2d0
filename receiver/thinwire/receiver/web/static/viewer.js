// One radiograph in a canvas: layers of samples through a window into grey, and the kept patches with their attention over them.
// Everything is measured in native pixels; `scale` is canvas pixels per native pixel.

const HEAT = ["#6246be", "#8a48a8", "#b24a92", "#d6487a", "#e6665e", "#f58646", "#fbaa4e", "#ffd45f"];
// The plane in which a distance is measured (PS3.3 10.7.1.3).
const WHERE = { patient: "", detector: " at the detector", film: " on the scanned film", unknown: " (not known whether at the patient or at the detector)" };
const EXACT = "#00c2d1";

class Layer {
  // facts: of the frame (web/frame.py). bytes: its tone, then its samples.
  constructor(facts, bytes) {
    this.facts = facts;
    this.tone = new Uint8Array(bytes, 0, facts.levels);
    const body = bytes.slice(facts.levels);
    this.samples = facts.bits === 8 ? new Uint8Array(body) : new Uint16Array(body);
    this.pieces = (facts.rectangles.length ? facts.rectangles : [[0, 0, facts.width, facts.height]]).map(([x, y, w, h]) => {
      const canvas = Object.assign(document.createElement("canvas"), { width: w, height: h });
      return { x, y, w, h, canvas, image: new ImageData(w, h) };
    });
  }

  // The grey of each sample: its tone as long as no window is set, else the line through the window.
  table(view) {
    const { slope, intercept, levels } = this.facts, out = new Uint8Array(levels);
    for (let v = 0; v < levels; v++) {
      const grey = view.windowed ? 127.5 + (slope * v + intercept - view.level) * 255 / view.width : this.tone[v];
      const seen = Math.min(255, Math.max(0, grey));
      out[v] = view.inverted ? 255 - seen : seen;
    }
    return out;
  }

  paint(view) {
    const table = this.table(view);
    let at = 0;
    for (const piece of this.pieces) {
      const pixels = new Uint32Array(piece.image.data.buffer);
      for (let n = 0; n < pixels.length; n++) {
        const grey = table[this.samples[at + n]];
        pixels[n] = 0xff000000 | grey << 16 | grey << 8 | grey;
      }
      at += pixels.length;
      piece.canvas.getContext("2d").putImageData(piece.image, 0, 0);
    }
  }
}

export class Viewer {
  constructor(figure) {
    this.figure = figure;
    this.canvas = figure.querySelector("canvas");
    this.pen = this.canvas.getContext("2d");
    this.layers = {};
    this.facts = null;
    this.tool = "window";
    this.opacity = 0.3;
    this.dim = false;
    this.shares = null;
    this.measured = null;
    this.pointers = new Map();
    this.reset();
    new ResizeObserver(() => this.resize()).observe(this.canvas);
    this.listen();
  }

  get native() { return this.facts?.native ?? null; }

  async load() {
    if (this.loading) return;
    this.loading = true;
    try {
      const answer = await fetch(`${this.figure.dataset.view}/view`);
      if (!answer.ok) { this.showMessage("The image cannot be shown. Load the page again."); return; }
      const facts = await answer.json(), key = JSON.stringify(facts);
      if (key === this.key) return;
      const layers = {};
      for (const name of ["base", "crops"]) {
        if (!facts[name]) continue;
        const got = await fetch(`${this.figure.dataset.view}/samples/${name}`);
        if (!got.ok) return; // it has just changed; the next event loads it
        const bytes = await got.arrayBuffer(), frame = facts[name];
        const area = frame.rectangles.length ? frame.rectangles.reduce((sum, r) => sum + r[2] * r[3], 0) : frame.width * frame.height;
        if (bytes.byteLength !== frame.levels + area * frame.bits / 8) return;
        layers[name] = new Layer(frame, bytes);
      }
      const first = !this.facts || String(this.facts.native) !== String(facts.native);
      Object.assign(this, { facts, layers, key });
      this.repaint();
      if (first) this.fit(); else this.draw();
      this.showSource();
    } finally { this.loading = false; }
  }

  showSource() {
    const { base, crops, trouble } = this.facts;
    const parts = [base?.label, crops && `${crops.label}: exact pixels, in frames`, trouble].filter(Boolean);
    this.showMessage(base || crops ? `${base?.exact ? "Exact: " : "Approximate: "}${parts.join("; ")}` : trouble || "The image has not arrived. The marks show the kept patches.");
    this.figure.dispatchEvent(new CustomEvent("shown", { bubbles: true, detail: { mixed: Boolean(crops), approximate: Boolean(base && !base.exact) } }));
  }

  showMessage(text) { this.figure.querySelector(".source").textContent = text; }

  reset() {
    this.windowed = false; this.inverted = false; this.level = 127.5; this.width = 255; this.measured = null;
    if (this.facts) { this.repaint(); this.fit(); }
  }

  repaint() { for (const layer of Object.values(this.layers)) layer.paint(this); }

  resize() {
    const box = this.canvas.getBoundingClientRect(), density = devicePixelRatio || 1;
    const [w, h] = [Math.round(box.width * density), Math.round(box.height * density)];
    if (!w || !h || (w === this.canvas.width && h === this.canvas.height)) return;
    Object.assign(this.canvas, { width: w, height: h });
    this.fit();
  }

  fit() {
    if (!this.native) { this.draw(); return; }
    const [w, h] = this.native;
    this.scale = Math.min(this.canvas.width / w, this.canvas.height / h);
    this.x = (this.canvas.width - w * this.scale) / 2;
    this.y = (this.canvas.height - h * this.scale) / 2;
    this.draw();
  }

  zoom(factor, at = [this.canvas.width / 2, this.canvas.height / 2]) {
    const scale = Math.min(32, Math.max(0.02, this.scale * factor)), by = scale / this.scale;
    this.x = at[0] - (at[0] - this.x) * by;
    this.y = at[1] - (at[1] - this.y) * by;
    this.scale = scale;
    this.draw();
  }

  // On whole canvas pixels, so that each shows one pixel of the file and nothing in between.
  oneToOne() {
    if (!this.scale) return;
    this.zoom(1 / this.scale);
    this.x = Math.round(this.x);
    this.y = Math.round(this.y);
  }

  move(dx, dy) { this.x += dx; this.y += dy; this.draw(); }

  setWindow(dw, dl) {
    if (!this.windowed) { this.windowed = true; this.level = 127.5; this.width = 255; }
    this.width = Math.min(2000, Math.max(4, this.width + dw));
    this.level = Math.min(600, Math.max(-400, this.level + dl));
    this.repaint(); this.draw();
  }

  invert() { this.inverted = !this.inverted; this.repaint(); this.draw(); }

  draw() {
    if (this.drawn) return;
    this.drawn = requestAnimationFrame(() => { this.drawn = 0; this.paint(); });
  }

  paint() {
    const { pen, canvas } = this;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.fillStyle = "#050607";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    if (!this.native) return;
    const [w, h] = this.native;
    pen.setTransform(this.scale, 0, 0, this.scale, this.x, this.y);
    const { base, crops } = this.layers;
    if (base) this.put(base.pieces[0], 0, 0, w, h, base.facts.exact); else this.stripes(w, h);
    for (const piece of crops?.pieces ?? []) this.put(piece, piece.x, piece.y, piece.w, piece.h, true);
    this.attention(w, h);
    const line = (devicePixelRatio || 1) / this.scale;
    // The edge of an exact part is always drawn, whatever is switched off.
    for (const piece of crops?.pieces ?? []) this.frame(piece.x, piece.y, piece.w, piece.h, EXACT, 1.5 * line);
    this.ruler(line);
    this.marks(w, h, line);
    this.read();
  }

  // Which side of the patient each edge shows, where the header states it.
  marks(w, h, line) {
    const { pen, facts } = this;
    if (!facts.sides) return;
    const { left, right, top, bottom } = facts.sides, gap = 16 * line;
    // The caption covers the lower end of the canvas: the letter stands above it.
    const caption = this.figure.querySelector("figcaption").offsetHeight * (devicePixelRatio || 1);
    const low = Math.max(h / 2, Math.min(h - gap, (this.canvas.height - caption - this.y) / this.scale));
    pen.save();
    pen.font = `bold ${20 * line}px system-ui, sans-serif`; pen.textAlign = "center"; pen.textBaseline = "middle";
    pen.fillStyle = "#ffffff"; pen.strokeStyle = "rgb(0 0 0 / 80%)"; pen.lineWidth = 4 * line;
    for (const [word, x, y] of [[left, gap, h / 2], [right, w - gap, h / 2], [top, w / 2, gap], [bottom, w / 2, low]]) {
      pen.strokeText(word, x, y); pen.fillText(word, x, y);
    }
    pen.restore();
  }

  put(piece, x, y, w, h, exact) {
    // Exact pixels stay pixels when they are enlarged; what is approximate is smoothed, so that it shows no false edge.
    this.pen.imageSmoothingEnabled = !(exact && this.scale >= 1);
    this.pen.imageSmoothingQuality = "high";
    this.pen.drawImage(piece.canvas, x, y, w, h);
  }

  stripes(w, h) {
    const step = Math.max(w, h) / 32;
    this.pen.save();
    this.pen.beginPath(); this.pen.rect(0, 0, w, h); this.pen.clip();
    this.pen.fillStyle = "#101417"; this.pen.fillRect(0, 0, w, h);
    this.pen.strokeStyle = "#23292e"; this.pen.lineWidth = step / 2;
    this.pen.beginPath();
    for (let at = -h; at < w; at += step) { this.pen.moveTo(at, h); this.pen.lineTo(at + h, 0); }
    this.pen.stroke(); this.pen.restore();
  }

  attention(w, h) {
    const { pen, facts } = this;
    if (this.dim) {
      pen.fillStyle = "rgb(0 0 0 / 62%)";
      pen.beginPath(); pen.rect(0, 0, w, h);
      for (const { box: [x, y, pw, ph] } of facts.patches) pen.rect(x, y, pw, ph);
      pen.fill("evenodd");
    }
    const most = this.shares ? Math.max(...this.shares, 1e-6) : 1;
    facts.patches.forEach(({ box: [x, y, pw, ph], heat }, node) => {
      const share = this.shares ? this.shares[node] / most : 1;
      const alpha = this.shares ? 0.75 * share : this.opacity;
      if (alpha <= 0.01) return;
      pen.globalAlpha = alpha;
      pen.fillStyle = HEAT[this.shares ? Math.min(7, Math.floor(8 * share)) : heat];
      pen.fillRect(x, y, pw, ph);
      pen.globalAlpha = 1;
    });
  }

  frame(x, y, w, h, colour, line) {
    this.pen.strokeStyle = colour; this.pen.lineWidth = line;
    this.pen.strokeRect(x - line / 2, y - line / 2, w + line, h + line);
  }

  ruler(line) {
    if (!this.measured) return;
    const { pen } = this, [[ax, ay], [bx, by]] = this.measured;
    pen.strokeStyle = "#ffd45f"; pen.lineWidth = 2 * line;
    pen.beginPath(); pen.moveTo(ax, ay); pen.lineTo(bx, by); pen.stroke();
    pen.fillStyle = "#ffd45f"; pen.strokeStyle = "rgb(0 0 0 / 80%)"; pen.lineWidth = 3 * line;
    pen.font = `${14 * line}px system-ui, sans-serif`;
    const words = this.length();
    const [x, y] = [(ax + bx) / 2 + 8 * line, (ay + by) / 2 - 8 * line];
    pen.strokeText(words, x, y); pen.fillText(words, x, y);
  }

  length() {
    const [[ax, ay], [bx, by]] = this.measured, [dx, dy] = [bx - ax, by - ay], { spacing, spacing_kind } = this.facts;
    if (!spacing) return `${Math.hypot(dx, dy).toFixed(0)} px (spacing not known)`;
    const mm = Math.hypot(dx * spacing[1], dy * spacing[0]);
    return `${mm.toFixed(1)} mm${WHERE[spacing_kind]}`;
  }

  read() {
    const zoom = Math.round(100 * this.scale / (devicePixelRatio || 1));
    const grey = this.windowed ? `W ${Math.round(this.width)} L ${Math.round(this.level)}` : "window as preset";
    this.figure.querySelector(".reading").textContent = `${grey} · ${zoom} %${this.measured ? ` · ${this.length()}` : ""}`;
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect(), density = this.canvas.width / box.width;
    return [(event.clientX - box.left) * density, (event.clientY - box.top) * density];
  }

  toNative([x, y]) { return [(x - this.x) / this.scale, (y - this.y) / this.scale]; }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (this.native) this.zoom(Math.exp(-event.deltaY / 500), this.place(event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      if (!this.native) return;
      canvas.setPointerCapture(event.pointerId);
      const at = this.place(event);
      this.pointers.set(event.pointerId, at);
      if (this.acts(event) === "measure") this.measured = [this.toNative(at), this.toNative(at)];
    });
    canvas.addEventListener("pointermove", (event) => this.drag(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] }[event.key];
      if (by && this.native) { event.preventDefault(); event.stopPropagation(); this.move(...by); }
    });
  }

  // The middle button moves and the right one zooms, as in most viewers.
  acts(event) { return event.buttons === 4 ? "pan" : event.buttons === 2 ? "zoom" : this.tool; }

  drag(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const at = this.place(event), [dx, dy] = [at[0] - before[0], at[1] - before[1]];
    if (this.pointers.size === 2) { // two fingers zoom and move
      const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      const apart = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
      this.zoom(apart(at, other) / Math.max(1, apart(before, other)), other);
    } else {
      switch (this.acts(event)) {
        case "pan": this.move(dx, dy); break;
        case "zoom": this.zoom(Math.exp(-dy / 200)); break;
        case "measure": this.measured[1] = this.toNative(at); this.draw(); break;
        default: this.setWindow(dx * 0.8, dy * 0.5);
      }
    }
    this.pointers.set(event.pointerId, at);
  }
}
