// The answer of a segmenter: the mask over the photo, and the area of each class.

import { send, withQuery } from "./api.js";
import { bar, make, percent } from "./dom.js";

const NONE = 255;
const MAX_PIXELS = 4e6; // of the canvas
const DIMMED = 40; // opacity of the other classes while one is highlighted

/** Decode COCO's compressed run lengths: runs of 0 and 1 in turn, column by column. */
export function runLengths(counts) {
  const runs = [];
  for (let at = 0; at < counts.length;) {
    let value = 0;
    let shift = 0;
    let code;
    do {
      code = counts.charCodeAt(at++) - 48;
      value |= (code & 31) << shift;
      shift += 5;
    } while (code & 32);
    if (code & 16) value |= -1 << shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

/** The class of each pixel, row by row. */
export function labelMap(prediction) {
  const { width, height } = prediction;
  const labels = new Uint8Array(width * height).fill(NONE);
  for (const { index, counts } of prediction.mask.classes) {
    let at = 0;
    runLengths(counts).forEach((run, turn) => {
      const end = at + run;
      if (turn % 2) for (; at < end; at++) labels[(at % height) * width + Math.floor(at / height)] = index;
      at = end;
    });
  }
  return { labels, width, height };
}

/** Draw a label map; `only` keeps one class bright. */
export function drawMask(canvas, { labels, width, height }, palette, only = null) {
  const step = Math.ceil(Math.sqrt((width * height) / MAX_PIXELS));
  canvas.width = Math.floor(width / step);
  canvas.height = Math.floor(height / step);
  const image = new ImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  const colors = palette.map(([red, green, blue], index) =>
    ((only === null || only === index ? 255 : DIMMED) << 24 | blue << 16 | green << 8 | red) >>> 0);
  for (let y = 0, at = 0; y < canvas.height; y++) {
    for (let x = 0; x < canvas.width; x++, at++) {
      const label = labels[y * step * width + x * step];
      if (label !== NONE) pixels[at] = colors[label];
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

export function showMask(container, stage, answer, { model, call, opacity }) {
  const prediction = answer.predictions[0];
  const map = labelMap(prediction);
  const palette = model.contract.palette;
  let highlighted = null;
  const rows = new Map();
  const highlight = (index) => {
    if (index === highlighted) return;
    highlighted = index;
    drawMask(stage.overlay, map, palette, index);
    rows.forEach((row, each) => row.classList.toggle("lit", each === index));
  };
  for (const area of prediction.classes) rows.set(area.index, classRow(area, palette, highlight));
  drawMask(stage.overlay, map, palette);
  stage.overlay.style.opacity = opacity.value;
  stage.onPoint = (x, y) => {
    if (x === null) return null;
    const label = map.labels[Math.floor(y * map.height) * map.width + Math.floor(x * map.width)];
    rows.forEach((row, each) => row.classList.toggle("lit", each === label));
    return model.labels[label];
  };
  container.replaceChildren(
    make("h3", {}, "Areas"),
    opacitySlider(stage, opacity),
    make("ul", { class: "classes", pointerleave: () => highlight(null) }, ...rows.values()),
    downloads(call));
}

function classRow(area, palette, highlight) {
  const color = `rgb(${palette[area.index].join(" ")})`;
  const swatch = make("span", { class: "swatch", "aria-hidden": "true" });
  swatch.style.background = color;
  return make("li", {}, make("button", {
    class: "class",
    type: "button",
    pointerenter: () => highlight(area.index),
    focus: () => highlight(area.index),
    blur: () => highlight(null),
  }, swatch, make("span", { class: "label" }, area.label),
  bar(area.fraction, color), make("span", { class: "number" }, percent(area.fraction))));
}

function opacitySlider(stage, opacity) {
  const input = make("input", {
    type: "range", min: 0, max: 1, step: 0.05, value: opacity.value,
    input: () => {
      opacity.value = input.value;
      stage.overlay.style.opacity = input.value;
    },
  });
  return make("label", { class: "slider" }, make("span", {}, "Opacity of the mask"), input);
}

/** The files come from the service, so that they are what a program gets. */
function downloads(call) {
  const files = { mask: {}, overlay: { overlay: true } };
  const buttons = Object.entries(files).map(([name, query]) => make("button", {
    class: "button", type: "button", click: () => download(call, name, query),
  }, `Save ${name}`));
  return make("div", { class: "row" }, ...buttons);
}

async function download(call, name, extra) {
  const { model, version } = call.query;
  const response = await send(withQuery(call.path, { model, version, ...extra }), {
    method: "POST", body: call.photos[0].blob, headers: { Accept: "image/png" },
  });
  const address = URL.createObjectURL(await response.blob());
  const stem = call.photos[0].name.replace(/\.\w+$/, "");
  make("a", { href: address, download: `${stem}.${name}.png` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
