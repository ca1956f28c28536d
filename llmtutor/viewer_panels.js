// What stands beside the map of the explorer: figures to take away, what needs the model, other explanations, images.
// Part of one module, see viewer.js.

// ---- Figures to take away ----------------------------------------------------------------------------------------

// Draws like the context of a canvas, as far as the explorer uses one, and writes SVG. Text stays text.
export class SvgPen {
  constructor(width, height, attributes) {
    this.open = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" ${attributes}>`;
    this.parts = [];
    this.clips = 0;
    this.states = [];
    Object.assign(this, { matrix: [1, 0, 0, 1, 0, 0], clipId: "", globalAlpha: 1, lineWidth: 1, fillStyle: "black", strokeStyle: "black",
      font: "14px sans-serif" });
  }

  save() { this.states.push({ matrix: [...this.matrix], clipId: this.clipId }); }
  restore() { Object.assign(this, this.states.pop()); }
  translate(x, y) { this.transform(1, 0, 0, 1, x, y); }
  scale(x, y) { this.transform(x, 0, 0, y, 0, 0); }
  rotate(angle) { this.transform(Math.cos(angle), Math.sin(angle), -Math.sin(angle), Math.cos(angle), 0, 0); }
  transform(a, b, c, d, e, f) {
    const [A, B, C, D, E, F] = this.matrix;
    this.matrix = [A * a + C * b, B * a + D * b, A * c + C * d, B * c + D * d, A * e + C * f + E, B * e + D * f + F];
  }

  write(tag, attributes, text) {
    const short = (value) => (typeof value === "number" ? String(Math.round(value * 1000) / 1000) : escaped(value));
    const all = { ...attributes };
    if (this.matrix.some((value, i) => value !== [1, 0, 0, 1, 0, 0][i])) all.transform = `matrix(${this.matrix.map(short).join(" ")})`;
    if (this.clipId) all["clip-path"] = `url(#${this.clipId})`;
    const words = Object.entries(all).map(([name, value]) => `${name}="${short(value)}"`).join(" ");
    this.parts.push(text === undefined ? `<${tag} ${words}/>` : `<${tag} ${words}>${escaped(text)}</${tag}>`);
  }

  clearRect() {}
  fillRect(x, y, width, height) { this.write("rect", { x, y, width, height, fill: this.fillStyle }); }
  strokeRect(x, y, width, height) {
    this.write("rect", { x, y, width, height, fill: "none", stroke: this.strokeStyle, "stroke-width": this.lineWidth });
  }
  beginPath() { this.path = []; }
  moveTo(x, y) { this.path.push(`M${x.toFixed(2)} ${y.toFixed(2)}`); }
  lineTo(x, y) { this.path.push(`L${x.toFixed(2)} ${y.toFixed(2)}`); }
  bezierCurveTo(...points) { this.path.push(`C${points.map((value) => value.toFixed(2)).join(" ")}`); }
  stroke() {
    this.write("path", { d: this.path.join(""), fill: "none", stroke: this.strokeStyle, "stroke-width": this.lineWidth,
      "stroke-opacity": this.globalAlpha });
  }
  rect(x, y, width, height) { this.box = { x, y, width, height }; }
  clip() { // of a rectangle
    const id = `clip${(this.clips += 1)}`;
    const { x, y, width, height } = this.box;
    this.parts.push(`<clipPath id="${id}"><rect x="${x}" y="${y}" width="${width}" height="${height}"/></clipPath>`);
    this.clipId = id;
  }

  fillText(text, x, y) {
    const [, style = "", size, family] = this.font.match(/^(\d+ )?([\d.]+)px (.*)$/);
    const dy = this.textBaseline === "middle" ? 0.35 * size : 0;
    const anchor = { left: "start", center: "middle", right: "end" }[this.textAlign] || "start";
    this.write("text", { x, y, dy, fill: this.fillStyle, "font-size": Number(size), "font-family": family,
      ...(style ? { "font-weight": style.trim() } : {}), "text-anchor": anchor }, text);
  }

