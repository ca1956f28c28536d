// Decoding and geometry of the explorer: `node --test tests/viewer.test.mjs`. test_viewer.py packs what is read here.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

const files = ["viewer_data.js", "viewer_words.js", "viewer_panels.js", "viewer.js", "viewer_places.js"]; // one module, as viewer.py puts it together
const source = files.map((name) => readFileSync(new URL(`../llmtutor/${name}`, import.meta.url), "utf8")).join("\n");
const viewer = await import(`data:text/javascript;base64,${Buffer.from(source).toString("base64")}`);
const { Maps, colourIndex, firstOf, fromBase85, groupOf, inflate, largest, percent, rampColours, rankOf, shorten, weightOf, withError } = viewer;

const close = (a, b, by = 1e-6) => assert.ok(Math.abs(a - b) <= by, `${a} is not ${b}`);

// Maps whose code is a different number at each place: layer, head, query, key can be read off.
function numbered(nLayers, nHeads, nQueries, nKeys, causal) {
  const places = [];
  for (let l = 0; l < nLayers; l++) for (let h = 0; h < nHeads; h++) for (let q = 0; q < nQueries; q++) {
    for (let k = 0; k < (causal ? q + 1 + nKeys - nQueries : nKeys); k++) places.push([l, h, q, k]);
  }
  const code = ([l, h, q, k]) => 1 + 100 * l + 30 * h + 6 * q + k;
  const raw = Uint8Array.from(places, code);
  return { maps: new Maps({ shape: [nLayers, nHeads, nQueries, nKeys], causal, nan: false, fineness: 255 }, raw), places, code };
}

for (const [shape, causal] of [[[2, 3, 4, 4], true], [[2, 3, 3, 5], true], [[2, 3, 3, 5], false], [[2, 3, 5, 3], false]]) {
  test(`each weight is found: ${shape} causal=${causal}`, () => {
    const { maps, places, code } = numbered(...shape, causal);
    for (const place of places) {
      close(maps.at(...place), (code(place) / 255) ** 2);
      const { weights } = maps.view(place[0], [place[1]]);
      close(weights[place[2] * shape[3] + place[3]], (code(place) / 255) ** 2);
    }
    if (causal) assert.equal(maps.at(0, 0, 0, 1 + shape[3] - shape[2]), 0);
  });
}

test("bytes that do not fit are refused", () => {
  assert.throws(() => new Maps({ shape: [1, 1, 3, 3], causal: true, nan: false, fineness: 255 }, new Uint8Array(9)), /wanted 6 bytes.*got 9/);
});

test("average, maximum, hidden keys", () => {
  const raw = Uint8Array.from([255, 200, 100, 255, 50, 240]); // two heads, two queries, causal
  const maps = new Maps({ shape: [1, 2, 2, 2], causal: true, nan: false, fineness: 255 }, raw);
  const w = (code) => (code / 255) ** 2;
  close(maps.view(0, [0, 1]).weights[2], (w(200) + w(50)) / 2);
  close(maps.view(0, [0, 1], "max").weights[2], w(200));
  close(maps.view(0, [0, 1], "max").weights[3], w(240));
  const hidden = maps.view(0, [0], "mean", [0]);
  assert.deepEqual([...hidden.weights], [0, 0, 0, 1]); // what is left of the row is scaled to 1; the first row has nothing left
  close(hidden.shares[0], 1);
  close(hidden.shares[1], w(200));
});

test("a view written over another one keeps nothing of it", () => {
  for (const [nQueries, nKeys, causal] of [[4, 4, true], [3, 5, true], [3, 5, false], [5, 3, false]]) {
    const { maps } = numbered(2, 3, nQueries, nKeys, causal);
    let kept = null;
    for (const [layer, heads, combine, hidden] of [[0, [0, 1, 2], "max", []], [1, [2], "mean", []], [0, [1], "mean", [0]], [0, [1], "mean", []],
      [1, [0, 2], "mean", []], [0, [0], "mean", []]]) {
      const once = maps.view(layer, heads, combine, hidden);
      const again = maps.view(layer, heads, combine, hidden, kept);
      assert.ok(!kept || again.weights === kept);
      assert.deepEqual(again.weights, once.weights);
      assert.equal(largest(again.weights), Math.max(...once.weights));
      kept = again.weights;
    }
  }
  const { maps } = numbered(1, 1, 2, 3, false);
  const small = new Float32Array(4);
  assert.notEqual(maps.view(0, [0], "mean", [], small).weights, small); // of another size: left alone
});

