// The page: what is chosen, and what follows from it.

import { ApiError, apiKey, getJson, predict, send, setApiKey } from "./api.js";
import { Camera } from "./camera.js";
import { showClasses } from "./classes.js";
import { showPair, showSimilarity, SLOTS } from "./compare.js";
import { find, make, roving } from "./dom.js";
import { showMask } from "./mask.js";
import { followModels, idOf, showModels } from "./models.js";
import { acceptPhotos, openPhoto } from "./photos.js";
import { showCode } from "./snippets.js";
import { Stage } from "./stage.js";
import { showTiming } from "./timing.js";
import { showTokens } from "./tokens.js";

const stage = new Stage(find("#stage"));
const camera = new Camera();
const tabs = [...document.querySelectorAll("[role=tab]")];
const state = {
  endpoints: [], // such as "POST /v1/classify"
  models: [],
  examples: {},
  model: null, // the chosen version, with its contract
  view: "predict",
  photo: null,
  pair: [null, null],
  slot: 0,
  opacity: { value: 0.6 },
  running: null, // aborts the request in progress
};

// What each view asks of the service, and how it shows the answer.
const VIEWS = {
  predict: {
    title: "Prediction",
    photos: () => [state.photo],
    call: () => (segments()
      ? { path: "v1/segment", query: { mask: "rle" } }
      : { path: "v1/classify", query: { top_k: 5 } }),
    show: (container, answer, call) => (segments()
      ? showMask(container, stage, answer, { model: state.model, call, opacity: state.opacity })
      : showClasses(container, answer)),
    offered: () => true,
  },
  tokens: {
    title: "Tokens",
    photos: () => [state.photo],
    call: () => ({ path: "v1/explain", query: {} }),
    show: (container, answer) => showTokens(container, stage, answer, state.photo),
    offered: (outputs) => serves("v1/explain") && outputs.some((name) => name.startsWith("token_attention")),
  },
  compare: {
    title: "Compare",
    photos: () => state.pair,
    call: () => ({ path: "v1/embed", query: { normalize: true } }),
    show: (container, answer) => showSimilarity(container, answer),
    offered: (outputs) => serves("v1/embed") && outputs.includes("tokens"),
  },
};

const serves = (path) => state.endpoints.some((each) => each.endsWith(`/${path}`));
const segments = () => state.model.task === "segmentation";

/** Ask the service about the photos of the view, unless one is missing. */
async function ask() {
  state.running?.abort();
  const view = VIEWS[state.view];
  const photos = view.photos();
  if (!state.model || photos.some((photo) => photo === null)) return;
  const { name: model, version } = state.model;
  const { path, query } = view.call();
  const call = { path, query: { model, version, ...query }, photos };
  const running = new AbortController();
  state.running = running;
  find("#work").setAttribute("aria-busy", "true");
  try {
    const { answer, timing } = await predict(call, running.signal);
    if (state.running !== running) return;
    showError(null);
    showAnswer(view, call, answer, timing);
  } catch (error) {
    if (state.running === running) showError(error);
  } finally {
    if (state.running === running) find("#work").setAttribute("aria-busy", "false");
  }
}

function showAnswer(view, call, answer, timing) {
  if (state.view !== "compare") stage.show(state.photo, answer.predictions[0].width ? answer.predictions[0] : state.photo);
  view.show(find("#result"), answer, call);
  showTiming(find("#timing"), timing);
  if (!camera.isOn || find("#code").hidden) showCode(find("#code"), call);
}

function showError(error) {
  if (error?.name === "AbortError") return;
  find("#error").hidden = !error;
  find("#error").textContent = error?.message ?? "";
  if (!error) return;
  find("#result").replaceChildren();
  find("#timing").hidden = true;
  stage.clear();
  if (error.status === 401 || error.status === 403) find("#key").open = true;
  if (!(error instanceof ApiError)) console.error(error);
}

async function takePhoto(photo, target = null) {
  camera.stop();
  showCamera();
  if (state.view === "compare") {
    const slot = target?.closest?.(".slot")?.dataset.slot ?? state.slot;
    state.pair[slot] = photo;
    state.slot = 1 - slot;
    showSlots();
  } else {
    state.photo = photo;
    stage.show(photo);
    find("#result").replaceChildren();
  }
  markExample();
  await ask();
}

async function takeExample(model, file) {
  const response = await send(`playground/examples/${encodeURIComponent(model)}/${encodeURIComponent(file)}`);
  const photo = await openPhoto(await response.blob(), file);
  await takePhoto({ ...photo, example: `${model}/${file}` });
}

async function chooseModel(model) {
  const detail = await getJson(`v1/models/${encodeURIComponent(model.name)}?version=${model.version}`);
  const isOther = state.model?.name !== model.name;
  state.model = detail;
  showModels(find("#models"), state.models, model, chosen);
  offerViews();
  const files = state.examples[model.name] ?? [];
  if (isOther) await showExamples(model.name, files);
  const keeps = state.photo && !state.photo.example;
  if (keeps || state.view === "compare" || !isOther || !files.length) await ask();
  else await takeExample(model.name, files[Math.min(1, files.length - 1)]);
}

