// The attention explorer. Python (viewer.py) hands over tokens and packed weights; everything else happens here.
//
// One module in four files, which viewer.py puts one after the other: viewer_data.js (weights, colours, helpers),
// viewer_words.js (what it says), viewer_panels.js (figures, live model, other explanations) and this one. In a notebook
// anywidget calls `render`; in a saved page the last line of the script calls `openPage`. Nothing is fetched, tokens only
// ever become text, and all elements and styles live in a shadow root, so that neither the page nor a second explorer is
// disturbed. Row = query = the token that looks; column = key = the token looked at.

// ---- The explorer ----------------------------------------------------------------------------------------------

// `state` has get(name), set(changes) and listen(callback), so that a kernel or nobody may stand behind it.
class Explorer {
  // What is shown is one sheet: the maps of one stack (self, encoder, decoder, cross) over one unit (tokens, characters, words).
  constructor(element, about, packed, state) {
    Object.assign(this, { about, packed, state, element });
    this.side = state.get("key") === null ? "query" : "key";
    this.hover = null; // {query, key}, either may be null
    this.opened = new Map(); // sheet -> its maps
    this.undrawn = []; // what has changed while a map was on its way
    this.cleanUps = [];
  }

  async start() {
    const sheet = this.wantedSheet;
    this.use(sheet, await this.mapsOf(sheet));
    this.watchTheme();
    this.build();
    this.fillSheet();
    await this.vision.read();
    this.watchSize();
    this.cleanUps.push(this.state.listen((names) => this.changed(names)));
    this.changed(["lang"]);
    return this;
  }

  close() {
    this.closed = true;
    this.live.close();
    cancelAnimationFrame(this.frame);
    for (const cleanUp of this.cleanUps) cleanUp();
    this.opened.clear();
    this.element.shadowRoot?.replaceChildren();
    this.element.replaceChildren();
  }

  // -- the sheet

  get part() { return this.about.parts.find((part) => part.name === this.state.get("part")) || this.about.parts[0]; }
  get wantedSheet() { return this.part.units[this.state.get("unit")] || this.part.units.tokens; }

  async mapsOf(sheet) {
    if (!this.opened.has(sheet)) this.opened.set(sheet, new Maps(sheet, await inflate(this.packed.subarray(...sheet.bytes))));
    return this.opened.get(sheet);
  }

  use(sheet, maps) {
    Object.assign(this, { sheet, maps, keyTokens: sheet.key_tokens || sheet.tokens, crossed: Boolean(sheet.key_tokens) });
    Object.assign(this, { pooled: null, grid: null, margins: null, hover: null });
  }

  // Other maps: take along the layer, the heads and the pinned token where they have them.
  chooseSheet(part, unit) {
    const units = this.about.parts.find((one) => one.name === part).units;
    const next = units[unit] || units.tokens;
    const { state, sheet } = this;
    const heads = state.get("heads").filter((head) => next.heads.includes(head));
    const pinned = state.get(this.side);
    let pin = { query: next.tokens.length - 1, key: null };
    if (part === state.get("part")) { // the same text, in other units
      const starts = (one) => one[this.side === "query" ? "first" : "key_first"];
      const moved = pinned === null ? null : groupOf(starts(next), firstOf(starts(sheet), pinned));
      pin = { query: null, key: null, [this.side]: moved };
    }
    this.set({ part, unit: units[unit] ? unit : "tokens", layer: next.layers.includes(state.get("layer")) ? state.get("layer") : next.layers[0],
      heads: heads.length ? heads : next.heads.slice(0, 1), ...pin,
      ...(part === state.get("part") ? {} : { ablated: [] }) }); // removed are heads of the stack that is looked at
  }

  async load(sheet) {
    const maps = await this.mapsOf(sheet);
    if (this.closed || sheet !== this.wantedSheet) return;
    this.use(sheet, maps);
    this.fillSheet();
    this.changed(["lang"]);
  }

  // Ask for the map of a head that has not come yet. One at a time: who clicks fast waits for the last one only.
  async fetchMap(layer, head) {
    if (this.fetching) return;
    this.fetching = true;
    this.status.textContent = this.t.fetching;
    const { sheet, maps } = this;
    try {
      const { content, buffers } = await this.state.ask("maps", { part: this.part.name, unit: this.unit, at: [layer, head], causal: maps.causal });
      maps.fill(layer, head, await inflate(bytesOf(buffers[0])), content.nan);
    } catch (error) {
      this.status.textContent = error.message;
      return;
    } finally {
      this.fetching = false;
    }
    if (!this.closed && this.sheet === sheet) this.changed(["layer"]);
  }

  // -- what is shown

  get t() { return WORDS[this.state.get("lang")] || WORDS.en; }
  get unit() { return this.part.units[this.state.get("unit")] ? this.state.get("unit") : "tokens"; }
  get layerAt() { return this.sheet.layers.indexOf(this.state.get("layer")); }
  get headsAt() { return this.state.get("heads").map((head) => this.sheet.heads.indexOf(head)); }
  get hidden() {
    const hide = this.sheet.signed ? "none" : this.state.get("hide"); // the rest of a difference cannot be scaled to 1
    return hide === "first" ? [0] : hide === "special" ? [...new Set([0, ...this.sheet.special])] : [];
  }

  // The names of a head, such as "pronoun", and what a head is called with them.
  namesOf(layer, head) {
    const has = ([, rows]) => rows.some((row) => row[0] === layer && row[1] === head);
    return Object.entries(this.sheet.names).filter(has).map(([kind]) => this.kind(kind));
  }
  kind(name) { return this.t.kinds[name] || name; }

  // The pinned token, or else the one under the pointer: an index on the side that is read.
  get active() {
    const pinned = this.state.get(this.side);
    return pinned !== null ? pinned : this.hover ? this.hover[this.side] : null;
  }

  tokensOf(side) { return side === "query" ? this.sheet.tokens : this.keyTokens; }
  name(side, index, width = 24) { return `“\u2068${shorten(this.tokensOf(side)[index], width)}\u2069” (${index})`; }

  weight(query, key) { return this.current.weights[query * this.maps.nKeys + key]; }

  // The weights of the active token: over keys for a query, over queries for a key.
  rowOf(side, index) {
    const { nQueries, nKeys } = this.maps;
    return side === "query" ? this.current.weights.subarray(index * nKeys, (index + 1) * nKeys)
      : Float32Array.from({ length: nQueries }, (_, query) => this.weight(query, index));
  }

  // How far off the shown weight may be: of the stored bytes, and of the row they were scaled by.
  errorOf(query, key) {
    const heads = this.headsAt;
    const errors = heads.map((head, number) => {
      const own = this.maps.errorAt(this.layerAt, head, query, key);
      const { scale, slack } = this.current.scalings[query * heads.length + number];
      if (!slack) return own * scale;
      const scaled = this.maps.at(this.layerAt, head, query, key) * scale;
      return Math.min(1, (own + scaled * slack) / Math.max(1 / scale - slack, 1e-9));
    });
    return this.state.get("combine") === "max" ? Math.max(...errors) : errors.reduce((a, b) => a + b, 0) / errors.length;
  }

