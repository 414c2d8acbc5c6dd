// The models of the service: their states, and the one that is chosen.

import { getJson } from "./api.js";
import { make, percent } from "./dom.js";

const PAUSE_MS = 1000; // between questions while a model loads

/** Follow the models; `changed` is called with their versions until none is loading. */
export async function followModels(changed) {
  for (;;) {
    const { models } = await getJson("v1/models");
    await changed(models);
    if (!models.some((each) => each.state === "LOADING")) return;
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}

export const idOf = (model) => `${model.name}/${model.version}`;

/** One card per version, as radio buttons. */
export function showModels(container, models, chosen, choose) {
  const cards = models.map((model) => {
    const input = make("input", {
      type: "radio",
      name: "model",
      class: "unseen",
      value: idOf(model),
      disabled: model.state !== "READY",
      change: () => choose(model),
    });
    input.checked = chosen !== null && idOf(model) === idOf(chosen);
    return make("label", { class: `model ${model.state.toLowerCase()}` }, input, ...details(model, models));
  });
  const focused = document.activeElement?.name === "model" && document.activeElement.value;
  container.replaceChildren(...cards);
  if (focused) container.querySelector(`[value="${CSS.escape(focused)}"]`)?.focus();
}

function details(model, models) {
  const siblings = models.filter((each) => each.name === model.name);
  const version = siblings.length > 1 ? ` version ${model.version}` : "";
  const words = `${model.name}${version}`.split(/(?<=_)/);
  const title = make("span", { class: "name" }, ...words.flatMap((word) => [word, make("wbr")]));
  const state = make("span", { class: "state" }, model.state.toLowerCase());
  const lines = [make("span", { class: "line" }, title, state)];
  if (model.state === "READY") {
    const known = facts(model).map((each) => make("span", {}, each));
    lines.push(make("span", { class: "facts" }, ...known));
  }
  if (model.reason) lines.push(make("span", { class: "reason" }, model.reason));
  return lines;
}

function facts(model) {
  const provider = model.execution_provider.active.replace("ExecutionProvider", "");
  const known = [model.task, `${model.precision} on ${provider}`];
  const accuracy = model.accuracy;
  if (accuracy?.top1 != null) known.push(`${percent(accuracy.top1)} top-1`);
  else if (accuracy?.miou != null) known.push(`${percent(accuracy.miou)} mIoU`);
  return known;
}