const chosen = (model) => chooseModel(model).catch(showError);

/** Offer the views that the chosen model has outputs for. */
function offerViews() {
  const outputs = state.model.contract.outputs.map((each) => each.name);
  for (const tab of tabs) tab.hidden = !VIEWS[tab.dataset.view].offered(outputs);
  find(".tabs").hidden = tabs.filter((tab) => !tab.hidden).length < 2;
  if (tabs.some((tab) => tab.hidden && tab.dataset.view === state.view)) showView("predict");
}

function showView(name) {
  state.view = name;
  for (const tab of tabs) {
    const isChosen = tab.dataset.view === name;
    tab.setAttribute("aria-selected", isChosen);
    tab.tabIndex = isChosen ? 0 : -1;
    if (isChosen) find("#result").setAttribute("aria-labelledby", tab.id);
  }
  const compares = name === "compare";
  if (compares) camera.stop();
  showCamera();
  find("#stage").hidden = compares;
  find("#pair").hidden = !compares;
  find("#result").replaceChildren();
  for (const id of ["#timing", "#code", "#error"]) find(id).hidden = true;
  if (compares && !state.pair[0] && state.photo) {
    state.pair[0] = state.photo;
    state.slot = 1;
  }
  if (compares) showSlots();
  if (state.photo && !compares) stage.show(state.photo);
  markExample();
}

function showSlots() {
  showPair(find("#pair"), state.pair, state.slot, (slot) => {
    state.slot = slot;
    showSlots();
    find(`#pair [data-slot="${slot}"]`).focus();
  });
  if (state.pair.includes(null)) {
    const missing = SLOTS[state.pair.indexOf(null)];
    find("#result").replaceChildren(make("p", { class: "quiet" }, `Choose the ${missing} photo.`));
  }
}

async function showExamples(model, files) {
  const list = find("#examples");
  list.replaceChildren(...files.map((file) => {
    const image = make("img", { alt: "", width: 96, height: 72, loading: "lazy" });
    const name = file.replace(/\.\w+$/, "").replaceAll("_", " ");
    loadImage(image, `playground/examples/${encodeURIComponent(model)}/${encodeURIComponent(file)}`);
    return make("button", {
      class: "thumb", type: "button", title: name, "aria-label": `Example: ${name}`,
      "data-example": `${model}/${file}`, click: () => takeExample(model, file).catch(showError),
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

function markExample() {
  const shown = state.view === "compare" ? state.pair.map((each) => each?.example) : [state.photo?.example];
  for (const thumb of find("#examples").children) {
    thumb.setAttribute("aria-pressed", shown.includes(thumb.dataset.example));
  }
}

async function toggleCamera() {
  if (camera.isOn) {
    camera.stop();
    showCamera();
    return;
  }
  if (state.view === "compare") showView("predict");
  try {
    const running = camera.run(async (photo, fps) => {
      showCamera();
      state.photo = photo;
      await ask();
      if (camera.isOn && fps) stage.note(`${fps.toFixed(1)} frames per second`);
      if (!find("#error").hidden) camera.stop();
    });
    await running;
  } catch (error) {
    showError(error);
  } finally {
    camera.stop();
    showCamera();
  }
}

function showCamera() {
  find("#camera").setAttribute("aria-pressed", camera.isOn);
  find("#camera").textContent = camera.isOn ? "Stop camera" : "Camera";
  if (!camera.isOn) stage.note(null);
}

async function followService() {
  state.endpoints = Object.keys(await getJson("./"));
  find("#metrics").hidden = !serves("metrics");
  find("#version").textContent = (await getJson("v2")).version;
  state.examples = await getJson("playground/examples");
  await followModels(async (models) => {
    state.models = models;
    showModels(find("#models"), models, state.model, chosen);
    const ready = models.filter((each) => each.state === "READY");
    if (!state.model && ready.length) await chooseModel(ready[0]);
  });
}

function followInput() {
  roving(find(".tabs"), "[role=tab]");
  for (const tab of tabs) {
    tab.addEventListener("click", () => { showView(tab.dataset.view); ask(); });
  }
  find("#file").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file) await takePhoto(await openPhoto(file, file.name));
  });
  acceptPhotos(find("#drop"), takePhoto);
  find("#camera").addEventListener("click", toggleCamera);
  find("#key form").addEventListener("submit", (event) => {
    event.preventDefault();
    setApiKey(find("#key-value").value.trim());
    find("#key").open = false;
    start();
  });
  find("#key-value").value = apiKey();
}

async function start() {
  try {
    showError(null);
    await followService();
    if (state.photo) await ask();
  } catch (error) {
    showError(error);
  }
}

showView("predict");
followInput();
start();
