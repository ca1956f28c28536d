// Weights, colours and small helpers of the explorer: nothing here knows the page. Part of one module, see viewer.js.

// ---- Weights ---------------------------------------------------------------------------------------------------

// Read zlib data with what every browser has had since 2023.
export async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%.()*+-;,=>?@^_`{|}~";
const DIGITS = Uint8Array.from({ length: 128 }, (_, code) => LETTERS.indexOf(String.fromCharCode(code)));

// Bytes as a saved page holds them (viewer.py, `_as_text`): five characters are four bytes; before a colon stands how many bytes there are.
export function fromBase85(text) {
  const begin = text.indexOf(":") + 1;
  const bytes = new Uint8Array((4 * (text.length - begin)) / 5);
  const view = new DataView(bytes.buffer);
  for (let i = begin, at = 0; i < text.length; i += 5, at += 4) {
    let number = 0;
    for (let j = i; j < i + 5; j++) number = number * 85 + DIGITS[text.charCodeAt(j)];
    view.setUint32(at, number);
  }
  return bytes.subarray(0, Number(text.slice(0, begin - 1)));
}

// A buffer as anywidget hands it over.
export const bytesOf = ({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength);

// The weight that a code stands for; codes between two whole ones tell where a code begins and ends. Fineness 0 means
// differences: 128 is none, and the root of their size goes both ways.
export function weightOf(code, fineness) {
  if (!fineness) return Math.sign(code - 128) * ((code - 128) / 127) ** 2;
  const edge = fineness / 255;
  const joint = fineness * edge;
  return code <= joint ? (code / fineness) ** 2 : edge * edge + (code - joint) / 127.5;
}

const UNSCALED = { scale: 1, share: 0, slack: 0 };

// All weights of all heads, as bytes; a causal map holds only its lower triangle. Where the form says `small`, only the
// small maps have come, and each map is put in its place when it arrives (`fill`).
export class Maps {
  constructor({ shape, causal, nan, whole, fineness, small }, raw) {
    [this.nLayers, this.nHeads, this.nQueries, this.nKeys] = shape;
    this.causal = causal;
    this.whole = whole;
    this.signed = fineness === 0;
    this.perMap = this.rowStart(this.nQueries);
    this.count = this.nLayers * this.nHeads * this.perMap;
    const bits = nan ? this.nLayers * Math.ceil((this.nHeads * this.perMap) / 8) : 0;
    const wanted = small ? this.nLayers * this.nHeads * small[0] * small[1] : this.count + bits;
    if (raw.length !== wanted) throw new Error(`wanted ${wanted} bytes of weights, got ${raw.length}`);
    this.smallMaps = small ? { size: small, raw } : null;
    this.missing = small ? new Uint8Array(this.nLayers * this.nHeads).fill(1) : null;
    this.raw = small ? new Uint8Array(this.count + bits) : raw;
    this.nan = nan;
    const codes = [...Array(256).keys()];
    this.weights = Float32Array.from(codes, (code) => weightOf(code, fineness));
    const edge = (code) => code + (code < 128 && this.signed ? -0.5 : 0.5);
    this.errors = Float32Array.from(codes, (code) => Math.abs(weightOf(edge(code), fineness) - weightOf(code, fineness)));
    this.sizes = this.signed ? Uint8Array.from(codes, (code) => Math.abs(code - 128)) : Uint8Array.from(codes);
  }

  // The first of some heads whose map has not come yet, or undefined.
  lacks(layer, heads) {
    return this.missing ? heads.find((head) => this.missing[layer * this.nHeads + head]) : undefined;
  }

  // Put one map in its place: its codes, and where it is NaN one bit for each weight after them.
  fill(layer, head, raw, nan) {
    this.raw.set(raw.subarray(0, this.perMap), this.mapStart(layer, head));
    const bytes = Math.ceil((this.nHeads * this.perMap) / 8);
    for (let i = 0; nan && i < this.perMap; i++) {
      if (!((raw[this.perMap + (i >> 3)] >> (7 - (i & 7))) & 1)) continue;
      const place = head * this.perMap + i;
      this.raw[this.count + layer * bytes + (place >> 3)] |= 1 << (7 - (place & 7));
    }
    this.missing[layer * this.nHeads + head] = 0;
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
  // `scalings[query * heads + number]` by what each row was scaled. `weights` may be an earlier view's, to be written over:
  // large maps would else leave a megabyte behind at each change.
  view(layer, heads, combine = "mean", hidden = [], weights = null) {
    const { nQueries, nKeys } = this;
    if (weights?.length === nQueries * nKeys) weights.fill(0);
    else weights = new Float32Array(nQueries * nKeys);
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
        if (heads.length === 1 && scale === 1 && !nan) { // what is nearly always looked at
          for (let key = 0; key < length; key++) weights[first + key] = known[raw[start + key]];
          continue;
        }
        for (let key = 0; key < length; key++) {
          let weight = Math.min(1, known[raw[start + key]] * scale);
          if (nan && this.isNaN(layer, start + key)) weight = NaN;
          if (combine === "mean" || !number) weights[first + key] += weight * part;
          else if (!(Math.abs(weight) <= Math.abs(weights[first + key]))) weights[first + key] = weight; // NaN, too
        }
        for (const key of hidden) if (key < length) weights[first + key] = 0;
      }
    }
    return { weights, shares, scalings };
  }

  // A map made small: at most side x side cells, each the largest weight in it, so that a thin line does not vanish.
  // It reads the codes themselves, as there may be millions: in one row a larger code is a larger weight.
  small(layer, head, side, hidden = []) {
    const { nQueries, nKeys, sizes } = this;
    if (this.smallMaps) return this.smallMap(layer, head);
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
        let largest = this.signed ? 128 : 0;
        for (let at = start + firsts[i]; at < end; at++) {
          if (sizes[raw[at]] > sizes[largest] && !(hidden.length && hidden.includes(at - start))) largest = raw[at];
          if (nan && this.isNaN(layer, at)) small[to + i] = NaN;
        }
        const weight = Math.min(1, this.weights[largest] * scale);
        if (Math.abs(weight) > Math.abs(small[to + i])) small[to + i] = weight; // NaN, once there, stays
      }
    }
    return { small, rows, columns };
  }

  smallMap(layer, head) {
    const [rows, columns] = this.smallMaps.size;
    const start = (layer * this.nHeads + head) * rows * columns;
    return { small: Float32Array.from(this.smallMaps.raw.subarray(start, start + rows * columns), (code) => this.weights[code]), rows, columns };
  }

  // By what to multiply a row so that what is not hidden sums to 1, how much is hidden, and how far off the sum of the
  // rest may be. Where rows are known to sum to 1, the rest is what the hidden keys leave: only their errors count.
  scaling(layer, start, length, hidden) {
    if (!hidden.length) return UNSCALED;
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
}

// The largest size of some weights; NaN has none.
export function largest(weights) {
  let top = 0;
  for (let i = 0; i < weights.length; i++) if (Math.abs(weights[i]) > top) top = Math.abs(weights[i]);
  return top;
}

// 1 for the largest value, of differences for the largest size; equal values share a rank.
export function rankOf(values, index) {
  let rank = 1;
  for (const value of values) if (Math.abs(value) > Math.abs(values[index])) rank++;
  return rank;
}

// The group that a token belongs to, and the first token of a group, where `first` lists the first token of each group.
export const groupOf = (first, token) => (first ? first.findLastIndex((start) => start <= token) : token);
export const firstOf = (first, group) => (first ? first[group] : group);

// ---- Colours ---------------------------------------------------------------------------------------------------

// One hue, its lightness rising or falling steadily: it reads the same for colour-blind eyes and in grey.
const RAMPS = {
  light: [[255, 255, 255], [158, 202, 225], [49, 130, 189], [8, 48, 107]],
  dark: [[22, 27, 34], [28, 84, 134], [79, 165, 214], [232, 246, 255]],
};
// Two hues for differences, from the page's own colour at 0 outwards: orange below, blue above.
const BELOW = {
  light: [[255, 255, 255], [253, 190, 133], [217, 95, 14], [102, 37, 6]],
  dark: [[22, 27, 34], [140, 74, 20], [236, 140, 50], [255, 240, 220]],
};
const MASKED = { light: [228, 228, 228], dark: [48, 54, 61] };
const NAN = [217, 95, 2];

// 256 colours from 0 to the largest weight; of differences from the most negative over 128 for 0 to the largest.
export function rampColours(theme, signed = false) {
  if (signed) {
    const [up, down] = [RAMPS, BELOW].map((ramps) => rampOf(ramps[theme]));
    return Array.from({ length: 256 }, (_, i) => (i < 128 ? down : up)[Math.min(255, Math.round((Math.abs(i - 128) * 255) / 127))]);
  }
  return rampOf(RAMPS[theme]);
}

function rampOf(stops) {
  return Array.from({ length: 256 }, (_, i) => {
    const t = (i / 255) * (stops.length - 1);
    const at = Math.min(stops.length - 2, Math.floor(t));
    return stops[at].map((from, channel) => Math.round(from + (stops[at + 1][channel] - from) * (t - at)));
  });
}

// Which of the 256 colours a weight gets: a function for many weights, and for one. Map, text and legend all ask here.
export function colourScale(top, shade, signed = false) {
  const root = shade === "sqrt";
  if (signed) {
    const part = (size) => (root ? Math.sqrt(size / top) : size / top) * 127;
    return (weight) => Math.round(Math.max(1, Math.min(255, 128 + Math.sign(weight) * part(Math.abs(weight)))));
  }
  const factor = 255 / (root ? Math.sqrt(top) : top);
  return (weight) => Math.min(255, ((root ? Math.sqrt(weight) : weight) * factor + 0.5) | 0);
}
export const colourIndex = (weight, top, shade, signed = false) => colourScale(top, shade, signed)(weight);

// What is not a weight, on the screen and in figures.
const PAPERS = {
  light: { page: "#ffffff", ink: "#1f2328", line: "#c4cad1", soft: "#59636e", accent: "#c2410c", bar: "#6b7580" },
  dark: { page: "#161b22", ink: "#e6edf3", line: "#484f58", soft: "#8b949e", accent: "#ffb454", bar: "#9aa4ae" },
};

const css = (rgb) => `rgb(${rgb.join(",")})`;
const isDark = (rgb) => 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] < 140;

// A token in at most so many columns; a Chinese character takes two.
export function shorten(token, width) {
  if (2 * token.length <= width) return token;
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
    if (value === undefined) continue;
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
  return Math.ceil(Math.min(120, Math.max(...tokens.map((token) => context.measureText(shorten(token, 14)).width)) + 12));
}

const FONT = 'system-ui, "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", "WenQuanYi Micro Hei", sans-serif';
const MAX_LINES = 3000;
const MAX_ROWS = 100; // of the table