test("where rows sum to 1, the rest is what the hidden keys leave", () => {
  const shape = { shape: [1, 1, 2, 3], causal: false, nan: false, fineness: 255 };
  const raw = Uint8Array.from([228, 108, 114, 255, 0, 0]); // 0.799, 0.179, 0.2: as bytes they sum to more than 1
  const rest = 1 - (228 / 255) ** 2;
  const exact = new Maps({ ...shape, whole: true }, raw).view(0, [0], "mean", [0]);
  close(exact.weights[1], (108 / 255) ** 2 / rest);
  close(exact.scalings[0].slack, (228.5 / 255) ** 2 - (228 / 255) ** 2);
  assert.deepEqual([...exact.weights.subarray(3)], [0, 0, 0]); // all of the second row is hidden
  const summed = new Maps({ ...shape, whole: false }, raw).view(0, [0], "mean", [0]);
  close(summed.weights[1] + summed.weights[2], 1);
  close(summed.scalings[0].slack, (108.5 ** 2 - 108 ** 2 + 114.5 ** 2 - 114 ** 2) / 255 ** 2);
});

test("NaN is where it was, and in the thumbnail too", () => {
  const raw = Uint8Array.from([255, 100, 100, 200, 0b01000000]);
  const maps = new Maps({ shape: [1, 1, 2, 2], causal: false, nan: true, fineness: 255 }, raw);
  assert.ok(Number.isNaN(maps.at(0, 0, 0, 1)) && !Number.isNaN(maps.at(0, 0, 0, 0)));
  const { weights } = maps.view(0, [0]);
  assert.deepEqual([...weights].map(Number.isNaN), [false, true, false, false]);
  assert.ok(Number.isNaN(maps.small(0, 0, 1).small[0]));
});

test("a thumbnail keeps the largest weight of each cell", () => {
  const raw = Uint8Array.from([0, 10, 90, 0, 0, 20, 0, 0, 0, 0, 30, 0]);
  const maps = new Maps({ shape: [1, 1, 2, 6], causal: false, nan: false, fineness: 255 }, raw);
  const { small, rows, columns } = maps.small(0, 0, 3);
  assert.deepEqual([rows, columns], [2, 3]);
  [10, 90, 20, 0, 0, 30].forEach((code, i) => close(small[i], (code / 255) ** 2));
  const without = maps.small(0, 0, 3, [2]).small; // hidden, and the rest of the row scaled to 1
  [100, 0, 400].forEach((part, i) => close(without[i], part / 500));
  const { maps: others } = numbered(2, 3, 4, 4, true);
  const whole = others.small(1, 2, 9).small;
  others.view(1, [2]).weights.forEach((weight, i) => close(whole[i], weight));
});

test("differences: the sign stays, the larger size wins, 0 has the colour of the page", () => {
  const raw = Uint8Array.from([128, 1, 255, 64, 200, 128, 100, 160]); // two heads, one query, four keys
  const maps = new Maps({ shape: [1, 2, 1, 4], causal: false, nan: false, fineness: 0 }, raw);
  const w = (code) => Math.sign(code - 128) * ((code - 128) / 127) ** 2;
  [w(128), w(1), w(255), w(64)].forEach((weight, key) => close(maps.at(0, 0, 0, key), weight));
  close(maps.view(0, [0, 1], "max").weights[3], w(64));
  close(maps.view(0, [0, 1], "max").weights[0], w(200));
  close(maps.view(0, [0, 1]).weights[1], (w(1) + w(128)) / 2);
  assert.deepEqual([...maps.small(0, 1, 2).small].map((x) => Math.sign(x)), [1, 1]);
  close(maps.small(0, 0, 2).small[1], w(255));
  close(maps.errorAt(0, 0, 0, 1), 1 - (126.5 / 127) ** 2, 1e-4);
  for (const theme of ["light", "dark"]) assert.deepEqual(rampColours(theme, true)[128], rampColours(theme)[0]);
  assert.deepEqual([-1, -0.25, 0, 0.25, 1].map((x) => colourIndex(x, 1, "sqrt", true)), [1, 65, 128, 192, 255]);
  assert.equal(rankOf([0.2, -0.5, 0.1], 0), 2);
});

