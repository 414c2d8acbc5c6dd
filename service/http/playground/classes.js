// The answer of a classifier: the most likely classes as bars.

import { bar, make, percent } from "./dom.js";

export function showClasses(container, answer) {
  const { classes } = answer.predictions[0];
  const rows = classes.map((each, index) =>
    make("li", { class: index ? "class" : "class best" },
      make("span", { class: "label" }, each.label),
      bar(each.score),
      make("span", { class: "number" }, percent(each.score))));
  container.replaceChildren(make("h3", {}, "Classes"), make("ol", { class: "classes" }, ...rows));
}
