// Where the explorer lives: a saved page, the output of a notebook cell with or without a kernel, a widget beside others.
// Part of one module, see viewer.js.

const NAMES = [
  "part", "unit", "layer", "heads", "query", "key", "mode", "combine", "shade", "threshold", "hide", "tab", "ablated", "lang",
];
const DEFAULTS = { combine: "mean", shade: "sqrt", threshold: 0, hide: "none", tab: 0, ablated: [] };

// ---- Who holds the state -----------------------------------------------------------------------------------------

// In a saved page nobody else holds the state, and nobody answers questions. `touched` is what the reader has changed.
function ownState(start) {
  const values = { ...DEFAULTS, ...start };
  const touched = {};
  return { touched, get: (name) => values[name], set: (changes) => Object.assign(values, changes) && Object.assign(touched, changes),
    listen: () => () => {} };
}

// In a notebook the kernel shares it. Changes that we made ourselves are already shown.
function sharedState(model) {
  let ours = false;
  const { ask, answered, forget } = questions(model);
  return {
    ask,
    get: (name) => model.get(name),
    set(changes) {
      ours = true;
      for (const [name, value] of Object.entries(changes)) model.set(name, value);
      ours = false;
      model.save_changes();
    },
    listen(callback) {
      const listeners = NAMES.map((name) => [`change:${name}`, () => { if (!ours) callback([name]); }]);
      listeners.push(["msg:custom", answered]);
      for (const [event, listener] of listeners) model.on(event, listener);
      return () => {
        for (const [event, listener] of listeners) model.off(event, listener);
        forget();
      };
    },
  };
}

// Ask the kernel; the answer comes when it has time for us. Several views of one explorer hear all answers.
function questions(model) {
  const waiting = new Map(); // number of a question -> what to do with its answer
  return {
    ask(question, details) {
      const id = `${Date.now()}-${Math.random()}`;
      return new Promise((resolve, reject) => {
        waiting.set(id, (answer) => (answer.content.error ? reject(new Error(answer.content.error)) : resolve(answer)));
        model.send({ id, ask: question, ...details });
      });
    },
    answered(content, buffers) {
      const done = waiting.get(content.id);
      waiting.delete(content.id);
      done?.({ content, buffers });
    },
    forget: () => waiting.clear(),
  };
}

// ---- Opening -----------------------------------------------------------------------------------------------------

async function open(element, about, packed, state) {
  try {
    const explorer = await new Explorer(element, about, packed, state).start();
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
  return open(element, about, fromBase85(packed), ownState(state));
}

// What anywidget calls where the explorer stands in another widget, and what `Place` calls where it stands alone.
async function render({ model, el }) {
  const begin = () => open(el.appendChild(document.createElement("div")), model.get("_about"), bytesOf(model.get("_packed")), sharedState(model));
  let explorer = begin();
  const again = async () => { // the kernel shows other maps
    const before = explorer;
    explorer = before.then(async (old) => {
      const { focus } = old.live;
      old.close();
      old.element.remove();
      const fresh = await begin();
      fresh.live.focus = focus;
      return fresh;
    });
  };
  model.on("change:_packed", again);
  await explorer;
  return async () => {
    model.off("change:_packed", again);
    (await explorer).close();
  };
}

// ---- The output of a notebook cell -------------------------------------------------------------------------------

// The explorers whose kernel has answered, by name. All outputs of a page look here, whichever module they came with.
const awake = () => (globalThis.llmtutorExplorers ??= new Map());
const AWAKE = "llmtutor-awake"; // the event that tells of a new one, or of one that is gone

// anywidget calls this when the kernel makes an explorer, or when a page that is opened again finds the kernel running. A
// notebook may also hold the state of a kernel that is gone: so the explorer is awake only when the kernel answers.
async function initialize({ model }) {
  const name = model.get("_about").name;
  const { ask, answered } = questions(model);
  const tell = () => document.dispatchEvent(new CustomEvent(AWAKE, { detail: name }));
  model.on("msg:custom", answered);
  ask("awake").then(() => {
    model.off("msg:custom", answered);
    awake().set(name, model);
    tell();
  });
  return () => { // Python closed it: what is shown goes on by itself
    awake().delete(name);
    tell();
  };
}

const PATIENCE = 500; // milliseconds; a kernel that takes longer to answer finds the explorer open already

// An element that holds an explorer while it stands in the page: with the kernel where that answers, by itself where not.
const placeClass = () => class extends HTMLElement {
  connectedCallback() {
    if (this.opened) return; // it was only moved
    this.heard = ({ detail }) => { if (detail === this.name) this.begin(); };
    document.addEventListener(AWAKE, this.heard);
    this.begin(awake().has(this.name) || this.touched ? 0 : PATIENCE);
  }

  disconnectedCallback() {
    setTimeout(() => { if (!this.isConnected) this.end(); });
  }

  // Open anew: what is asked for last is what stays.
  begin(patience = 0) {
    const mine = (this.turn = Symbol("turn"));
    const before = this.opened;
    this.hurry?.();
    this.opened = (async () => {
      await (await before)?.();
      if (patience) await new Promise((done) => { this.hurry = done; setTimeout(done, patience); });
      if (this.turn !== mine || !this.isConnected) return null;
      const model = awake().get(this.name);
      return (model ? this.openLive(model) : this.openAlone()).catch((error) => this.fail(error));
    })();
  }

  fail(error) {
    console.error(error);
    this.picture.style.display = "";
    this.replaceChildren(`${(WORDS[this.about.state?.lang] || WORDS.en).failed}: ${error.message}`);
    return () => this.replaceChildren();
  }

  async openLive(model) {
    const changes = Object.entries(this.touched || {}).filter(([name]) => NAMES.includes(name));
    if (changes.length) {
      for (const [name, value] of changes) model.set(name, value);
      model.save_changes();
    }
    this.touched = null;
    const box = this.box();
    const close = await render({ model, el: box });
    return async () => {
      const same = model.get("_about").text === this.about.text; // else it shows another text than the output keeps
      this.touched = same ? Object.fromEntries(NAMES.filter((name) => name !== "ablated").map((name) => [name, model.get(name)])) : null;
      await close();
      box.remove();
    };
  }

  async openAlone() {
    const box = this.box();
    const { packed, state, ...about } = this.about;
    if (packed === undefined) { // too large to be kept
      box.textContent = WORDS[state.lang].asleep;
      return () => box.remove();
    }
    const own = ownState({ ...state, ...this.touched });
    const explorer = await open(box.appendChild(document.createElement("div")), about, fromBase85(packed), own);
    this.touched = Object.assign(own.touched, this.touched);
    return () => { explorer.close(); box.remove(); };
  }

  // The picture gives way only when there is something better to see.
  box() {
    this.style.display = "block";
    this.picture.style.display = this.about.packed || awake().has(this.name) ? "none" : "";
    return this.appendChild(document.createElement("div"));
  }

  end() {
    document.removeEventListener(AWAKE, this.heard);
    this.turn = null;
    const before = this.opened;
    this.opened = null;
    before?.then((close) => close?.());
  }
};

// Called by the script of an output; `host` holds the picture.
export function openOutput(host, tag, about) {
  if (!customElements.get(tag)) customElements.define(tag, placeClass());
  host.append(Object.assign(document.createElement(tag), { about, name: about.name, picture: host.querySelector("img") }));
}

export default { initialize, render };