test("a map that comes later is put in its place, NaN too", () => {
  const form = { shape: [2, 2, 3, 3], causal: true, nan: true, whole: true, fineness: 255, small: [1, 1] };
  const maps = new Maps(form, Uint8Array.from([255, 0, 10, 20]));
  assert.deepEqual([maps.lacks(1, [1]), maps.lacks(0, [1, 0])], [1, 1]);
  maps.fill(1, 1, Uint8Array.from([255, 10, 20, 30, 40, 50, 0b00010000]), true); // the fourth is NaN
  assert.equal(maps.lacks(1, [1]), undefined);
  assert.equal(maps.lacks(1, [1, 0]), 0);
  close(maps.at(1, 1, 1, 1), (20 / 255) ** 2);
  assert.ok(Number.isNaN(maps.at(1, 1, 2, 0)) && !Number.isNaN(maps.at(1, 1, 2, 1)) && !Number.isNaN(maps.at(1, 0, 2, 0)));
  close(maps.small(1, 1, 9).small[0], (20 / 255) ** 2);
  assert.throws(() => new Maps(form, new Uint8Array(3)), /wanted 4 bytes/);
});

test("words and their first tokens", () => {
  assert.deepEqual([0, 1, 2, 3, 4].map((token) => groupOf([0, 1, 3], token)), [0, 1, 1, 2, 2]);
  assert.deepEqual([firstOf([0, 1, 3], 2), firstOf(undefined, 4), groupOf(undefined, 4)], [3, 4, 4]);
});

test("codes: the two parts meet, in value and in step", () => {
  for (const fineness of [255, 80, 56]) {
    const joint = (fineness * fineness) / 255;
    close(weightOf(joint, fineness), (fineness / 255) ** 2);
    if (fineness < 255) close((weightOf(joint + 0.01, fineness) - weightOf(joint, fineness)) / 0.01, 1 / 127.5, 1e-4);
    assert.equal(weightOf(0, fineness), 0);
  }
});

test("ranks, colours, words", () => {
  assert.deepEqual([0, 1, 2, 3].map((i) => rankOf([0.2, 0.5, 0.2, 0.1], i)), [2, 1, 2, 4]);
  assert.deepEqual([0, 0.25, 1, 2].map((w) => colourIndex(w, 1, "linear")), [0, 64, 255, 255]);
  assert.deepEqual([0, 0.25, 1].map((w) => colourIndex(w, 1, "sqrt")), [0, 128, 255]);
  for (const theme of ["light", "dark"]) {
    const grey = rampColours(theme).map(([r, g, b]) => 0.299 * r + 0.587 * g + 0.114 * b);
    const sign = theme === "light" ? -1 : 1;
    assert.ok(grey.every((value, i) => !i || sign * (value - grey[i - 1]) > -0.7), "lightness goes one way");
    assert.ok(Math.abs(grey[255] - grey[0]) > 150);
  }
  assert.equal(shorten("abcdef", 4), "abcd…");
  assert.equal(shorten("今天天气", 5), "今天…");
  assert.equal(shorten("👩x", 2), "👩…");
  assert.equal(largest([0.25, -0.5, NaN]), 0.5);
  assert.equal(percent(0.634), "63 %");
  assert.equal(percent(0.0123), "1.2 %");
  assert.deepEqual(withError(0.12345, 0.0019), ["0.123", "0.003"]);
});

test("base85 and zlib", async () => {
  const bytes = fromBase85("12:c${NoVrBsV02lxZ"); // Python: _as_text(zlib.compress(bytes([1, 2, 3, 4])))
  assert.deepEqual([...await inflate(bytes)], [1, 2, 3, 4]);
});
