// The attention explorer. Python (viewer.py) hands over tokens and packed weights; everything else happens here.
//
// In a notebook anywidget calls `render`; in a saved page the last line of the script calls `openPage`. Nothing is
// fetched, tokens only ever become text, and all elements and styles live in a shadow root, so that neither the page
// nor a second explorer is disturbed. Row = query = the token that looks; column = key = the token looked at.

// ---- Weights ---------------------------------------------------------------------------------------------------

// Read zlib data with what every browser has had since 2023.
export async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

export function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

// The weight that a code stands for; codes between two whole ones tell where a code begins and ends.
export function weightOf(code, fineness) {
  const edge = fineness / 255;
  const joint = fineness * edge;
  return code <= joint ? (code / fineness) ** 2 : edge * edge + (code - joint) / 127.5;
}

// All weights of all heads, as bytes; a causal map holds only its lower triangle.
export class Maps {
  constructor({ shape, causal, nan, whole, fineness }, raw) {
    [this.nLayers, this.nHeads, this.nQueries, this.nKeys] = shape;
    this.causal = causal;
    this.whole = whole;
    this.raw = raw;
    this.perMap = this.rowStart(this.nQueries);
    this.count = this.nLayers * this.nHeads * this.perMap;
    const bits = nan ? this.nLayers * Math.ceil((this.nHeads * this.perMap) / 8) : 0;
    if (raw.length !== this.count + bits) throw new Error(`wanted ${this.count + bits} bytes of weights, got ${raw.length}`);
    this.nan = nan;
    const codes = [...Array(256).keys()];
    this.weights = Float32Array.from(codes, (code) => weightOf(code, fineness));
    this.errors = Float32Array.from(codes, (code) => weightOf(code + 0.5, fineness) - weightOf(code, fineness));
  }

  // How many keys a query may look at.
  rowLength(query) {
    return this.causal ? query + 1 + this.nKeys - this.nQueries : this.nKeys;
  }

  // Where a query's row begins within its map.
  rowStart(query) {
    return this.causal ? query * (this.nKeys - this.nQueries) + (query * (query + 1)) / 2 : query * this.nKeys;
  }

  mapStart(layer, head) {
    return (layer * this.nHeads + head) * this.perMap;
  }

  isNaN(layer, at) {
    if (!this.nan) return false;
    const bytes = Math.ceil((this.nHeads * this.perMap) / 8);
    const place = at - layer * this.nHeads * this.perMap;
    return (this.raw[this.count + layer * bytes + (place >> 3)] >> (7 - (place & 7))) & 1;
  }

  // One weight: NaN where it was NaN, 0 where the mask forbids it.
  at(layer, head, query, key) {
    if (key >= this.rowLength(query)) return 0;
    const place = this.mapStart(layer, head) + this.rowStart(query) + key;
    return this.isNaN(layer, place) ? NaN : this.weights[this.raw[place]];
  }

  errorAt(layer, head, query, key) {
    return key >= this.rowLength(query) ? 0 : this.errors[this.raw[this.mapStart(layer, head) + this.rowStart(query) + key]];
  }

  // The map of one or several heads as Float32Array [query * nKeys + key]. Keys in `hidden` are left out and the rest of
  // each row is scaled to 1, head by head; `shares[query]` says how much was hidden, on average over the heads, and
  // `scalings[query * heads + number]` by what each row was scaled.
  view(layer, heads, combine = "mean", hidden = []) {
    const { nQueries, nKeys } = this;
    const weights = new Float32Array(nQueries * nKeys);
    const shares = new Float32Array(nQueries);
    const scalings = [];
    const part = combine === "max" ? 1 : 1 / heads.length;
    const { raw, nan, weights: known } = this;
    for (const [number, head] of heads.entries()) {
      for (let query = 0; query < nQueries; query++) {
        const start = this.mapStart(layer, head) + this.rowStart(query);
        const length = this.rowLength(query);
        const scaling = this.scaling(layer, start, length, hidden);
        shares[query] += scaling.share / heads.length;
        scalings[query * heads.length + number] = scaling;
        const { scale } = scaling;
        const first = query * nKeys;
        for (let key = 0; key < length; key++) {
          let weight = Math.min(1, known[raw[start + key]] * scale);
          if (nan && this.isNaN(layer, start + key)) weight = NaN;
          if (combine === "mean" || !number) weights[first + key] += weight * part;
          else weights[first + key] = Math.max(weights[first + key], weight);
        }
        for (const key of hidden) if (key < length) weights[first + key] = 0;
      }
    }
    return { weights, shares, scalings };
  }

