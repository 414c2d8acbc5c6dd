// The example photos of a model, as thumbnails.

import { send } from "./api.js";
import { find, make, roving } from "./dom.js";
import { openPhoto } from "./photos.js";
import { state } from "./state.js";

const pathOf = (model, file) =>
  `playground/examples/${encodeURIComponent(model)}/${encodeURIComponent(file)}`;

/** Return an example as a photo that remembers where it is from. */
export async function openExample(model, file) {
  const photo = await openPhoto(await (await send(pathOf(model, file))).blob(), file);
  return { ...photo, example: `${model}/${file}` };
}

/** Show thumbnails; `take` is called with the model and the file of the one that is chosen. */
export function showExamples(model, files, take) {
  const list = find("#examples");
  list.replaceChildren(...files.map((file) => {
    const image = make("img", { alt: "", width: 96, height: 72, loading: "lazy" });
    const name = file.replace(/\.\w+$/, "").replaceAll("_", " ");
    loadImage(image, pathOf(model, file));
    return make("button", {
      class: "thumb", type: "button", title: name, "aria-label": `Example: ${name}`,
      "data-example": `${model}/${file}`, click: () => take(model, file),
    }, image);
  }));
  roving(list, "button");
}

async function loadImage(image, path) {
  try {
    image.src = URL.createObjectURL(await (await send(path)).blob());
  } catch {
    image.alt = "not available";
  }
}

/** Mark the thumbnails of the photos that are shown. */
export function markExamples() {
  const shown = state.view === "compare" ? state.pair.map((each) => each?.example) : [state.photo?.example];
  for (const thumb of find("#examples").children) {
    thumb.setAttribute("aria-pressed", shown.includes(thumb.dataset.example));
  }
}
