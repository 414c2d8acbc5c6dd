// Where the time of a request went.

import { make } from "./dom.js";

const STAGES = ["receive", "queue", "decode", "compute", "encode"];

export function showTiming(container, { total, stages }) {
  const served = stages.reduce((sum, each) => sum + each.ms, 0);
  const rest = { name: "network", label: "network and browser", ms: Math.max(0, total - served) };
  const known = [...stages.filter((each) => STAGES.includes(each.name)), rest];
  const parts = known.map(({ name, ms }) => {
    const part = make("span", { class: `part ${name}`, title: `${name}: ${ms.toFixed(1)} ms` });
    part.style.flexGrow = ms;
    return part;
  });
  const legend = known.map(({ name, label = name, ms }) => make("li", {},
    make("span", { class: `dot ${name}`, "aria-hidden": "true" }), `${label} `,
    make("b", {}, `${ms.toFixed(1)} ms`)));
  container.replaceChildren(
    make("h3", {}, "Where the time went", make("span", { class: "total" }, `${total.toFixed(0)} ms`)),
    make("div", { class: "timebar", "aria-hidden": "true" }, ...parts),
    make("ul", { class: "legend" }, ...legend));
  container.hidden = false;
}