  // A picture of one pixel a cell, as rectangles: neighbours of one colour are one. Many cells stay pixels.
  drawImage(canvas, x, y, width, height) {
    const { width: columns, height: rows } = canvas;
    if (columns * rows > 40_000) {
      this.write("image", { x, y, width, height, href: canvas.toDataURL(), preserveAspectRatio: "none", style: "image-rendering: pixelated" });
      return;
    }
    const pixels = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, columns, rows).data.buffer);
    const [w, h_] = [width / columns, height / rows];
    for (let row = 0; row < rows; row++) {
      for (let from = 0, to; from < columns; from = to) {
        const pixel = pixels[row * columns + from];
        for (to = from + 1; to < columns && pixels[row * columns + to] === pixel; to++);
        const rgb = [pixel & 255, (pixel >> 8) & 255, (pixel >> 16) & 255];
        this.write("rect", { x: x + from * w, y: y + row * h_, width: (to - from) * w, height: h_, fill: css(rgb), "shape-rendering": "crispEdges" });
      }
    }
  }

  toString() { return `${this.open}\n${this.parts.join("\n")}\n</svg>\n`; }
}

const escaped = (text) => String(text).replace(/[&<>"]/g, (char) => `&#${char.charCodeAt(0)};`);

// Sizes in the units of the drawing, and what they become: a column of print, 3.5 inches at 300 dots, and a slide.
const FIGURES = {
  paper: { width: 672, ratio: 1050 / 672, attributes: 'width="3.5in"' },
  slide: { width: 1280, height: 720, ratio: 1.5, attributes: 'width="1280"' },
};

// The exact state as a figure with its caption; `paper` and `ink` are those of print, whatever the theme.
export function figureOf(explorer, size, makePen) {
  const { width, height } = FIGURES[size];
  const drawn = Object.assign(Object.create(explorer), {
    theme: "light", colours: rampColours("light", explorer.sheet.signed), paper: PAPERS.light, hover: null, margins: null,
    room: { detail: width - 20 },
  });
  const mode = explorer.state.get("mode");
  const layout = { matrix: () => drawn.layMatrix(), lines: () => drawn.layColumns(), text: () => drawn.layText(width - 20) }[mode]();
  const letters = size === "paper" ? 16 : 20;
  const caption = wrapped(captionOf(explorer), width - 20, letters);
  const below = 16 + caption.length * letters * 1.35;
  const scale = Math.min((width - 20) / layout.width, height ? (height - below - 20) / layout.height : 1.6);
  const whole = height || Math.round(layout.height * scale + below + 10);
  const pen = makePen(width, whole);
  pen.fillStyle = "white";
  pen.fillRect(0, 0, width, whole);
  pen.save();
  pen.translate((width - layout.width * scale) / 2, 10);
  pen.scale(scale, scale);
  ({ matrix: () => { drawn.paintCells(pen); drawn.labelMatrix(pen); drawn.paintCursor(pen); },
    lines: () => { drawn.paintColumns(pen); drawn.paintLines(pen); }, text: () => drawn.paintText(pen, layout) })[mode]();
  pen.restore();
  Object.assign(pen, { fillStyle: PAPERS.light.ink, textAlign: "left", textBaseline: "middle", font: `${letters}px ${FONT}` });
  caption.forEach((line, i) => pen.fillText(line, 10, whole - below + 16 + i * letters * 1.35));
  return pen;
}

// What the figure shows: model and text, layer and head, the pinned token, and all that was left out.
export function captionOf(explorer) {
  const { t, state } = explorer;
  const parts = [explorer.about.title, explorer.headingText()];
  if (state.get(explorer.side) !== null) parts.push(explorer.caption());
  if (explorer.unit !== "tokens") parts.push(t.units[explorer.unit]);
  if (state.get("threshold") > 0) parts.push(t.below(state.get("threshold").toFixed(2)));
  parts.push(explorer.sheet.signed || explorer.hidden.length ? explorer.sinkLine.textContent : t.named(t.shade, t[state.get("shade")]));
  return parts.join(" · ");
}

// Break a text into lines, at spaces where there are any.
function wrapped(text, width, letters) {
  const context = document.createElement("canvas").getContext("2d");
  context.font = `${letters}px ${FONT}`;
  const lines = [""];
  for (const word of text.match(/[\u2e80-\u9fff\uff00-\uffef]|[^\s\u2e80-\u9fff\uff00-\uffef]+\s*|\s+/gu) || []) {
    if (lines.at(-1) && context.measureText(lines.at(-1) + word.trimEnd()).width > width) lines.push("");
    lines[lines.length - 1] += word;
  }
  return lines;
}

// The figure as a file: SVG with text as text, or PNG.
export async function figureFile(explorer, format, size) {
  const { ratio, attributes } = FIGURES[size];
  if (format === "svg") {
    return new Blob([String(figureOf(explorer, size, (width, height) => new SvgPen(width, height, attributes)))], { type: "image/svg+xml" });
  }
  const canvas = document.createElement("canvas");
  figureOf(explorer, size, (width, height) => {
    Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    return context;
  });
  return new Promise((done) => { canvas.toBlob(done, "image/png"); });
}

async function saveFigure(explorer, format, size) {
  const url = URL.createObjectURL(await figureFile(explorer, format, size));
  const name = `attention-${explorer.part.name}-L${explorer.state.get("layer")}-H${explorer.state.get("heads").join("-")}-${size}.${format}`;
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

// ---- Other explanations of the same tokens -----------------------------------------------------------------------

// Tabs above the text: attention, and each explanation that Python handed over.
class Explanations {
  constructor(explorer) {
    this.explorer = explorer;
    this.all = explorer.about.explanations || [];
    this.tabs = [null, ...this.all].map((one, number) => h("button", { type: "button", role: "tab", onclick: () => explorer.set({ tab: number }),
      onkeydown: (event) => this.key(event, number) }));
    this.line = h("p", { class: "note" });
    this.box = h("div", { class: "explanations" }, h("div", { class: "buttons", role: "tablist" }, ...this.tabs), this.line);
    this.box.hidden = !this.all.length;
  }

  key(event, number) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    const next = (number + by + this.tabs.length) % this.tabs.length;
    this.explorer.set({ tab: next });
    this.tabs[next].focus();
  }

  // The scores of the tab that is open, in the unit that is shown: a group has the sum of its tokens. Null for attention.
  scores() {
    const one = this.all[this.explorer.state.get("tab") - 1];
    if (!one) return null;
    const row = Array.isArray(one.scores[0]) ? one.scores[Math.min(this.explorer.layerAt, one.scores.length - 1)] : one.scores;
    const { sheet } = this.explorer;
    if (sheet.signed || row.length < sheet.tokens.length) return null;
    const sums = new Float32Array(sheet.tokens.length);
    row.forEach((score, token) => { sums[groupOf(sheet.first, token)] += score; });
    return sums;
  }

  show() {
    const { t, state } = this.explorer;
    this.tabs.forEach((tab, number) => {
      tab.textContent = number ? t.methodName(this.all[number - 1].method) : t.attention;
      tab.setAttribute("aria-selected", number === state.get("tab"));
      tab.setAttribute("aria-pressed", number === state.get("tab"));
      tab.tabIndex = number === state.get("tab") ? 0 : -1;
    });
    const one = this.all[state.get("tab") - 1];
    const scores = this.scores();
    const top = scores && Math.max(...scores.map(Math.abs)).toPrecision(2);
    const target = one && one.at !== null ? t.targetAt(one.target, one.at) : one?.target;
    this.line.textContent = [...(one && scores ? [t.scoresOf(t.methodName(one.method), target, top)] : []), t.caution].join(t.between);
  }
}

// ---- What the model wrote, token by token ------------------------------------------------------------------------

class Writing {
  constructor(explorer) {
    this.explorer = explorer;
    const button = (by) => h("button", { type: "button", onclick: () => this.go(by) });
    [this.back, this.on] = [button(-1), button(1)];
    this.line = h("span", { class: "written", role: "status" });
    this.box = h("div", { class: "writing" }, this.back, this.on, this.line);
  }

  // The token being written: what the row before it wrote. Null where no step is shown.
  get now() {
    const { sheet, state } = this.explorer;
    return this.step && sheet.prompt && state.get("query") === this.step - 1 ? this.step : null;
  }

  go(by) {
    const { prompt, tokens } = this.explorer.sheet;
    const from = this.now === null ? (by > 0 ? prompt - 1 : tokens.length) : this.now;
    this.step = Math.max(prompt, Math.min(tokens.length - 1, from + by));
    this.explorer.pin("query", this.step - 1);
  }

  show(strips) {
    const { sheet, t } = this.explorer;
    this.box.hidden = !sheet.prompt;
    if (!sheet.prompt) return;
    [this.back.textContent, this.on.textContent] = [t.stepBack, t.stepOn];
    const { now } = this;
    const count = sheet.tokens.length - sheet.prompt;
    this.line.textContent = now === null ? t.wrote(count)
      : t.writes(now - sheet.prompt + 1, count, this.explorer.name("query", now), this.explorer.name("query", now - 1));
    const own = strips.find(({ side }) => side !== "key");
    own.spans.forEach((span, index) => {
      span.classList.toggle("generated", index >= sheet.prompt);
      span.classList.toggle("later", now !== null && index >= now);
    });
  }
}

// ---- Patches of an image -----------------------------------------------------------------------------------------

class Picture {
  constructor(explorer) {
    this.explorer = explorer;
    this.canvas = h("canvas", { class: "vision", "aria-hidden": "true" });
    this.canvas.addEventListener("click", (event) => this.pick(event, (index) => explorer.pin(explorer.side, index)));
    this.canvas.addEventListener("pointermove", (event) => this.pick(event, (index) => explorer.hoverToken("both", index)));
    this.canvas.addEventListener("pointerleave", () => explorer.hovered(null, null));
    this.canvas.hidden = true;
  }

  async read() {
    const { image } = this.explorer.about;
    if (!image || this.pixels) return;
    const bytes = await inflate(this.explorer.packed.subarray(...image.bytes));
    const data = new ImageData(image.width, image.height);
    for (let from = 0, to = 0; from < bytes.length; to += 4) {
      for (let i = 0; i < 3; i++) data.data[to + i] = bytes[from++];
      data.data[to + 3] = 255;
    }
    this.pixels = h("canvas", {});
    Object.assign(this.pixels, { width: image.width, height: image.height });
    this.pixels.getContext("2d").putImageData(data, 0, 0);
  }

  // Where the patches are: rows, columns, how many tokens come before them, and the size of one.
  layout() {
    const { sheet } = this.explorer;
    if (!sheet.grid) return null;
    const [rows, columns] = sheet.grid;
    const side = Math.max(8, Math.floor(Math.min(336 / Math.max(rows, columns), 64)));
    return { rows, columns, side, before: sheet.tokens.length - rows * columns };
  }

  pick(event, act) {
    const { rows, columns, side, before } = this.layout();
    const [row, column] = [Math.floor(event.offsetY / side), Math.floor(event.offsetX / side)];
    if (row >= 0 && column >= 0 && row < rows && column < columns) act(before + row * columns + column);
  }

  // The image, faded where the token that is read looks little: a veil of the page's colour over each patch.
  show() {
    const layout = this.layout();
    this.canvas.hidden = !layout;
    if (!layout) return;
    const { rows, columns, side, before } = layout;
    const { explorer } = this;
    const { active, paper } = explorer;
    const context = sized(this.canvas, columns * side, rows * side);
    if (this.pixels) context.drawImage(this.pixels, 0, 0, columns * side, rows * side);
    const weights = active === null ? null : explorer.rowOf(explorer.side, active);
    for (let patch = 0; patch < rows * columns; patch++) {
      const [x, y] = [(patch % columns) * side, Math.floor(patch / columns) * side];
      const colour = weights ? explorer.shaded(weights[before + patch], before + patch, active) : null;
      if (weights) {
        context.globalAlpha = this.pixels ? 0.62 : 1;
        context.fillStyle = colour ? css(colour) : paper.page;
        context.fillRect(x, y, side, side);
        context.globalAlpha = 1;
      }
      if (before + patch === active) {
        context.strokeStyle = paper.accent;
        context.lineWidth = 3;
        context.strokeRect(x + 1.5, y + 1.5, side - 3, side - 3);
      }
    }
  }
}

// ---- What needs the model ----------------------------------------------------------------------------------------

class Live {
  constructor(explorer) {
    this.explorer = explorer;
    const { live = [] } = explorer.about;
    this.can = explorer.state.ask ? live : [];
    this.typing = h("textarea", { rows: 2, oninput: () => this.typed(), spellcheck: "false" });
    this.typing.value = explorer.about.text || "";
    this.answer = h("p", { class: "note", role: "status" });
    this.typingLabel = h("span");
    this.removeButton = h("button", { type: "button", class: "remove", onclick: () => this.toggle() });
    this.restoreButton = h("button", { type: "button", class: "restore", onclick: () => explorer.set({ ablated: [] }) });
    this.removed = h("span");
    this.predictions = h("table", { class: "predictions" });
    this.stepsTitle = h("summary");
    this.stepsBody = h("div");
    this.steps = h("details", { class: "steps", ontoggle: () => this.showSteps() }, this.stepsTitle, this.stepsBody);
    this.parts = {
      read: h("label", { class: "field typing" }, this.typingLabel, this.typing, this.answer),
      predict: h("div", { class: "field ablation" }, h("div", { class: "range" }, this.removeButton, this.restoreButton, this.removed),
        h("div", { class: "row", tabindex: 0 }, this.predictions)),
      steps: this.steps,
    };
    for (const [name, part] of Object.entries(this.parts)) part.hidden = !this.can.includes(name);
    this.asleep = h("p", { class: "note asleep", hidden: !live.length || Boolean(explorer.state.ask) }); // kept in a notebook, without its kernel
    this.box = h("section", { class: "live" }, ...Object.values(this.parts), this.asleep);
  }

  close() { clearTimeout(this.timer); }

  // The kernel is asked when the reader pauses; a newer text waits until the answer has come.
  typed() {
    clearTimeout(this.timer);
    this.timer = setTimeout(async () => {
      if (this.reading || !this.typing.value.trim() || this.typing.value === this.explorer.about.text) return;
      this.reading = true;
      this.answer.textContent = this.explorer.t.reads;
      try {
        await this.explorer.state.ask("read", { text: this.typing.value });
        this.answer.textContent = "";
      } catch (error) {
        this.answer.textContent = error.message;
      }
      this.reading = false;
    }, 350);
  }

  // The text as the reader has it now, when the explorer is opened again with new maps.
  get focus() {
    const inside = this.explorer.root.getRootNode().activeElement === this.typing;
    return { inside, text: this.typing.value, from: this.typing.selectionStart, to: this.typing.selectionEnd, open: this.steps.open };
  }
  set focus({ inside, text, from, to, open: opened }) {
    this.typing.value = text;
    if (opened) this.steps.open = true;
    if (!inside) return;
    this.typing.focus();
    this.typing.setSelectionRange(from, to);
    this.typed();
  }

  show() {
    const { explorer } = this;
    const { t, state } = explorer;
    this.asleep.textContent = t.asleep;
    if (!this.can.length) return;
    this.typingLabel.textContent = t.typeHere;
    const chosen = state.get("heads").map((head) => [state.get("layer"), head]);
    const gone = state.get("ablated");
    this.without = gone.map(([layer, head]) => `L${layer} H${head}`);
    const all = chosen.every((place) => gone.some((other) => String(other) === String(place)));
    const names = chosen.map(([layer, head]) => `L${layer} H${head}`).join(" ");
    this.removeButton.textContent = all ? t.putBack(names) : t.takeOut(names);
    this.restoreButton.textContent = t.putAllBack;
    this.restoreButton.hidden = !gone.length;
    this.removed.textContent = gone.length ? t.takenOut(this.without.join(", ")) : "";
    this.stepsTitle.textContent = t.stepsTitle;
    this.predict();
    this.showSteps();
  }

  toggle() {
    const { state } = this.explorer;
    const chosen = state.get("heads").map((head) => [state.get("layer"), head]);
    const gone = state.get("ablated");
    const rest = gone.filter((place) => !chosen.some((other) => String(other) === String(place)));
    this.explorer.set({ ablated: rest.length === gone.length - chosen.length ? rest : [...rest, ...chosen] });
  }

  // The last token of what is pinned as a query; else the last of the text.
  get position() {
    const { sheet, state } = this.explorer;
    const query = state.get("query");
    if (query === null) return null;
    return sheet.first ? (sheet.first[query + 1] ?? Infinity) - 1 : query;
  }

  // Ask once for each question, and show the answer unless another question has come meanwhile; in another language or theme show it again.
  async asked(slot, name, details, show) {
    const key = JSON.stringify([name, details]);
    const look = `${this.explorer.state.get("lang")} ${this.explorer.theme}`;
    if (!this.can.includes(name)) return;
    if (this[slot]?.key === key) {
      const { content, look: before } = this[slot];
      this[slot].look = look;
      if (content && before !== look) show(content);
      return;
    }
    const question = (this[slot] = { key, look });
    try {
      question.content = (await this.explorer.state.ask(name, { details })).content;
    } catch (error) {
      question.content = { failed: error.message };
    }
    if (this[slot] === question && !this.explorer.closed) show(question.content);
  }

  predict() {
    const { position } = this;
    const details = { at: Number.isFinite(position) ? position : null, without: this.explorer.state.get("ablated"), part: this.explorer.part.name };
    this.asked("predicted", "predict", details, (answer) => this.showPredictions(answer));
  }

  showPredictions({ rows = [], after = "", filled, failed }) {
    const { t } = this.explorer;
    const removed = this.explorer.state.get("ablated").length > 0;
    const head = (text) => h("th", { scope: "col" }, text);
    const body = rows.map(({ token, before, now }) => {
      const bars = h("td", { class: "bars", "aria-hidden": "true" }, bar(before), ...(removed ? [bar(now, "without")] : []));
      return h("tr", {}, h("th", { scope: "row", dir: "auto" }, `\u2068${token}\u2069`), h("td", {}, probability(before)),
        ...(removed ? [h("td", {}, probability(now)), h("td", {}, change(now - before))] : []), bars);
    });
    const caption = failed || (filled ? t.filledAt : t.nextAfter)(`“\u2068${after}\u2069”`);
    const columns = [head(t.token), head(t.probability), ...(removed ? [head(t.probabilityWithout), head(t.change)] : []), h("td")];
    this.predictions.replaceChildren(h("caption", {}, caption), h("thead", {}, h("tr", {}, ...columns)), h("tbody", {}, ...body));
  }

  showSteps() {
    const { state, part } = this.explorer;
    if (!this.steps.open) return;
    const position = Number.isFinite(this.position) ? this.position : null;
    const details = { part: part.name, layer: state.get("layer"), head: state.get("heads")[0], query: position };
    this.asked("stepped", "steps", details, (answer) => this.writeSteps(answer));
  }

  // q·k -> scale -> mask -> softmax -> values, one row for each key, the vectors as strips of colour.
  writeSteps(answer) {
    const { explorer } = this;
    const { t } = explorer;
    if (answer.failed) {
      this.stepsBody.replaceChildren(h("p", { class: "note" }, answer.failed));
      return;
    }
    const { query, scale, keys, output, layer, head } = answer;
    const colours = rampColours(explorer.theme, true);
    const top = (vectors) => Math.max(1e-9, ...vectors.flat().map(Math.abs));
    const tops = { k: top([query.vector, ...keys.map((key) => key.k)]), v: top([output, ...keys.map((key) => key.v)]) };
    const strip = (vector, largest) => {
      const canvas = h("canvas", { class: "vector", "aria-hidden": "true" });
      const context = sized(canvas, vector.length * 3, 14);
      vector.forEach((value, i) => {
        context.fillStyle = css(colours[colourIndex(value, largest, "linear", true)]);
        context.fillRect(i * 3, 0, 3, 14);
      });
      return canvas;
    };
    const number = (value) => (value === null ? "−∞" : value.toFixed(Math.abs(value) < 10 ? 3 : 1).replace("-", "−"));
    const extra = keys.some((key) => key.bias);
    const columns = [t.key, "k", "q·k", `× ${scale.toPrecision(3)}`, ...(extra ? [t.bias] : []), t.stepMask, "softmax", "v", t.stepValue];
    const cells = (key) => [
      [strip(key.k, tops.k)], [number(key.dot)], [number(key.scaled)], ...(extra ? [[number(key.bias)]] : []), [number(key.masked)],
      [h("span", { class: "weight" }, key.weight.toFixed(3)), bar(key.weight)],
      [strip(key.v, tops.v)], [strip(key.v.map((value) => value * key.weight), tops.v)],
    ];
    const rows = keys.map((key) => h("tr", { class: key.masked === null ? "shut" : "" },
      h("th", { scope: "row", dir: "auto" }, `\u2068${key.token}\u2069`), ...cells(key).map((parts) => h("td", {}, ...parts))));
    const sum = [h("th", { scope: "row", colspan: columns.length - 1 }, t.stepSum), h("td", {}, strip(output, tops.v))];
    this.stepsBody.replaceChildren(
      h("p", { class: "note" }, t.stepsNote(`L${layer} H${head}`, query.token), " q = ", strip(query.vector, tops.k)),
      h("div", { class: "row", tabindex: 0 }, h("table", {}, h("caption", {}, t.stepsCaption),
        h("thead", {}, h("tr", {}, ...columns.map((text) => h("th", { scope: "col" }, text)))),
        h("tbody", {}, ...rows), h("tfoot", {}, h("tr", {}, ...sum)))));
  }
}

const probability = (p) => p.toFixed(p < 0.0995 ? 4 : 3);
const change = (by) => (Math.abs(by) < 5e-5 ? "0.0000" : (by > 0 ? "+" : "−") + probability(Math.abs(by)));

function bar(share, name = "") {
  const element = h("span", { class: `bar ${name}` });
  element.style.width = `${Math.round(80 * Math.min(1, share))}px`;
  return element;
}