  isMasked(query, key) { return key >= this.maps.rowLength(query); }

  // -- changes

  set(changes) {
    this.state.set(changes);
    this.changed(Object.keys(changes));
  }

  pin(side, index) {
    this.side = side;
    this.set({ [side]: index, [side === "query" ? "key" : "query"]: null });
  }

  unpin() {
    this.hover = null;
    this.set({ query: null, key: null });
  }

  changed(names) {
    const some = (...wanted) => wanted.some((name) => names.includes(name));
    if (this.closed) return;
    if (this.wantedSheet !== this.sheet) {
      this.load(this.wantedSheet);
      return;
    }
    if (this.ratio !== window.devicePixelRatio) { // zoomed, or moved to another screen
      [names, this.grid, this.ratio] = [[...names, "size"], null, window.devicePixelRatio];
    }
    if (this.state.get("query") !== null) this.side = "query";
    if (this.state.get("key") !== null) this.side = "key";
    const missing = this.maps.lacks(this.layerAt, this.headsAt);
    if (missing === undefined && some("layer", "heads", "combine", "hide", "lang")) {
      this.current = this.maps.view(this.layerAt, this.headsAt, this.state.get("combine"), this.hidden, this.current?.weights);
      this.top = largest(this.current.weights) || 1;
    }
    if (some("lang", "theme")) this.colours = rampColours(this.theme, this.sheet.signed);
    if (some("lang")) this.writeLabels();
    this.showControls();
    if (some("shade", "hide", "lang", "theme")) this.paintThumbs();
    if (some("lang", "size", "mode")) this.measure();
    this.drawOverview();
    this.detail.classList.toggle("waiting", missing !== undefined);
    if (missing !== undefined) {
      this.undrawn = [...new Set([...this.undrawn, ...names])];
      this.fetchMap(this.layerAt, missing);
      return;
    }
    [names, this.undrawn] = [[...names, ...this.undrawn], []];
    const anew = some("lang", "theme", "mode", "size");
    if (anew || some("layer", "heads", "combine", "hide", "shade", "threshold")) this.drawDetail(anew);
    this.drawLegend(anew || some("hide", "shade", "threshold"));
    this.drawActive();
  }

  // How wide the drawings may be. Asked for only when it can have changed, as the answer makes the browser lay out the page.
  measure() {
    this.detail.hidden = this.state.get("mode") === "text";
    const overview = (this.overview.parentElement.clientWidth || 300) - 4;
    this.room = { overview: Math.max(160, overview), detail: Math.max(200, this.detail.clientWidth - 20) };
  }