  // A map made small: at most side x side cells, each the largest weight in it, so that a thin line does not vanish.
  // It reads the codes themselves, as there may be millions: in one row a larger code is a larger weight.
  small(layer, head, side, hidden = []) {
    const { nQueries, nKeys } = this;
    const rows = Math.min(side, nQueries);
    const columns = Math.min(side, nKeys);
    const small = new Float32Array(rows * columns);
    const firsts = Array.from({ length: columns + 1 }, (_, i) => Math.ceil((i * nKeys) / columns)); // of the keys of a column
    const { raw, nan } = this;
    for (let query = 0; query < nQueries; query++) {
      const start = this.mapStart(layer, head) + this.rowStart(query);
      const length = this.rowLength(query);
      const { scale } = this.scaling(layer, start, length, hidden);
      const to = Math.floor((query * rows) / nQueries) * columns;
      for (let i = 0; i < columns && firsts[i] < length; i++) {
        const end = start + Math.min(firsts[i + 1], length);
        let largest = 0;
        for (let at = start + firsts[i]; at < end; at++) {
          if (raw[at] > largest && !(hidden.length && hidden.includes(at - start))) largest = raw[at];
          if (nan && this.isNaN(layer, at)) small[to + i] = NaN;
        }
        const weight = Math.min(1, this.weights[largest] * scale);
        if (weight > small[to + i]) small[to + i] = weight; // NaN, once there, stays
      }
    }
    return { small, rows, columns };
  }

  // By what to multiply a row so that what is not hidden sums to 1, how much is hidden, and how far off the sum of the
  // rest may be. Where rows are known to sum to 1, the rest is what the hidden keys leave: only their errors count.
  scaling(layer, start, length, hidden) {
    if (!hidden.length) return { scale: 1, share: 0, slack: 0 };
    let [share, rest, hiddenError, restError] = [0, 0, 0, 0];
    for (const key of hidden) {
      if (key >= length || this.isNaN(layer, start + key)) continue;
      share += this.weights[this.raw[start + key]];
      hiddenError += this.errors[this.raw[start + key]];
    }
    if (this.whole) [rest, restError] = [1 - share, hiddenError];
    else {
      for (let key = 0; key < length; key++) {
        if (hidden.includes(key) || this.isNaN(layer, start + key)) continue;
        rest += this.weights[this.raw[start + key]];
        restError += this.errors[this.raw[start + key]];
      }
    }
    const nothingLeft = this.whole ? rest <= restError : rest <= 0;
    return nothingLeft ? { scale: 0, share, slack: 0 } : { scale: 1 / rest, share, slack: restError };
  }

  // The query from which on means are taken: in a causal map of one text the first query has no choice.
  get firstFree() {
    return this.causal && this.nKeys === this.nQueries && this.nQueries > 1 ? 1 : 0;
  }

  // Mean share of a head's attention that goes to the first key.
  firstShare(layer, head) {
    const from = this.firstFree;
    let sum = 0;
    for (let query = from; query < this.nQueries; query++) sum += this.at(layer, head, query, 0) || 0;
    return sum / (this.nQueries - from);
  }
}

// 1 for the largest value; equal values share a rank.
export function rankOf(values, index) {
  let rank = 1;
  for (const value of values) if (value > values[index]) rank++;
  return rank;
}

// ---- Colours ---------------------------------------------------------------------------------------------------

// One hue, its lightness rising or falling steadily: it reads the same for colour-blind eyes and in grey.
const RAMPS = {
  light: [[255, 255, 255], [158, 202, 225], [49, 130, 189], [8, 48, 107]],
  dark: [[22, 27, 34], [28, 84, 134], [79, 165, 214], [232, 246, 255]],
};
const MASKED = { light: [228, 228, 228], dark: [48, 54, 61] };
const NAN = [217, 95, 2];

export function rampColours(theme) {
  const stops = RAMPS[theme];
  return Array.from({ length: 256 }, (_, i) => {
    const t = (i / 255) * (stops.length - 1);
    const at = Math.min(stops.length - 2, Math.floor(t));
    return stops[at].map((from, channel) => Math.round(from + (stops[at + 1][channel] - from) * (t - at)));
  });
}

// Which of the 256 colours a weight gets: a function for many weights, and for one. Map, text and legend all ask here.
export function colourScale(top, shade) {
  const root = shade === "sqrt";
  const factor = 255 / (root ? Math.sqrt(top) : top);
  return (weight) => Math.min(255, ((root ? Math.sqrt(weight) : weight) * factor + 0.5) | 0);
}
export const colourIndex = (weight, top, shade) => colourScale(top, shade)(weight);

const css = (rgb) => `rgb(${rgb.join(",")})`;
const isDark = (rgb) => 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] < 140;

// ---- Words -----------------------------------------------------------------------------------------------------

