// Two photos, and how similar the model finds them.

import { make, bar } from "./dom.js";

export const SLOTS = ["first", "second"];

/** Show the two photos; `pick` is called with a slot's index when it is chosen. */
export function showPair(container, photos, active, pick) {
  container.replaceChildren(...SLOTS.map((name, index) => {
    const photo = photos[index];
    const content = photo ? [thumbOf(photo)] : [make("span", { class: "quiet" }, `Drop the ${name} photo`)];
    return make("button", {
      class: "slot", type: "button", "data-slot": index, "aria-pressed": String(index === active),
      "aria-label": photo ? `The ${name} photo: ${photo.name}` : `The ${name} photo`,
      click: () => pick(index),
    }, ...content, make("span", { class: "caption" }, photo ? photo.name : `The ${name} photo`));
  }));
}

/** The cosine similarity of two normalized embeddings, from -1 to 1. */
export function similarityOf({ embeddings: [first, second] }) {
  return first.reduce((sum, value, index) => sum + value * second[index], 0);
}

export function showSimilarity(container, answer) {
  const similarity = similarityOf(answer);
  container.replaceChildren(
    make("h3", {}, "Similarity"),
    make("p", { class: "big" }, similarity.toFixed(3)),
    bar((similarity + 1) / 2),
    make("p", { class: "quiet" }, `Cosine of the two embeddings of ${answer.dimensions} numbers: `
      + "1 for the same direction, 0 for unrelated ones, −1 for opposite ones."));
}

function thumbOf(photo) {
  const canvas = document.createElement("canvas");
  const scale = Math.min(1, 640 / Math.max(photo.width ?? 4, photo.height ?? 3));
  canvas.width = Math.round((photo.width ?? 4) * scale);
  canvas.height = Math.round((photo.height ?? 3) * scale);
  if (photo.bitmap) canvas.getContext("2d").drawImage(photo.bitmap, 0, 0, canvas.width, canvas.height);
  return canvas;
}
