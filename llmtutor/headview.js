// Starts one of bertviz's own view scripts without any network.
//
// The scripts ask for jQuery and d3 through `requirejs`. They use a dozen functions of them, which stand here in
// small; every search stays inside `host`, so views on one page do not meet and nothing leaks into the page.
// tests/test_browser.py compares the drawing with the one that the real d3 and jQuery make.
"use strict";

// Put the live view into `host` and hide the static picture; if that fails, keep the picture and say why.
function start(host, html, script) {
  const picture = host.querySelector("img");
  const live = document.createElement("div");
  live.style.cssText = "background: white; color: black; color-scheme: light; overflow-x: auto; padding: 4px";
  live.innerHTML = html;
  host.append(live);
  const requirejs = (names, run) => run(smallJquery(live), smallD3(live));
  requirejs.config = () => {};
  try {
    script(requirejs, requirejs);
    if (picture) picture.style.display = "none";
  } catch (error) {
    live.textContent = `The interactive view could not start (${error}); the picture shows the same weights. / ` +
      `交互视图无法启动（${error}），图片显示的是同样的权重。`;
  }
}

// jQuery: find or make elements, fill a <select>, listen to it.
function smallJquery(live) {
  return function (what) {
    const nodes = what[0] === "<" ? [document.createElement(/\w+/.exec(what)[0])] : [...live.querySelectorAll(what)];
    const each = (act) => (nodes.forEach(act), self);
    const self = {
      nodes,
      append: (other) => each((node) => node.append(...other.nodes)),
      attr: (name, value) => each((node) => node.setAttribute(name, value)),
      change: () => each((node) => node.dispatchEvent(new Event("change"))),
      empty: () => each((node) => node.replaceChildren()),
      on: (type, listener) => each((node) => node.addEventListener(type, listener)),
      text: (value) => each((node) => { node.textContent = value; }),
      val: (value) => each((node) => { node.value = value; }),
    };
    return self;
  };
}

// d3: selections, the data join, ten colours.
function smallD3(live) {
  const COLOURS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd",
    "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"];
  return {
    version: "llmtutor",
    schemeCategory10: COLOURS,
    scaleOrdinal: (colours) => {
      const seen = [];
      return (value) => {
        if (!seen.includes(value)) seen.push(value);
        return colours[seen.indexOf(value) % colours.length];
      };
    },
    hsl,
    select: (what) => new Selection([{ parent: live, nodes: [typeof what === "string" ? live.querySelector(what) : what] }]),
  };
}

// Groups of nodes; each node carries its datum as `__data__`, each group knows the parent that new nodes go to.
class Selection {
  constructor(groups) {
    this.groups = groups;
  }

  each(act) {
    for (const { nodes } of this.groups) nodes.forEach((node, i) => node && act(node, i));
    return this;
  }

  map(make) {
    return new Selection(this.groups.map(({ parent, nodes }) => (
      { parent, nodes: nodes.map((node, i) => node && make(node, i)) })));
  }

  select(what) {
    return this.map((node) => withDatum(node.querySelector(what), node.__data__));
  }

  selectAll(what) {
    const groups = [];
    this.each((node) => groups.push({ parent: node, nodes: [...node.querySelectorAll(what)] }));
    return new Selection(groups);
  }

  // Join by position: nodes that exist get a datum, the remaining data wait for enter().append().
  data(values) {
    this.waiting = this.groups.map(({ parent, nodes }, j) => {
      const list = typeof values === "function" ? values.call(parent, parent.__data__, j) : values;
      nodes.forEach((node, i) => node && i < list.length && withDatum(node, list[i]));
      return { parent, nodes: list.map((datum, i) => (nodes[i] ? null : { datum })) };
    });
    return this;
  }

  enter() {
    const waiting = new Selection(this.waiting);
    waiting.append = (name) => new Selection(waiting.groups.map(({ parent, nodes }) => (
      { parent, nodes: nodes.map((item) => item && addShape(parent, name, item.datum)) })));
    return waiting;
  }

  append(name) {
    return this.map((node) => addShape(node, name, node.__data__));
  }

  remove() {
    return this.each((node) => node.remove());
  }

  attr(name, value) {
    return this.each((node, i) => {
      const result = valueFor(node, i, value);
      if (result === null) node.removeAttribute(name);
      else node.setAttribute(name, result);
    });
  }

  style(name, value) {
    return this.each((node, i) => node.style.setProperty(name, valueFor(node, i, value)));
  }

  text(value) {
    return this.each((node, i) => { node.textContent = valueFor(node, i, value); });
  }

  classed(name, on) {
    return this.each((node) => node.classList.toggle(name, on));
  }

  on(type, listener) {
    return this.each((node, i) => node.addEventListener(type, () => listener.call(node, node.__data__, i)));
  }
}

function valueFor(node, i, value) {
  return typeof value === "function" ? value.call(node, node.__data__, i) : value;
}

function withDatum(node, datum) {
  if (node && datum !== undefined) node.__data__ = datum;
  return node;
}

function addShape(parent, name, datum) {
  const shape = document.createElementNS("http://www.w3.org/2000/svg", name.replace("svg:", ""));
  return withDatum(parent.appendChild(shape), datum);
}

// Hue (degrees), saturation and lightness (0 to 1) of "#rrggbb"; prints as a CSS colour.
function hsl(colour) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16) / 255);
  const [low, high] = [Math.min(r, g, b), Math.max(r, g, b)];
  const range = high - low;
  const l = (low + high) / 2;
  const sector = high === r ? (g - b) / range : high === g ? (b - r) / range + 2 : (r - g) / range + 4;
  return {
    h: range ? (60 * sector + 360) % 360 : 0,
    s: range ? range / (1 - Math.abs(2 * l - 1)) : 0,
    l,
    toString() { return `hsl(${this.h}, ${100 * this.s}%, ${100 * this.l}%)`; },
  };
}