const WORDS = {
  en: {
    layer: "Layer", heads: "Heads", allHeads: "all heads of this layer", overview: "All heads",
    overviewHelp: "Row: layer. Column: head. Bar: share on the first token. Click one; Shift+click adds a head of the same layer.",
    overviewKeys: "Overview of all heads. Arrow keys change layer and head; Shift with left or right adds a head.",
    view: "View", matrix: "Matrix", lines: "Lines", text: "Text",
    read: "Read", bySide: { query: "what a token looks at", key: "who looks at a token" },
    combine: "Several heads", mean: "average", max: "maximum", shade: "Shade", sqrt: "square root", linear: "linear",
    threshold: "Hide below", sink: "Attention sink", hideNone: "shown", hideFirst: "hide first token", hideSpecial: "hide special tokens",
    query: "query", key: "key", queryLooks: "query (looks)", keyLooked: "key (looked at)",
    axes: "Row: query, the token that looks. Column: key, the token looked at.",
    detailKeys: "Attention map. Up and down pin a query, left and right move along the keys, Escape unpins.",
    linesKeys: "Two columns of tokens. Arrow keys pin a token, Escape unpins.",
    stripKeys: (side) => `Tokens as ${side === "query" ? "queries (they look)" : "keys (they are looked at)"}. Arrow keys pin a token, Escape unpins.`,
    pair: (q, k) => `query ${q} looks at key ${k}`, weight: (w, e) => `weight ${w} ± ${e}`, rank: (r, n) => `rank ${r} of ${n}`,
    ofRow: "among the keys of this query", ofColumn: "among the queries of this key",
    masked: "masked: a later token cannot be looked at", hidden: "hidden", isNaN: "not a number (NaN)",
    looksAt: (q) => `What query ${q} looks at`, lookedBy: (k) => `Who looks at key ${k}`, token: "token", weightName: "weight",
    rankName: "rank",
    firstShare: (t, s) => `The first token ${t} gets ${s} of the attention on average.`,
    hiddenShare: (keys, s) => `Hidden: ${keys}, on average ${s} of the attention; the rest of each row is scaled to 1.`,
    hiddenHere: (s) => `Hidden from this query: ${s}.`,
    below: (t) => `below ${t}: not drawn`, maskedName: "masked", hint: "Click a token to pin it. Escape unpins.",
    more: (n) => `and ${n} more`,
    cut: (n) => `Only the ${n} strongest lines are drawn.`, unpin: "Unpin (Esc)",
    bound: (b) => `Stored with one byte each; no weight is off by more than ${b}.`,
    failed: "The explorer could not start",
  },
  zh: {
    layer: "层", heads: "头", allHeads: "本层全部头", overview: "全部注意力头",
    overviewHelp: "行：层；列：头；短条：分给首个词元的比例。点击选择；按住 Shift 点击可加选同层的头。",
    overviewKeys: "全部注意力头。方向键切换层和头；Shift 加左右键可加选。",
    view: "视图", matrix: "矩阵", lines: "连线", text: "文本", read: "读法", bySide: { query: "词元在看谁", key: "谁在看词元" },
    combine: "多个头", mean: "平均", max: "最大", shade: "着色", sqrt: "平方根", linear: "线性",
    threshold: "隐藏小于", sink: "注意力汇聚", hideNone: "显示", hideFirst: "隐藏首个词元", hideSpecial: "隐藏特殊词元",
    query: "查询", key: "键", queryLooks: "查询（在看）", keyLooked: "键（被看）",
    axes: "行：查询，即在看的词元；列：键，即被看的词元。",
    detailKeys: "注意力图。上下键固定查询，左右键在键之间移动，Esc 取消固定。",
    linesKeys: "两列词元。方向键固定词元，Esc 取消固定。",
    stripKeys: (side) => `词元作为${side === "query" ? "查询（在看）" : "键（被看）"}。方向键固定词元，Esc 取消固定。`,
    pair: (q, k) => `查询 ${q} 看键 ${k}`, weight: (w, e) => `权重 ${w} ± ${e}`, rank: (r, n) => `第 ${r} 位，共 ${n} 位`,
    ofRow: "在该查询的各键中", ofColumn: "在该键的各查询中", masked: "被掩码遮住：不能看后面的词元", hidden: "已隐藏", isNaN: "不是数（NaN）",
    looksAt: (q) => `查询 ${q} 看了哪些键`, lookedBy: (k) => `哪些查询在看键 ${k}`, token: "词元", weightName: "权重", rankName: "名次",
    firstShare: (t, s) => `首个词元 ${t} 平均得到 ${s} 的注意力。`,
    hiddenShare: (keys, s) => `已隐藏 ${keys}，平均占注意力的 ${s}；每行其余权重按比例放大到和为 1。`, hiddenHere: (s) => `此查询隐藏了 ${s}。`,
    below: (t) => `小于 ${t} 的不画`, maskedName: "掩码", hint: "点击词元即可固定，Esc 取消。", more: (n) => `另有 ${n} 行`,
    cut: (n) => `只画最强的 ${n} 条线。`, unpin: "取消固定（Esc）", bound: (b) => `每个权重存为一个字节，误差不超过 ${b}。`,
    failed: "浏览器视图无法启动",
  },
};

