// What each visual token looks at, as maps over the photo.

import { bar, make, percent, roving } from "./dom.js";

const THUMB_WIDTH = 120;
const CLAIMS_SHOWN = 3;
const COLORS = [ // by share of the maximum, with opacity
  [0, [14, 12, 44, 0.6]],
  [0.12, [76, 40, 160, 0.58]],
  [0.35, [196, 60, 150, 0.56]],
  [0.65, [250, 130, 70, 0.6]],
  [1, [255, 232, 120, 0.7]],
];
const PALETTE = Array.from({ length: 256 }, (_, value) => colorOf(value / 255));

/** Draw an attention map over a canvas of the photo's shape. */
export function drawMap(canvas, token, grid, { box, width, height }) {
  const [rows, columns] = grid;
  const image = new ImageData(columns, rows);
  token.map.forEach((value, cell) => image.data.set(PALETTE[value], 4 * cell));
  const small = document.createElement("canvas");
  small.width = columns;
  small.height = rows;
  small.getContext("2d").putImageData(image, 0, 0);
  const context = canvas.getContext("2d");
  const [left, top, right, bottom] = box;
  const [x, y] = [canvas.width / width, canvas.height / height];
  const area = [left * x, top * y, (right - left) * x, (bottom - top) * y];
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = `rgb(${PALETTE[0].slice(0, 3).join(" ")} / 85%)`; // what the model does not see
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.clearRect(...area);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, ...area);
}

/** How much of the attention at a place each token of a module has. */
export function claims(module, { box, width, height }, x, y) {
  const [rows, columns] = module.grid;
  const [left, top, right, bottom] = box;
  const column = Math.floor(((x * width - left) / (right - left)) * columns);
  const row = Math.floor(((y * height - top) / (bottom - top)) * rows);
  if (column < 0 || row < 0 || column >= columns || row >= rows) return [];
  const found = module.tokens.map((token) => ({
    token, share: (token.map[row * columns + column] / 255) * token.maximum,
  }));
  const sum = found.reduce((total, each) => total + each.share, 0) || 1;
  return found.map((each) => ({ ...each, share: each.share / sum })).sort((a, b) => b.share - a.share);
}

export function showTokens(container, stage, answer, photo) {
  const prediction = answer.predictions[0];
  const modules = prediction.modules.map(withMaps);
  const facts = make("p", { class: "facts", "aria-live": "polite" });
  const buttons = new Map();
  let chosen = null;

  const choose = (module, token) => {
    chosen = { module, token };
    drawMap(stage.overlay, token, module.grid, prediction);
    buttons.forEach((button, each) => button.setAttribute("aria-pressed", each === token));
    facts.replaceChildren(...factsOf(module, token));
  };
  const thumb = photoThumb(photo, prediction);
  const sections = modules.toReversed().map((module) => {
    const list = make("div", { class: "tokens", role: "group", "aria-label": module.name });
    for (const token of ranked(module.tokens)) {
      const button = tokenButton(thumb, module, token, prediction, () => choose(module, token));
      buttons.set(token, button);
      list.append(button);
    }
    roving(list, "button");
    return make("section", {}, make("h4", {}, module.name.replaceAll("_", " ")), list);
  });
  stage.onPoint = (x, y) => {
    const found = x === null ? [] : claims(chosen.module, prediction, x, y);
    buttons.forEach((button) => button.classList.remove("claims"));
    const first = found.slice(0, CLAIMS_SHOWN);
    first.forEach(({ token }) => buttons.get(token).classList.add("claims"));
    return first.map(({ token, share }) => `token ${token.index}: ${percent(share, 0)}`).join(" · ");
  };
  container.replaceChildren(make("h3", {}, "Where tokens look"), intro(prediction), facts, ...sections);
  const last = modules.at(-1);
  choose(last, ranked(last.tokens)[0]);
}

function withMaps(module) {
  const tokens = module.tokens.map((token) => ({
    ...token, map: Uint8Array.from(atob(token.attention), (each) => each.charCodeAt(0)),
  }));
  return { ...module, tokens };
}

/** By contribution to the class, where it is known; otherwise by share of the attention. */
function ranked(tokens) {
  const rank = (token) => token.contribution ?? token.share;
  return [...tokens].sort((a, b) => rank(b) - rank(a));
}

function intro({ explained }) {
  const order = explained
    ? ["Ranked by contribution to ", make("b", {}, explained.label), ". "]
    : ["Ranked by share of the attention. "];
  return make("p", { class: "quiet" }, ...order,
    "Each map is scaled by its own maximum. It shows where a token looks, not why the model decides.");
}

function factsOf(module, token) {
  const facts = [
    [`Share of attention`, percent(token.share), token.share],
    ["Spread (entropy)", percent(token.entropy, 0), token.entropy],
  ];
  if (token.contribution != null) facts.unshift(["Contribution", signed(token.contribution), null]);
  const name = `Token ${token.index} of ${module.name.replaceAll("_", " ")}`;
  return [make("b", {}, name), ...facts.map(([label, value, share]) => make("span", { class: "fact" },
    make("span", {}, label), make("b", {}, value), ...(share === null ? [] : [bar(share)])))];
}

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;

function tokenButton(thumb, module, token, prediction, choose) {
  const canvas = document.createElement("canvas");
  canvas.width = thumb.width;
  canvas.height = thumb.height;
  drawMap(canvas, token, module.grid, prediction);
  const context = canvas.getContext("2d");
  context.globalCompositeOperation = "destination-over";
  context.drawImage(thumb, 0, 0);
  const value = token.contribution == null ? percent(token.share) : signed(token.contribution);
  return make("button", {
    class: "token", type: "button", "aria-pressed": "false",
    "aria-label": `Token ${token.index}, ${value}`,
    click: choose, focus: choose, pointerenter: choose,
  }, canvas, make("span", {}, String(token.index), make("b", {}, value)));
}

function photoThumb(photo, { width, height }) {
  const canvas = document.createElement("canvas");
  canvas.width = THUMB_WIDTH;
  canvas.height = Math.max(1, Math.round((THUMB_WIDTH * height) / width));
  if (photo.bitmap) canvas.getContext("2d").drawImage(photo.bitmap, 0, 0, canvas.width, canvas.height);
  return canvas;
}

function colorOf(share) {
  const next = Math.max(1, COLORS.findIndex(([at]) => at >= share));
  const [[from, low], [to, high]] = [COLORS[next - 1], COLORS[next]];
  const mix = (share - from) / (to - from);
  const [red, green, blue, alpha] = low.map((each, index) => each + mix * (high[index] - each));
  return [red, green, blue, 255 * alpha];
}