  // What follows the pointer: at most once a frame.
  hovered(query, key) {
    const before = this.hover;
    if (before?.query === query && before?.key === key) return;
    this.hover = query === null && key === null ? null : { query, key };
    this.status.setAttribute("aria-live", "off");
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.drawActive());
  }

  // -- the elements

  build() {
    const root = this.element.shadowRoot || this.element.attachShadow({ mode: "open" });
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(this.about.style);
    root.adoptedStyleSheets = [sheet];
    this.labels = []; // [element, how to write it in the language of the moment]
    const say = (element, write) => (this.labels.push([element, write]), element);
    const choice = (name, values, words) => {
      const select = h("select", { onchange: () => this.set({ [name]: select.value }) });
      for (const [i, value] of values.entries()) select.append(say(h("option", { value }), (t) => t[words[i]]));
      return select;
    };
    const field = (word, ...parts) => h("label", { class: "field" }, say(h("span"), (t) => t[word]), ...parts);
    const group = (word, buttons) => say(h("div", { class: "field", role: "group" }, say(h("span"), (t) => t[word]),
      h("span", { class: "buttons" }, ...buttons)), (t, element) => element.setAttribute("aria-label", t[word]));
    const { about } = this;

    this.partSelect = h("select", { class: "part", onchange: () => this.chooseSheet(this.partSelect.value, this.state.get("unit")) },
      ...about.parts.map(({ name }) => say(h("option", { value: name }), (t) => t.parts[name])));
    this.unitSelect = h("select", { class: "unit", onchange: () => this.chooseSheet(this.state.get("part"), this.unitSelect.value) });
    this.layerSelect = h("select", { class: "layer", onchange: () => this.set({ layer: Number(this.layerSelect.value) }) });
    this.allOption = say(h("option", { value: "all" }), (t) => t.allHeads);
    this.severalOption = h("option", { value: "several", hidden: true, disabled: true });
    this.headSelect = h("select", { class: "head", onchange: () => this.chooseHeads(this.headSelect.value) });
    this.sortSelect = h("select", { class: "sort", onchange: () => this.fillFound() });
    this.foundSelect = h("select", { class: "found", onchange: () => this.chooseFound(this.foundSelect.value) });
    this.combineSelect = choice("combine", ["mean", "max"], ["mean", "max"]);
    this.shadeSelect = choice("shade", ["sqrt", "linear"], ["sqrt", "linear"]);
    this.hideSelect = choice("hide", ["none", "first", "special"], ["hideNone", "hideFirst", "hideSpecial"]);
    this.threshold = h("input", { type: "range", min: 0, max: 0.5, step: 0.01,
      oninput: () => this.set({ threshold: Number(this.threshold.value) }) });
    this.thresholdValue = h("output");
    this.modeButtons = ["matrix", "lines", "text"].map((mode) => say(h("button", { type: "button", "data-mode": mode,
      onclick: () => this.set({ mode }) }), (t) => t[mode]));
    this.sideButtons = ["query", "key"].map((side) => say(h("button", { type: "button", "data-side": side,
      onclick: () => this.readFrom(side) }), (t) => t.bySide[side]));
    this.unpinButton = say(h("button", { type: "button", class: "unpin", onclick: () => this.unpin() }), (t) => t.unpin);

    const thumbs = (this.overview = h("canvas", { tabindex: 0, role: "application", class: "overview",
      onclick: (event) => this.clickOverview(event), onkeydown: (event) => this.keyOverview(event) }));
    this.stripBox = h("div", { class: "strips" });
    this.explanations = new Explanations(this);
    this.writing = new Writing(this);
    this.vision = new Picture(this);
    this.live = new Live(this);
    const formats = ["png paper", "png slide", "svg paper", "svg slide"];
    this.formatSelect = h("select", { class: "format" }, ...formats.map((value, i) => say(h("option", { value }), (t) => t.formats[i])));
    this.saveButton = say(h("button", { type: "button", class: "save",
      onclick: () => saveFigure(this, ...this.formatSelect.value.split(" ")) }), (t) => t.save);
    this.base = h("canvas", { class: "base", "aria-hidden": "true" });
    this.overlay = h("canvas", { class: "overlay", "aria-hidden": "true" });
    this.detail = h("div", { class: "detail", tabindex: 0, role: "application", onkeydown: (event) => this.keyDetail(event) },
      h("div", { class: "stack" }, this.base, this.overlay));
    this.overlay.addEventListener("pointermove", (event) => this.pointDetail(event));
    this.overlay.addEventListener("pointerleave", () => this.hovered(null, null));
    this.overlay.addEventListener("click", (event) => this.clickDetail(event));
    this.status = h("p", { class: "status", role: "status" });
    this.sinkLine = h("p", { class: "sink" });
    this.note = h("p", { class: "note" });
    this.legend = h("canvas", { class: "ramp", "aria-hidden": "true" });
    this.legendTop = h("span");
    this.legendMid = h("span");
    this.legendMarks = h("span", { class: "marks" });
    this.tableHeads = ["rank", "token", "weight"].map(() => h("th", { scope: "col" }));
    this.table = h("table", {}, (this.tableCaption = h("caption")), h("thead", {}, h("tr", {}, ...this.tableHeads, h("td"))),
      (this.tableBody = h("tbody")));
    this.tableRows = []; // made once, written again for each row of the map
    this.heading = h("h2");

    this.root = h("div", { class: "explorer", "data-lm-suppress-shortcuts": "true",
      onkeydown: (event) => { if (event.key === "Escape") { this.unpin(); event.preventDefault(); } event.stopPropagation(); } },
      h("header", {}, h("h1", {}, about.title),
        h("div", { class: "controls" }, (this.partField = field("part", this.partSelect)), (this.unitField = field("unit", this.unitSelect)),
          field("layer", this.layerSelect), field("heads", this.headSelect),
          group("find", [this.sortSelect, this.foundSelect]), (this.combineField = field("combine", this.combineSelect)),
          group("view", this.modeButtons), group("read", this.sideButtons), field("shade", this.shadeSelect),
          field("threshold", h("span", { class: "range" }, this.threshold, this.thresholdValue)), (this.hideField = field("sink", this.hideSelect)),
          group("figure", [this.formatSelect, this.saveButton])), ...(this.live.can.includes("read") ? [this.live.parts.read] : [])),
      h("div", { class: "columns" },
        h("section", { class: "left" }, say(h("h2"), (t) => t.overview), h("div", { class: "scroll" }, thumbs),
          say(h("p", { class: "small" }), (t) => (this.sheet.signed ? t.overviewSigned : t.overviewHelp))),
        h("section", { class: "right" }, h("div", { class: "heading" }, this.heading, this.unpinButton),
          this.explanations.box, this.writing.box, this.vision.canvas, this.stripBox,
          this.status, this.detail, this.note,
          h("div", { class: "legend" }, (this.legendLow = h("span")), this.legend, this.legendTop, this.legendMid, this.legendMarks),
          this.sinkLine),
        h("section", { class: "below" }, h("div", { class: "row", tabindex: 0 }, this.table),
          say(h("p", { class: "small" }), (t) => t.bound(this.sheet.signed ? "0.008" : "0.004")
            + (this.sheet.lazy ? ` ${t.lazy(this.sheet.megabytes.toFixed(0))}` : ""))),
        ...(about.live?.length ? [this.live.box] : [])));
    root.replaceChildren(this.root);
  }

  // What depends on the sheet: its layers, heads, ways to find a head, and the text.
  fillSheet() {
    const { sheet, part } = this;
    const option = (value, text) => h("option", { value }, text);
    this.layerSelect.replaceChildren(...sheet.layers.map((layer) => option(layer, String(layer))));
    this.headSelect.replaceChildren(...sheet.heads.map((head) => option(head, String(head))), this.allOption, this.severalOption);
    this.partField.hidden = this.about.parts.length === 1;
    this.unitField.hidden = Object.keys(part.units).length === 1;
    this.hideField.hidden = sheet.signed;
    this.hideSelect.lastChild.hidden = !sheet.special.some((key) => key > 0);
    this.strips = (this.crossed ? ["query", "key"] : ["both"]).map((side) => this.buildStrip(side));
    this.stripBox.classList.toggle("words", this.unit === "words");
    this.stripBox.classList.toggle("patches", Boolean(sheet.grid));
    this.stripBox.replaceChildren(...this.strips.map((strip) => strip.box));
  }

  // -- finding a head

  // All heads as {layer, head, value}, in the order that is chosen: by number, by what was measured, or those of one kind.
  found() {
    const { sheet } = this;
    const by = this.sortSelect.value || "number";
    if (by.startsWith("kind:")) {
      return sheet.names[by.slice(5)].map(([layer, head, value]) => ({ layer, head, value })).sort((a, b) => (b.value ?? 0) - (a.value ?? 0));
    }
    const measured = { entropy: sheet.entropy, size: sheet.entropy, sink: sheet.sink }[by];
    const all = sheet.layers.flatMap((layer, row) => sheet.heads.map((head, column) => ({ layer, head, value: measured?.[row][column] ?? null })));
    if (by === "entropy") all.sort((a, b) => a.value - b.value);
    else if (measured) all.sort((a, b) => b.value - a.value);
    return all;
  }

  fillSorts() {
    const { sheet, t } = this;
    const kept = this.sortSelect.value;
    const sorts = [["number", t.byNumber], ...(sheet.signed ? [["size", t.bySize]] : [["entropy", t.byEntropy], ["sink", t.bySink]]),
      ...Object.keys(sheet.names).map((kind) => [`kind:${kind}`, this.kind(kind)])];
    this.sortSelect.replaceChildren(...sorts.map(([value, text]) => h("option", { value }, text)));
    this.sortSelect.value = sorts.some(([value]) => value === kept) ? kept : "number";
    this.fillFound();
  }

  fillFound() {
    this.sortSelect.setAttribute("aria-label", this.t.sortBy);
    this.foundSelect.setAttribute("aria-label", this.t.find);
    const percents = this.sortSelect.value === "sink";
    this.foundSelect.replaceChildren(h("option", { value: "", hidden: true }, "–"), ...this.found().map(({ layer, head, value }) => {
      const named = this.sortSelect.value.startsWith("kind:") ? [] : this.namesOf(layer, head);
      const shown = value === null ? "" : ` · ${percents ? percent(value) : value.toFixed(2)}`;
      return h("option", { value: `${layer},${head}` }, `L${layer} H${head}${shown}${named.length ? ` · ${named.join(", ")}` : ""}`);
    }));
    this.showFound();
  }

  showFound() {
    const [layer, heads] = [this.state.get("layer"), this.state.get("heads")];
    this.foundSelect.value = heads.length === 1 ? `${layer},${heads[0]}` : "";
    if (this.foundSelect.selectedIndex < 0) this.foundSelect.value = "";
  }

  chooseFound(place) {
    const [layer, head] = place.split(",").map(Number);
    this.set({ layer, heads: [head] });
  }

  chooseHeads(value) {
    this.set({ heads: value === "all" ? [...this.sheet.heads] : [Number(value)] });
  }

  // The text itself: every token can be pinned, and is coloured by its weight.
  buildStrip(side) {
    const tokens = this.tokensOf(side === "key" ? "key" : "query");
    const box = h("div", { class: "strip", tabindex: 0, role: "listbox", onkeydown: (event) => this.keyStrip(event, side) });
    const name = h("span", { class: "side" });
    const spans = tokens.map((token, index) => {
      const span = h("span", { class: "token", role: "option", id: `token-${side}-${index}`, dir: "auto", "aria-selected": "false",
        onclick: () => this.pin(side === "both" ? this.side : side, index),
        onpointerenter: () => this.hoverToken(side, index) }, token);
      return span;
    });
    box.addEventListener("pointerleave", () => this.hovered(null, null));
    box.append(name);
    for (const [index, span] of spans.entries()) box.append(span, ...(tokens[index].endsWith("↵") ? [h("br")] : []));
    return { box, spans, side, name };
  }

  writeLabels() {
    const { t } = this;
    this.root.lang = this.state.get("lang") === "zh" ? "zh-CN" : "en";
    for (const [element, write] of this.labels) {
      const words = write(t, element);
      if (typeof words === "string") element.textContent = words;
    }
    this.overview.setAttribute("aria-label", t.overviewKeys);
    this.unitSelect.replaceChildren(...Object.keys(this.part.units).map((unit) => h("option", { value: unit }, t.units[unit])));
    this.fillSorts();
  }

  showControls() {
    const { state, t, sheet } = this;
    const heads = state.get("heads");
    const all = heads.length === sheet.heads.length && heads.length > 1;
    this.partSelect.value = this.part.name;
    this.unitSelect.value = this.unit;
    this.showFound();
    this.layerSelect.value = state.get("layer");
    this.severalOption.hidden = all || heads.length === 1;
    this.severalOption.textContent = heads.join(" + ");
    this.headSelect.value = all ? "all" : heads.length > 1 ? "several" : heads[0];
    this.combineField.hidden = heads.length === 1;
    this.combineSelect.value = state.get("combine");
    this.shadeSelect.value = state.get("shade");
    this.hideSelect.value = state.get("hide");
    this.threshold.value = state.get("threshold");
    this.thresholdValue.textContent = state.get("threshold").toFixed(2);
    for (const button of this.modeButtons) button.setAttribute("aria-pressed", button.dataset.mode === state.get("mode"));
    for (const button of this.sideButtons) button.setAttribute("aria-pressed", button.dataset.side === this.side);
    this.heading.textContent = this.headingText();
    this.detail.setAttribute("aria-label", `${this.heading.textContent}. ${state.get("mode") === "lines" ? t.linesKeys : t.detailKeys} ${t.axes}`);
    for (const { box, side, name } of this.strips) {
      box.setAttribute("aria-label", t.stripKeys(side === "both" ? this.side : side));
      name.textContent = side === "both" ? "" : side === "query" ? t.queryLooks : t.keyLooked;
    }
  }

  // Which heads are shown, of which stack, and what they are called.
  headingText() {
    const { state, t } = this;
    const heads = state.get("heads");
    const named = heads.length === 1 ? this.namesOf(state.get("layer"), heads[0]) : [];
    const several = heads.length > 1 ? t.inBrackets(t[state.get("combine")]) : "";
    const stack = this.about.parts.length > 1 ? `${t.parts[this.part.name]} · ` : "";
    return `${stack}L${state.get("layer")} ${heads.map((head) => `H${head}`).join(" ")}${several}${named.length ? ` · ${named.join(", ")}` : ""}`;
  }

  // Read rows or columns; a pinned token of a text that looks at itself stays pinned on the other side.
  readFrom(side) {
    const pinned = this.state.get(this.side);
    if (side === this.side) return;
    this.side = side;
    if (pinned === null) this.changed(["side"]);
    else this.pin(side, this.crossed ? 0 : pinned);
  }

  // -- overview

  paintThumbs() {
    const { maps, hidden } = this;
    const key = hidden.join();
    if (this.pooled?.key !== key) {
      const all = Array.from({ length: maps.nLayers * maps.nHeads }, (_, i) => (
        maps.small(Math.floor(i / maps.nHeads), i % maps.nHeads, 48, hidden)));
      this.pooled = { key, all };
    }
    this.thumbs = this.pooled.all.map(({ small, rows, columns }) => (
      this.picture(rows, columns, small, 1, 0, (row) => { // a cell is masked when all weights in it are
        const length = maps.rowLength(Math.ceil(((row + 1) * maps.nQueries) / rows) - 1);
        return Math.ceil((length * columns) / maps.nKeys);
      }).canvas));
    this.grid = null;
    const { signed, entropy, sink } = this.sheet; // the bars: of a difference its mean size, 2 at most
    this.shares = signed ? entropy.flat().map((size) => size / 2) : sink.flat();
  }

  cellColour(weight) {
    if (Number.isNaN(weight)) return NAN;
    return this.colours[colourIndex(weight, this.top, this.state.get("shade"), this.sheet.signed)];
  }

  // A small canvas with one pixel for each cell, an earlier one's where it fits. Weights below the threshold get the colour of 0.
  picture(rows, columns, weights, top, threshold, masked, earlier = null) {
    const fits = earlier?.image.width === columns && earlier.image.height === rows;
    const { canvas, image } = fits ? earlier : { canvas: document.createElement("canvas"), image: new ImageData(columns, rows) };
    const pixels = new Uint32Array(image.data.buffer);
    const pack = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    const colours = Uint32Array.from(this.colours, pack);
    const [nan, mask] = [pack(NAN), pack(MASKED[this.theme])];
    const { signed } = this.sheet;
    const zero = colours[signed ? 128 : 0];
    const indexOf = colourScale(top, this.state.get("shade"), signed);
    for (let row = 0; row < rows; row++) {
      const from = row * columns + Math.max(0, Math.min(columns, masked(row)));
      pixels.fill(mask, from, (row + 1) * columns);
      for (let at = row * columns; at < from; at++) {
        const weight = weights[at];
        if (weight < threshold && -weight < threshold) pixels[at] = zero;
        else pixels[at] = weight === weight ? colours[indexOf(weight)] : nan;
      }
    }
    if (!fits) Object.assign(canvas, { width: columns, height: rows });
    canvas.getContext("2d").putImageData(image, 0, 0);
    return { canvas, image };
  }

  drawOverview() {
    const { maps } = this;
    const room = this.room.overview;
    if (this.grid?.room !== room) {
      const [left, top, gap] = [26, 18, 6];
      const side = Math.max(16, Math.min(72, Math.floor((room - left) / maps.nHeads) - gap));
      const step = { x: side + gap, y: side + gap + 4 };
      this.grid = { room, left, top, side, step, width: left + maps.nHeads * step.x, height: top + maps.nLayers * step.y + 2 };
      this.grid.plain = document.createElement("canvas"); // without the frames that show what is chosen
      this.drawGrid(sized(this.grid.plain, this.grid.width, this.grid.height));
      sized(this.overview, this.grid.width, this.grid.height);
    }
    const { left, top, side, step, width, height, plain } = this.grid;
    const context = this.overview.getContext("2d");
    context.clearRect(0, 0, width, height);
    context.drawImage(plain, 0, 0, width, height);
    context.strokeStyle = this.paper.accent;
    context.lineWidth = 3;
    for (const head of this.headsAt) context.strokeRect(left + head * step.x - 2, top + this.layerAt * step.y - 2, side + 4, side + 8);
  }

  drawGrid(context) {
    const { maps, sheet } = this;
    const { left, top, side, step } = this.grid;
    const style = this.paper;
    context.imageSmoothingEnabled = false;
    context.font = `11px ${FONT}`;
    context.textBaseline = "middle";
    context.fillStyle = style.ink;
    context.textAlign = "right";
    sheet.layers.forEach((layer, row) => context.fillText(`L${layer}`, left - 5, top + row * step.y + side / 2));
    context.textAlign = "center";
    const every = side < 20 ? 2 : 1;
    sheet.heads.forEach((head, column) => column % every || context.fillText(`H${head}`, left + column * step.x + side / 2, 8));
    this.thumbs.forEach((thumb, i) => {
      const [x, y] = [left + (i % maps.nHeads) * step.x, top + Math.floor(i / maps.nHeads) * step.y];
      context.drawImage(thumb, x, y, side, side);
      context.strokeStyle = style.line;
      context.lineWidth = 1;
      context.strokeRect(x - 0.5, y - 0.5, side + 1, side + 1);
      context.fillStyle = style.line;
      context.fillRect(x, y + side + 2, side, 3);
      context.fillStyle = style.bar;
      context.fillRect(x, y + side + 2, side * Math.min(1, this.shares[i]), 3);
    });
  }

  clickOverview(event) {
    const { left, top, step } = this.grid;
    const column = Math.floor((event.offsetX - left) / step.x);
    const row = Math.floor((event.offsetY - top) / step.y);
    const { layers, heads } = this.sheet;
    if (column < 0 || row < 0 || column >= heads.length || row >= layers.length) return;
    const chosen = this.state.get("heads");
    if (!(event.shiftKey || event.ctrlKey || event.metaKey) || layers[row] !== this.state.get("layer")) {
      this.set({ layer: layers[row], heads: [heads[column]] });
    } else if (!chosen.includes(heads[column])) {
      this.set({ heads: [...chosen, heads[column]] });
    } else if (chosen.length > 1) {
      this.set({ heads: chosen.filter((head) => head !== heads[column]) });
    }
  }

  keyOverview(event) {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!move) return;
    event.preventDefault();
    const { layers, heads } = this.sheet;
    const clamp = (value, list) => list[Math.max(0, Math.min(list.length - 1, value))];
    const head = clamp(this.headsAt.at(-1) + move[1], heads);
    const chosen = this.state.get("heads");
    if (event.shiftKey && move[1]) {
      this.set({ heads: [...chosen.filter((other) => other !== head), head] });
    } else {
      this.set({ layer: clamp(this.layerAt + move[0], layers), heads: move[1] ? [head] : chosen });
    }
    this.speak();
  }

  // -- detail

  // `anew`: not only the weights are others.
  drawDetail(anew) {
    const mode = this.state.get("mode");
    this.note.textContent = mode === "matrix" ? this.t.axes : "";
    if (mode === "matrix") this.drawMatrix(anew);
    if (mode === "lines") this.drawColumns();
  }

  // The labels stay when only the weights are others: they take longer to draw than all cells.
  drawMatrix(anew) {
    if (anew) {
      const { width, height } = this.layMatrix();
      this.labelMatrix(sized(this.base, width, height));
      sized(this.overlay, width, height);
    }
    this.paintCells(this.base.getContext("2d"));
  }

  // Where everything goes; the drawing itself works on a canvas as on an SVG.
  layMatrix() {
    const { nQueries, nKeys } = this.maps;
    this.margins ??= [this.sheet.tokens, this.keyTokens].map(widest);
    const [left, top] = this.margins;
    const fitting = Math.floor((this.room.detail - left) / nKeys);
    const cell = Math.max(2, Math.min(44, fitting, Math.floor(900 / nQueries)));
    this.geometry = { left, top, cell, width: left + nKeys * cell + 2, height: top + nQueries * cell + 2 };
    return this.geometry;
  }

  // All cells and the frame around them: what was drawn there before is covered.
  paintCells(context) {
    const { maps } = this;
    const { nQueries, nKeys } = maps;
    const { left, top, cell } = this.geometry;
    const threshold = this.state.get("threshold");
    this.cells = this.picture(nQueries, nKeys, this.current.weights, this.top, threshold, (query) => maps.rowLength(query), this.cells);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.cells.canvas, left, top, nKeys * cell, nQueries * cell);
    context.strokeStyle = this.paper.line;
    context.lineWidth = 1;
    context.strokeRect(left - 0.5, top - 0.5, nKeys * cell + 1, nQueries * cell + 1);
    if (cell >= 28) this.numberCells(context, left, top, cell, threshold);
    for (const key of this.hidden) this.hatch(context, left + key * cell, top, cell, nQueries * cell);
    if (maps.nan && cell >= 6) this.crossNaN(context, left, top, cell);
  }

  labelMatrix(context) {
    const { left, top, cell } = this.geometry;
    const size = Math.max(11, Math.min(14, cell - 2));
    const every = Math.ceil((size + 2) / cell);
    context.font = `${size}px ${FONT}`;
    context.fillStyle = this.paper.ink;
    context.textBaseline = "middle";
    context.textAlign = "right";
    this.sheet.tokens.forEach((token, query) => {
      if (query % every === 0) context.fillText(`\u2068${shorten(token, 14)}\u2069`, left - 5, top + (query + 0.5) * cell, left - 6);
    });
    this.keyTokens.forEach((token, key) => {
      if (key % every) return;
      context.save();
      context.translate(left + (key + 0.5) * cell, top - 5);
      context.rotate(-Math.PI / 2);
      context.textAlign = "left";
      context.fillText(`\u2068${shorten(token, 14)}\u2069`, 0, 0, top - 6);
      context.restore();
    });
  }

  numberCells(context, left, top, cell, threshold) {
    Object.assign(context, { font: `${cell >= 36 ? 13 : 11}px ${FONT}`, textAlign: "center", textBaseline: "middle" });
    for (let query = 0; query < this.maps.nQueries; query++) {
      for (let key = 0; key < this.maps.rowLength(query); key++) {
        const weight = this.weight(query, key);
        if (!(Math.abs(weight) >= Math.max(0.005, threshold))) continue;
        const dark = isDark(this.cellColour(weight));
        context.fillStyle = dark ? "white" : "black";
        context.fillText(weight.toFixed(2).replace(/^(-?)0/, "$1"), left + (key + 0.5) * cell, top + (query + 0.5) * cell);
      }
    }
  }

  // What is hidden is not small: it is marked.
  hatch(context, x, y, width, height) {
    context.save();
    context.beginPath();
    context.rect(x, y, width, height);
    context.clip();
    context.fillStyle = this.paper.page;
    context.fillRect(x, y, width, height);
    context.strokeStyle = this.paper.line;
    context.lineWidth = 1;
    context.beginPath();
    for (let at = y - width; at < y + height; at += 6) {
      context.moveTo(x, at + width);
      context.lineTo(x + width, at);
    }
    context.stroke();
    context.restore();
  }

  crossNaN(context, left, top, cell) {
    context.strokeStyle = "white";
    context.lineWidth = 1.5;
    this.current.weights.forEach((weight, at) => {
      if (!Number.isNaN(weight)) return;
      const [x, y] = [left + (at % this.maps.nKeys) * cell, top + Math.floor(at / this.maps.nKeys) * cell];
      context.beginPath();
      for (const [from, to] of [[0.25, 0.75], [0.75, 0.25]]) {
        context.moveTo(x + 0.25 * cell, y + from * cell);
        context.lineTo(x + 0.75 * cell, y + to * cell);
      }
      context.stroke();
    });
  }

  drawColumns() {
    const { width, height } = this.layColumns();
    this.paintColumns(sized(this.base, width, height));
    this.note.textContent = this.lines.cut ? this.t.cut(MAX_LINES) : "";
    sized(this.overlay, width, height);
  }

  layColumns() {
    const width = Math.min(680, Math.max(280, this.room.detail));
    const step = 22;
    const side = Math.min(170, width * 0.32);
    this.geometry = { width, step, side, first: 26, height: 26 + Math.max(this.maps.nQueries, this.maps.nKeys) * step };
    this.lines = this.strongest();
    return this.geometry;
  }

  paintColumns(context) {
    const { width, side } = this.geometry;
    context.font = `600 13px ${FONT}`;
    context.fillStyle = this.paper.ink;
    context.textBaseline = "middle";
    context.textAlign = "right";
    context.fillText(this.t.queryLooks, side - 8, 10);
    context.textAlign = "left";
    context.fillText(this.t.keyLooked, width - side + 8, 10);
  }

  // The text as it stands in the figure: lines of tokens, for cross-attention the text that looks and then the one looked at.
  layText(width) {
    const context = document.createElement("canvas").getContext("2d");
    context.font = `18px ${FONT}`;
    const placed = [];
    let y = 4;
    for (const { side } of this.strips) {
      let x = 4;
      for (const [index, token] of this.tokensOf(side === "key" ? "key" : "query").entries()) {
        const room = context.measureText(token).width + 6;
        if (x > 4 && x + room > width - 4) [x, y] = [4, y + 32];
        placed.push({ side, index, token, x, y, room });
        x += room;
        if (token.endsWith("↵")) [x, y] = [4, y + 32];
      }
      y += 44;
    }
    return { width, height: y, placed };
  }

  paintText(context, { placed }) {
    const { active } = this;
    const colours = new Map(this.strips.map(({ side }) => [side, this.coloursOf(side)]));
    Object.assign(context, { font: `18px ${FONT}`, textAlign: "left", textBaseline: "middle", lineWidth: 2, strokeStyle: this.paper.accent });
    for (const { side, index, token, x, y, room } of placed) {
      const colour = colours.get(side)?.[index];
      if (colour) {
        context.fillStyle = css(colour);
        context.fillRect(x, y, room, 28);
      }
      context.fillStyle = colour ? (isDark(colour) ? "white" : "black") : this.paper.ink;
      context.fillText(`\u2068${token}\u2069`, x + 3, y + 14);
      if (index === active && (side === "both" || side === this.side)) context.strokeRect(x + 1, y + 1, room - 2, 26);
    }
  }

  // All weights that are worth a line, at most MAX_LINES of them.
  strongest() {
    const { weights } = this.current;
    const least = Math.max(this.state.get("threshold"), 0.02 * this.top, 1e-6);
    let kept = [];
    weights.forEach((weight, at) => { if (Math.abs(weight) >= least) kept.push(at); });
    const cut = kept.length > MAX_LINES;
    if (cut) kept = Array.from(Uint32Array.from(kept)).sort((a, b) => Math.abs(weights[b]) - Math.abs(weights[a])).slice(0, MAX_LINES);
    return { kept, cut };
  }

  // -- what depends on the pinned token and on the pointer

  drawActive() {
    const mode = this.state.get("mode");
    const context = this.overlay.getContext("2d");
    context.clearRect(0, 0, this.overlay.width, this.overlay.height);
    if (mode === "matrix") this.paintCursor(context);
    if (mode === "lines") this.paintLines(context);
    this.colourStrips();
    this.explanations.show();
    this.writing.show(this.strips);
    this.vision.show();
    this.writeStatus();
    this.writeTable();
    this.writeSink();
    this.live.show();
    this.unpinButton.hidden = this.state.get("query") === null && this.state.get("key") === null;
  }

  paintCursor(context) {
    const { left, top, cell } = this.geometry;
    const { nQueries, nKeys } = this.maps;
    const frame = (query, key, colour, width) => {
      context.strokeStyle = colour;
      context.lineWidth = width;
      const [x, w] = key === null ? [left, nKeys * cell] : [left + key * cell, cell];
      const [y, h_] = query === null ? [top, nQueries * cell] : [top + query * cell, cell];
      context.strokeRect(x - width / 2, y - width / 2, w + width, h_ + width);
    };
    const pinned = this.state.get(this.side);
    if (this.hover && this.hover.query !== null && this.hover.key !== null) {
      frame(this.hover.query, null, this.paper.soft, 1);
      frame(null, this.hover.key, this.paper.soft, 1);
      frame(this.hover.query, this.hover.key, this.paper.accent, 2);
    }
    if (pinned !== null) frame(this.side === "query" ? pinned : null, this.side === "query" ? null : pinned, this.paper.accent, 2);
  }

  paintLines(context) {
    const { width, step, side, first } = this.geometry;
    const { nKeys } = this.maps;
    const active = this.active;
    const at = (index) => first + (index + 0.5) * step;
    const threshold = this.state.get("threshold");
    let kept = this.lines.kept;
    if (active !== null) {
      kept = [...this.rowOf(this.side, active).keys()].map((other) => (this.side === "query" ? active * nKeys + other : other * nKeys + active));
    }
    context.strokeStyle = this.paper.accent;
    for (const place of kept) {
      const weight = Math.abs(this.current.weights[place]);
      if (!(weight > 0 && weight >= threshold)) continue;
      const t = colourIndex(weight, this.top, this.state.get("shade")) / 255;
      if (this.sheet.signed) context.strokeStyle = this.lineColour(this.current.weights[place]);
      context.globalAlpha = active === null ? 0.1 + 0.7 * t : 0.15 + 0.85 * t;
      context.lineWidth = 0.5 + 5 * (weight / this.top);
      context.beginPath();
      const [y1, y2] = [at(Math.floor(place / nKeys)), at(place % nKeys)];
      context.moveTo(side, y1);
      context.bezierCurveTo(width / 2, y1, width / 2, y2, width - side, y2);
      context.stroke();
    }
    context.globalAlpha = 1;
    this.drawColumnTokens(context, active, at);
  }

  // Of a difference: what says by its length how large it is, says by its colour which way it goes.
  lineColour(weight) { return css(this.colours[weight > 0 ? 210 : 46]); }

  drawColumnTokens(context, active, at) {
    const { width, step, side } = this.geometry;
    context.textBaseline = "middle";
    for (const column of ["query", "key"]) {
      const [x, edge] = column === "query" ? [0, side - 8] : [width - side, width - side + 8];
      const own = column === this.side;
      const weights = active === null || own ? null : this.rowOf(this.side, active);
      context.textAlign = column === "query" ? "right" : "left";
      this.tokensOf(column).forEach((token, index) => {
        const colour = weights ? this.shaded(weights[index], index, active) : null;
        if (colour) {
          context.fillStyle = css(colour);
          context.fillRect(x + 2, at(index) - step / 2 + 1, side - 4, step - 2);
        }
        context.font = `${own && index === active ? "700 " : ""}14px ${FONT}`;
        context.fillStyle = colour ? (isDark(colour) ? "white" : "black") : this.paper.ink;
        context.fillText(`\u2068${shorten(token, 18)}\u2069`, edge, at(index), side - 14);
        if (own && index === active) {
          context.strokeStyle = this.paper.accent;
          context.lineWidth = 2;
          context.strokeRect(x + 2, at(index) - step / 2 + 1, side - 4, step - 2);
        }
      });
    }
  }

  // The colour of a token by its weight for the active token; null where nothing is drawn.
  shaded(weight, index, active) {
    const [query, key] = this.side === "query" ? [active, index] : [index, active];
    if (this.isMasked(query, key) || this.hidden.includes(key) || Math.abs(weight) < this.state.get("threshold")) return null;
    return this.cellColour(weight);
  }

  // The colours of a text, by the scores of the tab that is open, else by the weights of the active token; null where a
  // token is not seen. Undefined where nothing is to be coloured.
  coloursOf(side) {
    const { active } = this;
    const scores = side === "key" ? null : this.explanations.scores();
    if (scores) {
      const colours = rampColours(this.theme, true);
      const top = largest(scores) || 1;
      return Array.from(scores, (score) => colours[colourIndex(score, top, "linear", true)]);
    }
    if (active === null || side === this.side) return undefined;
    return Array.from(this.rowOf(this.side, active), (weight, index) => this.shaded(weight, index, active));
  }

  // Only what is not as it was before is written: there may be a thousand tokens, and each change costs.
  colourStrips() {
    const { active } = this;
    const scores = this.explanations.scores();
    for (const strip of this.strips) {
      const { box, spans, side } = strip;
      const colours = this.coloursOf(side);
      spans.forEach((span, index) => {
        const [colour, before] = [colours?.[index], strip.colours?.[index]];
        if (colour !== before) {
          span.style.backgroundColor = colour ? css(colour) : ""; // not `background`, which sets eight properties
          span.style.color = colour ? (isDark(colour) ? "white" : "black") : "";
        }
        if ((colour === null) !== (before === null)) span.classList.toggle("unseen");
        const title = scores && side !== "key" ? scores[index].toPrecision(2) : "";
        if (span.title !== title) span.title = title;
      });
      strip.colours = colours;
      const marked = side === "both" || side === this.side;
      const move = (name, to, mark) => {
        if (strip[name] === to) return;
        if (spans[strip[name]]) mark(spans[strip[name]], false);
        if (spans[to]) mark(spans[to], true);
        strip[name] = to;
      };
      move("active", marked ? active : null, (span, on) => span.classList.toggle("active", on));
      move("pinned", marked ? this.state.get(this.side) : null, (span, on) => span.setAttribute("aria-selected", on));
      if (marked && active !== null) box.setAttribute("aria-activedescendant", spans[active].id);
      else box.removeAttribute("aria-activedescendant");
    }
  }

  // Both tokens, the weight with its error, and its rank.
  describe(query, key) {
    const { t, side } = this;
    const pair = (said) => t.pair(this.name("query", query), this.name("key", key), said);
    if (this.isMasked(query, key)) return pair(t.masked);
    if (this.hidden.includes(key)) return pair(t.hidden);
    const weight = this.weight(query, key);
    if (Number.isNaN(weight)) return pair(t.isNaN);
    const row = this.rowOf(side, side === "query" ? query : key);
    const allowed = this.seen(side, side === "query" ? query : key);
    const rank = t[side === "query" ? "ofRow" : "ofColumn"](rankOf(row, side === "query" ? key : query), allowed.length);
    return pair(t.weight(...withError(weight, this.errorOf(query, key)), rank));
  }

  // The indices on the other side that the mask and the sink control leave.
  seen(side, index) {
    const all = [...Array(side === "query" ? this.maps.nKeys : this.maps.nQueries).keys()];
    return all.filter((other) => {
      const [query, key] = side === "query" ? [index, other] : [other, index];
      return !this.isMasked(query, key) && !this.hidden.includes(key);
    });
  }

  writeStatus() {
    const pair = { query: this.hover?.query ?? null, key: this.hover?.key ?? null };
    pair[this.side] ??= this.active;
    if (pair.query !== null && pair.key !== null) this.status.textContent = this.describe(pair.query, pair.key);
    else this.status.textContent = this.active === null ? this.t.hint : this.caption();
  }

  caption() {
    return this.side === "query" ? this.t.looksAt(this.name("query", this.active)) : this.t.lookedBy(this.name("key", this.active));
  }

  // The row of the active token as a table: for eyes, and for a screen reader.
  writeTable() {
    const { active, side, t } = this;
    this.table.hidden = active === null;
    if (active === null) return;
    const other = side === "query" ? "key" : "query";
    const row = this.rowOf(side, active);
    const order = this.seen(side, active).sort((a, b) => Math.abs(row[b] || 0) - Math.abs(row[a] || 0) || a - b);
    const shown = order.slice(0, MAX_ROWS);
    while (this.tableRows.length < shown.length) this.tableRows.push(tableRow());
    let rank = 0;
    for (const [place, index] of shown.entries()) {
      const [query, key] = side === "query" ? [active, index] : [index, active];
      if (!place || row[index] !== row[order[place - 1]]) rank = place + 1;
      const [weight, error] = withError(row[index], this.errorOf(query, key));
      this.tableRows[place].write(String(rank), this.name(other, index, 14), Number.isNaN(row[index]) ? "NaN" : `${weight} ± ${error}`,
        Math.abs(row[index] || 0), this.sheet.signed ? this.lineColour(row[index]) : "");
    }
    if (this.tableBody.rows.length !== shown.length) this.tableBody.replaceChildren(...this.tableRows.slice(0, shown.length).map(({ row }) => row));
    const rest = order.length - MAX_ROWS;
    this.tableCaption.textContent = this.caption() + (rest > 0 ? t.inBrackets(t.more(rest)) : "");
    [t.rankName, t[other], this.sheet.signed ? t.differenceName : t.weightName].forEach((word, i) => { this.tableHeads[i].textContent = word; });
  }

  writeSink() {
    const { t, hidden, active, sheet } = this;
    const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
    const sentences = [];
    if (sheet.signed) sentences.push(t.signedNote);
    else if (!hidden.length) {
      const share = mean(this.headsAt.map((head) => sheet.sink[this.layerAt][head]));
      sentences.push(t.firstShare(this.name("key", 0), percent(share)));
    } else {
      const names = hidden.map((key) => this.name("key", key)).join(" ");
      sentences.push(t.hiddenShare(names, percent(mean(this.current.shares.subarray(this.maps.firstFree)))));
      if (this.side === "query" && active !== null) sentences.push(t.hiddenHere(percent(this.current.shares[active])));
    }
    if (this.unit !== "tokens") sentences.push(t.unitRule(t.units[this.unit]));
    this.sinkLine.textContent = sentences.join(t.between);
  }

  // The numbers at its ends are those of the map; the rest is drawn only `anew`.
  drawLegend(anew) {
    const { signed } = this.sheet;
    this.legendLow.textContent = signed ? (-this.top).toFixed(2) : "0";
    this.legendTop.textContent = this.top.toFixed(2);
    if (!anew) return;
    const [width, height] = [160, 12];
    const context = sized(this.legend, width, height);
    for (let x = 0; x < width; x++) {
      const part = (x + 0.5) / width;
      context.fillStyle = css(this.colours[colourIndex(signed ? 2 * part - 1 : part, 1, this.state.get("shade"), signed)]);
      context.fillRect(x, 0, 1, height);
    }
    const threshold = this.state.get("threshold");
    const { t } = this;
    this.legendMid.textContent = (signed ? t.differenceName : t.weightName) + t.inBrackets(t[this.state.get("shade")]);
    const marks = [];
    const mark = (rgb, word) => {
      const box = h("i", { class: rgb ? "swatch" : "swatch hatched" });
      if (rgb) box.style.background = css(rgb);
      marks.push(h("span", {}, box, word));
    };
    if (this.maps.causal) mark(MASKED[this.theme], t.maskedName);
    if (this.hidden.length) mark(null, t.hidden);
    if (this.maps.nan) mark(NAN, "NaN");
    if (threshold > 0) mark(this.colours[signed ? 128 : 0], t.below(threshold.toFixed(2)));
    this.legendMarks.replaceChildren(...marks);
  }

  // -- pointer and keys

  // Which query and key lie under the pointer; in the two columns only one of them.
  under(event) {
    const { offsetX: x, offsetY: y } = event;
    const inside = (value, n) => (value >= 0 && value < n ? value : null);
    if (this.state.get("mode") === "matrix") {
      const { left, top, cell } = this.geometry;
      const query = inside(Math.floor((y - top) / cell), this.maps.nQueries);
      const key = inside(Math.floor((x - left) / cell), this.maps.nKeys);
      return { query, key };
    }
    const { width, step, first } = this.geometry;
    const index = Math.floor((y - first) / step);
    return x < width / 2 ? { query: inside(index, this.maps.nQueries), key: null } : { query: null, key: inside(index, this.maps.nKeys) };
  }

  pointDetail(event) {
    const { query, key } = this.under(event);
    if (this.state.get("mode") === "lines" && this.state.get("query") === null && this.state.get("key") === null) {
      const side = query !== null ? "query" : key !== null ? "key" : this.side;
      if (side !== this.side) { this.side = side; this.showControls(); }
    }
    this.hovered(query, key);
  }

  clickDetail(event) {
    const { query, key } = this.under(event);
    if (this.state.get("mode") === "lines") {
      if (query !== null) this.pin("query", query);
      else if (key !== null) this.pin("key", key);
    } else if (query === null && key !== null) {
      this.pin("key", key); // a label above the matrix
    } else if (key === null && query !== null) {
      this.pin("query", query);
    } else if (query !== null) {
      this.pin(this.side, this.side === "query" ? query : key);
    }
  }

  hoverToken(side, index) {
    const pinned = this.state.get(this.side);
    if (side !== "both") this.hovered(side === "query" ? index : null, side === "key" ? index : null);
    else if (pinned === null) this.hovered(this.side === "query" ? index : null, this.side === "key" ? index : null);
    else this.hovered(this.side === "query" ? pinned : index, this.side === "key" ? pinned : index);
  }

  // Pin the next token, or the first one where none is pinned.
  step(side, by) {
    const n = this.tokensOf(side).length;
    const now = this.state.get(side);
    const next = now === null ? (by > 0 ? 0 : n - 1) : Math.max(0, Math.min(n - 1, now + by));
    this.hover = null;
    this.pin(side, next);
    this.speak();
  }

  keyStrip(event, side) {
    const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -1e9, End: 1e9 }[event.key];
    if (!by) return;
    event.preventDefault();
    this.step(side === "both" ? this.side : side, by);
  }

  keyDetail(event) {
    const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const across = event.key === "ArrowLeft" || event.key === "ArrowRight";
    const along = this.side === "query" ? across : !across; // along the row (or column) that is read
    if (this.state.get("mode") === "lines" || !along || this.active === null) {
      this.step(this.side, by);
      return;
    }
    const other = this.side === "query" ? "key" : "query";
    const n = this.tokensOf(other).length;
    const now = this.hover?.[other] ?? (by > 0 ? -1 : n);
    this.hover = { [this.side]: this.active, [other]: Math.max(0, Math.min(n - 1, now + by)) };
    this.drawActive();
    this.speak();
  }

  // After a key a screen reader says what has changed; after the pointer it stays silent.
  speak() {
    const words = this.status.textContent;
    this.status.textContent = "";
    this.status.setAttribute("aria-live", "polite");
    this.status.textContent = words;
  }

  // -- theme and size

  watchTheme() {
    const dark = window.matchMedia("(prefers-color-scheme: dark)");
    const read = () => {
      const lab = document.body.dataset.jpThemeLight; // JupyterLab says so itself, whatever the system prefers
      this.theme = (lab ? lab === "false" : dark.matches) ? "dark" : "light";
      this.colours = rampColours(this.theme, this.sheet.signed);
      this.paper = PAPERS[this.theme];
      if (this.root) this.root.dataset.theme = this.theme;
    };
    const follow = () => { read(); this.changed(["theme"]); };
    const observer = new MutationObserver(follow);
    observer.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
    dark.addEventListener("change", follow);
    this.cleanUps.push(() => { observer.disconnect(); dark.removeEventListener("change", follow); });
    read();
  }

  watchSize() {
    this.root.dataset.theme = this.theme;
    let width = 0;
    const observer = new ResizeObserver(([entry]) => {
      const now = Math.round(entry.contentRect.width);
      if (now === width || !now) return;
      width = now;
      this.changed(["size"]);
    });
    observer.observe(this.root);
    this.cleanUps.push(() => observer.disconnect());
  }
}

// A row of the table, and how to write it: the texts of its cells, the length of its bar, 0 to 1, and its colour ("": the usual one).
function tableRow() {
  const cells = [h("td", {}, ""), h("th", { scope: "row", dir: "auto" }, ""), h("td", {}, "")];
  const bar = h("span", { class: "bar" });
  const row = h("tr", {}, ...cells, h("td", { class: "bars", "aria-hidden": "true" }, bar));
  const write = (...texts) => {
    const [share, colour] = texts.splice(cells.length);
    cells.forEach(({ firstChild }, i) => { if (firstChild.data !== texts[i]) firstChild.data = texts[i]; });
    bar.style.width = `${Math.round(80 * Math.min(1, share))}px`;
    if (bar.style.backgroundColor !== colour) bar.style.backgroundColor = colour;
  };
  return { row, write };
}