// A token in at most so many columns; a Chinese character takes two.
export function shorten(token, width) {
  let used = 0;
  let kept = "";
  for (const char of token) {
    used += /[\u1100-\u115f\u2e80-\uffdc]|[\u{1f300}-\u{3ffff}]/u.test(char) ? 2 : 1;
    if (used > width) return kept + "…";
    kept += char;
  }
  return kept;
}

export const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;

// A weight with as many digits as its error allows, and the error: rounded up, as it is a bound, what the digits cut included.
export function withError(weight, error) {
  const digits = Math.min(5, Math.max(2, Math.ceil(-Math.log10(Math.max(error, 1e-9)))));
  const unit = 10 ** -digits;
  return [weight.toFixed(digits), (Math.ceil(error / unit + 0.5) * unit).toFixed(digits)];
}

// Make an element; text is always text, never markup.
function h(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name in element && typeof value === "boolean") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// A canvas of a size in CSS pixels, sharp on any screen; returns the context to draw with.
function sized(canvas, width, height) {
  const ratio = Math.min(window.devicePixelRatio || 1, 16000 / Math.max(width, height, 1));
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return context;
}

// Room for the longest of some labels, in CSS pixels.
function widest(tokens) {
  const context = document.createElement("canvas").getContext("2d");
  context.font = `14px ${FONT}`;
  return Math.min(120, Math.max(...tokens.map((token) => context.measureText(shorten(token, 14)).width)) + 12);
}

const FONT = 'system-ui, "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", "WenQuanYi Micro Hei", sans-serif';
const MAX_LINES = 3000;
const MAX_ROWS = 100; // of the table

// ---- The explorer ----------------------------------------------------------------------------------------------

// `state` has get(name), set(changes) and listen(callback), so that a kernel or nobody may stand behind it.
class Explorer {
  constructor(element, about, maps, state) {
    Object.assign(this, { about, maps, state, element });
    this.keyTokens = about.key_tokens || about.tokens;
    this.crossed = Boolean(about.key_tokens);
    this.side = state.get("key") === null ? "query" : "key";
    this.hover = null; // {query, key}, either may be null
    this.cleanUps = [];
    this.watchTheme();
    this.build();
    this.watchSize();
    this.cleanUps.push(state.listen((names) => this.changed(names)));
    this.changed(["lang"]);
  }

  close() {
    cancelAnimationFrame(this.frame);
    for (const cleanUp of this.cleanUps) cleanUp();
    this.element.replaceChildren();
  }

  // -- what is shown

  get t() { return WORDS[this.state.get("lang")] || WORDS.en; }
  get layerAt() { return this.about.layers.indexOf(this.state.get("layer")); }
  get headsAt() { return this.state.get("heads").map((head) => this.about.heads.indexOf(head)); }
  get hidden() {
    const hide = this.state.get("hide");
    return hide === "first" ? [0] : hide === "special" ? [...new Set([0, ...this.about.special])] : [];
  }

  // The pinned token, or else the one under the pointer: an index on the side that is read.
  get active() {
    const pinned = this.state.get(this.side);
    return pinned !== null ? pinned : this.hover ? this.hover[this.side] : null;
  }

