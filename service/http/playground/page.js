// The page: what is chosen, and what follows from it.

import { ApiError, apiKey, getJson, predict, send, setApiKey } from "./api.js";
import { Camera } from "./camera.js";
import { showPair, SLOTS } from "./compare.js";
import { find, make, roving } from "./dom.js";
import { markExamples, openExample, showExamples } from "./examples.js";
import { followModels, showModels } from "./models.js";
import { acceptPhotos, openPhoto } from "./photos.js";
import { showCode } from "./snippets.js";
import { Stage } from "./stage.js";
import { serves, state } from "./state.js";
import { showTiming } from "./timing.js";
import { VIEWS } from "./views.js";

const stage = new Stage(find("#stage"));
const camera = new Camera();
const tabs = [...document.querySelectorAll("[role=tab]")];

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
  if (state.view !== "compare") stage.show(state.photo, answer.predictions[0]);
  view.show(find("#result"), stage, answer, call);
  if (!camera.isOn) find("#said").textContent = view.summary(answer);
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
  markExamples();
  await ask();
}

const takeExample = async (model, file) => takePhoto(await openExample(model, file));

async function chooseModel(model) {
  const detail = await getJson(`v1/models/${encodeURIComponent(model.name)}?version=${model.version}`);
  const isOther = state.model?.name !== model.name;
  state.model = detail;
  showModels(find("#models"), state.models, model, chooseModel);
  offerViews();
  const files = state.examples[model.name] ?? [];
  if (isOther) showExamples(model.name, files, takeExample);
  const keeps = state.photo && !state.photo.example;
  if (keeps || state.view === "compare" || !isOther || !files.length) await ask();
  else await takeExample(model.name, files[Math.min(1, files.length - 1)]);
}

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
  markExamples();
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

async function toggleCamera() {
  if (camera.isOn) {
    camera.stop();
    showCamera();
    return;
  }
  if (state.view === "compare") showView("predict");
  try {
    await camera.run(async (photo, fps) => {
      showCamera();
      state.photo = photo;
      markExamples();
      await ask();
      if (camera.isOn && fps) stage.note(`${fps.toFixed(1)} frames per second`);
      if (!find("#error").hidden) camera.stop();
    });
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
    showModels(find("#models"), models, state.model, chooseModel);
    const ready = models.filter((each) => each.state === "READY");
    const newest = ready.findLast((each) => each.name === ready[0].name);
    if (!state.model && newest) await chooseModel(newest);
  });
}

function followInput() {
  addEventListener("unhandledrejection", (event) => { // of any handler below
    event.preventDefault();
    showError(event.reason);
  });
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
  showError(null);
  await followService();
  if (state.photo) await ask();
}

showView("predict");
followInput();
start();