  tokensOf(side) { return side === "query" ? this.about.tokens : this.keyTokens; }
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
    if (this.state.get("query") !== null) this.side = "query";
    if (this.state.get("key") !== null) this.side = "key";
    if (some("layer", "heads", "combine", "hide", "lang")) {
      this.current = this.maps.view(this.layerAt, this.headsAt, this.state.get("combine"), this.hidden);
      let top = 0;
      for (const weight of this.current.weights) if (weight > top) top = weight;
      this.top = top || 1;
    }
    if (some("lang")) this.writeLabels();
    this.showControls();
    if (some("shade", "hide", "lang", "theme")) this.paintThumbs();
    if (some("lang", "size", "mode")) this.measure();
    this.drawOverview();
    if (some("layer", "heads", "combine", "hide", "lang", "shade", "theme", "threshold", "mode", "size")) this.drawDetail();
    this.drawLegend();
    this.drawActive();
  }

  // How wide the drawings may be. Asked for only when it can have changed, as the answer makes the browser lay out the page.
  measure() {
    this.detail.hidden = this.state.get("mode") === "text";
    this.room = { overview: Math.max(160, (this.overview.parentElement.clientWidth || 300) - 4), detail: Math.max(200, this.detail.clientWidth - 20) };
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

    this.layerSelect = h("select", { onchange: () => this.set({ layer: Number(this.layerSelect.value) }) },
      ...about.layers.map((layer) => h("option", { value: layer }, String(layer))));
    this.headSelect = h("select", { onchange: () => this.set({ heads: this.headSelect.value === "all" ? [...about.heads] : [Number(this.headSelect.value)] }) },
      ...about.heads.map((head) => h("option", { value: head }, String(head))), say(h("option", { value: "all" }), (t) => t.allHeads),
      (this.severalOption = h("option", { value: "several", hidden: true, disabled: true })));
    this.combineSelect = choice("combine", ["mean", "max"], ["mean", "max"]);
    this.shadeSelect = choice("shade", ["sqrt", "linear"], ["sqrt", "linear"]);
    const hides = about.special.some((key) => key > 0) ? ["none", "first", "special"] : ["none", "first"];
    this.hideSelect = choice("hide", hides, ["hideNone", "hideFirst", "hideSpecial"]);
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
    this.strips = (this.crossed ? ["query", "key"] : ["both"]).map((side) => this.buildStrip(side));
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
    this.table = h("table");
    this.heading = h("h2");

    this.root = h("div", { class: "explorer", "data-lm-suppress-shortcuts": "true",
      onkeydown: (event) => { if (event.key === "Escape") { this.unpin(); event.preventDefault(); } event.stopPropagation(); } },
      h("header", {}, h("h1", {}, about.title),
        h("div", { class: "controls" }, field("layer", this.layerSelect), field("heads", this.headSelect),
          (this.combineField = field("combine", this.combineSelect)), group("view", this.modeButtons), group("read", this.sideButtons),
          field("shade", this.shadeSelect), field("threshold", h("span", { class: "range" }, this.threshold, this.thresholdValue)), field("sink", this.hideSelect))),
      h("div", { class: "columns" },
        h("section", { class: "left" }, say(h("h2"), (t) => t.overview), h("div", { class: "scroll" }, thumbs),
          say(h("p", { class: "small" }), (t) => t.overviewHelp)),
        h("section", { class: "right" }, h("div", { class: "heading" }, this.heading, this.unpinButton), ...this.strips.map((strip) => strip.box),
          this.status, this.detail, this.note,
          h("div", { class: "legend" }, h("span", {}, "0"), this.legend, this.legendTop, this.legendMid, this.legendMarks),
          this.sinkLine),
        h("section", { class: "below" }, h("div", { class: "row", tabindex: 0 }, this.table),
          say(h("p", { class: "small" }), (t) => t.bound("0.004")))));
    root.replaceChildren(this.root);
    this.say = say;
  }

  // The text itself: every token can be pinned, and is coloured by its weight.
  buildStrip(side) {
    const tokens = this.tokensOf(side === "key" ? "key" : "query");
    const box = h("div", { class: "strip", tabindex: 0, role: "listbox", onkeydown: (event) => this.keyStrip(event, side) });
    const name = h("span", { class: "side" });
    const spans = tokens.map((token, index) => {
      const span = h("span", { class: "token", role: "option", id: `token-${side}-${index}`, dir: "auto",
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
  }

  showControls() {
    const { state, t, about } = this;
    const heads = state.get("heads");
    const all = heads.length === about.heads.length && heads.length > 1;
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
    this.heading.textContent = `L${state.get("layer")} ${heads.map((head) => `H${head}`).join(" ")}`
      + (heads.length > 1 ? ` (${t[state.get("combine")]})` : "");
    this.detail.setAttribute("aria-label", `${this.heading.textContent}. ${state.get("mode") === "lines" ? t.linesKeys : t.detailKeys} ${t.axes}`);
    for (const { box, side, name } of this.strips) {
      box.setAttribute("aria-label", t.stripKeys(side === "both" ? this.side : side));
      name.textContent = side === "both" ? "" : side === "query" ? t.queryLooks : t.keyLooked;
    }
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
      })));
    this.grid = null;
    this.shares ??= Array.from(this.thumbs, (_, i) => maps.firstShare(Math.floor(i / maps.nHeads), i % maps.nHeads));
  }

  cellColour(weight) {
    if (Number.isNaN(weight)) return NAN;
    return this.colours[colourIndex(weight, this.top, this.state.get("shade"))];
  }

  // A small canvas with one pixel for each cell. Weights below the threshold get the colour of 0.
  picture(rows, columns, weights, top, threshold, masked) {
    const canvas = document.createElement("canvas");
    canvas.width = columns;
    canvas.height = rows;
    const context = canvas.getContext("2d");
    const image = context.createImageData(columns, rows);
    const pixels = new Uint32Array(image.data.buffer);
    const pack = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    const colours = Uint32Array.from(this.colours, pack);
    const [nan, mask] = [pack(NAN), pack(MASKED[this.theme])];
    const indexOf = colourScale(top, this.state.get("shade"));
    for (let row = 0, at = 0; row < rows; row++) {
      const from = masked(row);
      for (let column = 0; column < columns; column++, at++) {
        const weight = weights[at];
        if (column >= from) pixels[at] = mask;
        else if (weight < threshold) pixels[at] = colours[0];
        else pixels[at] = weight === weight ? colours[indexOf(weight)] : nan;
      }
    }
    context.putImageData(image, 0, 0);
    return canvas;
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
    }
    const { left, top, side, step, width, height, plain } = this.grid;
    const context = sized(this.overview, width, height);
    context.drawImage(plain, 0, 0, width, height);
    context.strokeStyle = this.paper.accent;
    context.lineWidth = 3;
    for (const head of this.headsAt) context.strokeRect(left + head * step.x - 2, top + this.layerAt * step.y - 2, side + 4, side + 8);
  }

  drawGrid(context) {
    const { maps, about } = this;
    const { left, top, side, step } = this.grid;
    const style = this.paper;
    context.imageSmoothingEnabled = false;
    context.font = `11px ${FONT}`;
    context.textBaseline = "middle";
    context.fillStyle = style.ink;
    context.textAlign = "right";
    about.layers.forEach((layer, row) => context.fillText(`L${layer}`, left - 5, top + row * step.y + side / 2));
    context.textAlign = "center";
    const every = side < 20 ? 2 : 1;
    about.heads.forEach((head, column) => column % every || context.fillText(`H${head}`, left + column * step.x + side / 2, 8));
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
    const { layers, heads } = this.about;
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
    const { layers, heads } = this.about;
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

  drawDetail() {
    const mode = this.state.get("mode");
    this.note.textContent = mode === "matrix" ? this.t.axes : "";
    if (mode === "matrix") this.drawMatrix();
    if (mode === "lines") this.drawColumns();
  }

  drawMatrix() {
    const { maps } = this;
    const { nQueries, nKeys } = maps;
    this.margins ??= [this.about.tokens, this.keyTokens].map(widest);
    const [left, top] = this.margins;
    const fitting = Math.floor((this.room.detail - left) / nKeys);
    const cell = Math.max(2, Math.min(44, fitting, Math.floor(900 / nQueries)));
    this.geometry = { left, top, cell };
    const context = sized(this.base, left + nKeys * cell + 2, top + nQueries * cell + 2);
    const threshold = this.state.get("threshold");
    const cells = this.picture(nQueries, nKeys, this.current.weights, this.top, threshold, (query) => maps.rowLength(query));
    context.imageSmoothingEnabled = false;
    context.drawImage(cells, left, top, nKeys * cell, nQueries * cell);
    context.strokeStyle = this.paper.line;
    context.strokeRect(left - 0.5, top - 0.5, nKeys * cell + 1, nQueries * cell + 1);
    this.labelMatrix(context, left, top, cell);
    if (cell >= 28) this.numberCells(context, left, top, cell, threshold);
    for (const key of this.hidden) this.hatch(context, left + key * cell, top, cell, nQueries * cell);
    if (maps.nan && cell >= 6) this.crossNaN(context, left, top, cell);
    sized(this.overlay, left + nKeys * cell + 2, top + nQueries * cell + 2);
  }

  labelMatrix(context, left, top, cell) {
    const size = Math.max(11, Math.min(14, cell - 2));
    const every = Math.ceil((size + 2) / cell);
    context.font = `${size}px ${FONT}`;
    context.fillStyle = this.paper.ink;
    context.textBaseline = "middle";
    context.textAlign = "right";
    this.about.tokens.forEach((token, query) => {
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
    context.font = `${cell >= 36 ? 13 : 11}px ${FONT}`;
    context.textAlign = "center";
    for (let query = 0; query < this.maps.nQueries; query++) {
      for (let key = 0; key < this.maps.rowLength(query); key++) {
        const weight = this.weight(query, key);
        if (!(weight >= Math.max(0.005, threshold))) continue;
        const dark = isDark(this.cellColour(weight));
        context.fillStyle = dark ? "white" : "black";
        context.fillText(weight.toFixed(2).replace(/^0/, ""), left + (key + 0.5) * cell, top + (query + 0.5) * cell);
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
    const width = Math.min(680, Math.max(280, this.room.detail));
    const step = 22;
    const side = Math.min(170, width * 0.32);
    const height = 26 + Math.max(this.maps.nQueries, this.maps.nKeys) * step;
    this.geometry = { width, step, side, first: 26, height };
    const context = sized(this.base, width, height);
    context.font = `600 13px ${FONT}`;
    context.fillStyle = this.paper.ink;
    context.textBaseline = "middle";
    context.textAlign = "right";
    context.fillText(this.t.queryLooks, side - 8, 10);
    context.textAlign = "left";
    context.fillText(this.t.keyLooked, width - side + 8, 10);
    this.lines = this.strongest();
    this.note.textContent = this.lines.cut ? this.t.cut(MAX_LINES) : "";
    sized(this.overlay, width, height);
  }

  // All weights that are worth a line, at most MAX_LINES of them.
  strongest() {
    const { weights } = this.current;
    const least = Math.max(this.state.get("threshold"), 0.02 * this.top, 1e-6);
    let kept = [];
    weights.forEach((weight, at) => { if (weight >= least) kept.push(at); });
    const cut = kept.length > MAX_LINES;
    if (cut) kept = Array.from(Uint32Array.from(kept)).sort((a, b) => weights[b] - weights[a]).slice(0, MAX_LINES);
    return { kept, cut };
  }

  // -- what depends on the pinned token and on the pointer

  drawActive() {
    const mode = this.state.get("mode");
    if (mode === "matrix") this.drawCursor();
    if (mode === "lines") this.drawLines();
    this.colourStrips();
    this.writeStatus();
    this.writeTable();
    this.writeSink();
    this.unpinButton.hidden = this.state.get("query") === null && this.state.get("key") === null;
  }

  drawCursor() {
    const { left, top, cell } = this.geometry;
    const { nQueries, nKeys } = this.maps;
    const context = this.overlay.getContext("2d");
    context.clearRect(0, 0, this.overlay.width, this.overlay.height);
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

  drawLines() {
    const { width, step, side, first, height } = this.geometry;
    const { nKeys } = this.maps;
    const context = this.overlay.getContext("2d");
    context.clearRect(0, 0, width, height);
    const active = this.active;
    const at = (index) => first + (index + 0.5) * step;
    const threshold = this.state.get("threshold");
    let kept = this.lines.kept;
    if (active !== null) {
      kept = [...this.rowOf(this.side, active).keys()].map((other) => (this.side === "query" ? active * nKeys + other : other * nKeys + active));
    }
    context.strokeStyle = this.paper.accent;
    for (const place of kept) {
      const weight = this.current.weights[place];
      if (!(weight > 0 && weight >= threshold)) continue;
      const t = colourIndex(weight, this.top, this.state.get("shade")) / 255;
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
    if (this.isMasked(query, key) || this.hidden.includes(key) || weight < this.state.get("threshold")) return null;
    return this.cellColour(weight);
  }

  colourStrips() {
    const { active } = this;
    const pinned = this.state.get(this.side);
    const weights = active === null ? null : this.rowOf(this.side, active);
    for (const { box, spans, side } of this.strips) {
      const coloured = side === "both" || side !== this.side;
      const marked = side === "both" || side === this.side;
      spans.forEach((span, index) => {
        const colour = weights && coloured ? this.shaded(weights[index], index, active) : null;
        span.style.background = colour ? css(colour) : "";
        span.style.color = colour ? (isDark(colour) ? "white" : "black") : "";
        span.classList.toggle("active", marked && index === active);
        span.classList.toggle("unseen", Boolean(weights && coloured && !colour));
        span.setAttribute("aria-selected", marked && index === pinned);
      });
      if (marked && active !== null) box.setAttribute("aria-activedescendant", spans[active].id);
      else box.removeAttribute("aria-activedescendant");
    }
  }

  // Both tokens, the weight with its error, and its rank.
  describe(query, key) {
    const { t, side } = this;
    const pair = t.pair(this.name("query", query), this.name("key", key));
    if (this.isMasked(query, key)) return `${pair}: ${t.masked}`;
    if (this.hidden.includes(key)) return `${pair}: ${t.hidden}`;
    const weight = this.weight(query, key);
    if (Number.isNaN(weight)) return `${pair}: ${t.isNaN}`;
    const row = this.rowOf(side, side === "query" ? query : key);
    const allowed = this.seen(side, side === "query" ? query : key);
    const rank = t.rank(rankOf(row, side === "query" ? key : query), allowed.length);
    return `${pair}: ${t.weight(...withError(weight, this.errorOf(query, key)))}, ${side === "query" ? t.ofRow : t.ofColumn} ${rank}`;
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
    this.table.replaceChildren();
    this.table.hidden = active === null;
    if (active === null) return;
    const other = side === "query" ? "key" : "query";
    const row = this.rowOf(side, active);
    const order = this.seen(side, active).sort((a, b) => (row[b] || 0) - (row[a] || 0) || a - b);
    const body = h("tbody");
    let rank = 0;
    for (const [place, index] of order.slice(0, MAX_ROWS).entries()) {
      const [query, key] = side === "query" ? [active, index] : [index, active];
      if (!place || row[index] !== row[order[place - 1]]) rank = place + 1;
      const [weight, error] = withError(row[index], this.errorOf(query, key));
      const bar = h("span", { class: "bar" });
      bar.style.width = `${Math.round(80 * Math.min(1, row[index] || 0))}px`;
      body.append(h("tr", {}, h("td", {}, String(rank)), h("th", { scope: "row", dir: "auto" }, this.name(other, index, 14)),
        h("td", {}, Number.isNaN(row[index]) ? "NaN" : `${weight} ± ${error}`), h("td", { class: "bars", "aria-hidden": "true" }, bar)));
    }
    const rest = order.length - MAX_ROWS;
    this.table.append(h("caption", {}, this.caption() + (rest > 0 ? ` (${t.more(rest)})` : "")),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t.rankName), h("th", { scope: "col" }, t[other]),
        h("th", { scope: "col" }, t.weightName), h("td"))), body);
  }

  writeSink() {
    const { t, hidden, active } = this;
    const heads = this.headsAt;
    const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
    const sentences = [];
    if (!hidden.length) sentences.push(t.firstShare(this.name("key", 0), percent(mean(heads.map((head) => this.maps.firstShare(this.layerAt, head))))));
    else {
      const names = hidden.map((key) => this.name("key", key)).join(" ");
      sentences.push(t.hiddenShare(names, percent(mean(this.current.shares.subarray(this.maps.firstFree)))));
      if (this.side === "query" && active !== null) sentences.push(t.hiddenHere(percent(this.current.shares[active])));
    }
    this.sinkLine.textContent = sentences.join(this.state.get("lang") === "zh" ? "" : " ");
  }

  drawLegend() {
    const [width, height] = [160, 12];
    const context = sized(this.legend, width, height);
    for (let x = 0; x < width; x++) {
      context.fillStyle = css(this.colours[colourIndex(((x + 0.5) / width) * this.top, this.top, this.state.get("shade"))]);
      context.fillRect(x, 0, 1, height);
    }
    const threshold = this.state.get("threshold");
    const { t } = this;
    this.legendTop.textContent = this.top.toFixed(2);
    this.legendMid.textContent = `${t.weightName} (${t[this.state.get("shade")]})`;
    const marks = [];
    const mark = (rgb, word) => {
      const box = h("i", { class: rgb ? "swatch" : "swatch hatched" });
      if (rgb) box.style.background = css(rgb);
      marks.push(h("span", {}, box, word));
    };
    if (this.maps.causal) mark(MASKED[this.theme], t.maskedName);
    if (this.hidden.length) mark(null, t.hidden);
    if (this.maps.nan) mark(NAN, "NaN");
    if (threshold > 0) mark(this.colours[0], t.below(threshold.toFixed(2)));
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
      this.colours = rampColours(this.theme);
      this.paper = this.theme === "dark" ? { page: "#161b22", ink: "#e6edf3", line: "#484f58", soft: "#8b949e", accent: "#ffb454", bar: "#9aa4ae" }
        : { page: "#ffffff", ink: "#1f2328", line: "#c4cad1", soft: "#59636e", accent: "#c2410c", bar: "#6b7580" };
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

// ---- Where it lives --------------------------------------------------------------------------------------------

const NAMES = ["layer", "heads", "query", "key", "mode", "combine", "shade", "threshold", "hide", "lang"];
const DEFAULTS = { combine: "mean", shade: "sqrt", threshold: 0, hide: "none" };

// In a saved page nobody else holds the state.
function ownState(start) {
  const values = { ...DEFAULTS, ...start };
  return { get: (name) => values[name], set: (changes) => Object.assign(values, changes), listen: () => () => {} };
}

// In a notebook the kernel shares it. Changes that we made ourselves are already shown.
function sharedState(model) {
  let ours = false;
  return {
    get: (name) => model.get(name),
    set(changes) {
      ours = true;
      for (const [name, value] of Object.entries(changes)) model.set(name, value);
      ours = false;
      model.save_changes();
    },
    listen(callback) {
      const listeners = NAMES.map((name) => [`change:${name}`, () => { if (!ours) callback([name]); }]);
      for (const [event, listener] of listeners) model.on(event, listener);
      return () => { for (const [event, listener] of listeners) model.off(event, listener); };
    },
  };
}

async function open(element, about, bytes, state) {
  try {
    const explorer = new Explorer(element, about, new Maps(about, await inflate(bytes)), state);
    performance.mark("explorer-drawn");
    return explorer;
  } catch (error) {
    element.textContent = `${WORDS[state.get("lang")].failed}: ${error.message}`;
    throw error;
  }
}

export async function openPage(element, data) {
  const about = JSON.parse(data.textContent);
  const { packed, state } = about;
  delete about.packed;
  data.remove();
  return open(element, about, fromBase64(packed), ownState(state));
}

async function render({ model, el }) {
  const host = el.appendChild(document.createElement("div"));
  const { buffer, byteOffset, byteLength } = model.get("_packed");
  const explorer = await open(host, model.get("_about"), new Uint8Array(buffer, byteOffset, byteLength), sharedState(model));
  return () => explorer.close();
}

export default { render };
