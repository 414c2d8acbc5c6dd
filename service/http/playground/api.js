// Requests to the service that sent this page. All addresses are relative to the page.

const KEY = "vt-serve-key";

export class ApiError extends Error {
  constructor(sentence, status) {
    super(sentence);
    this.status = status;
  }
}

export function apiKey() {
  return sessionStorage.getItem(KEY) ?? "";
}

export function setApiKey(value) {
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
}

/** Send a request; throws an `ApiError` with the server's own sentence if it is refused. */
export async function send(path, options = {}) {
  const headers = new Headers(options.headers);
  if (apiKey()) headers.set("X-API-Key", apiKey());
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-cache" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The service cannot be reached.", 0);
  }
  if (response.ok) return response;
  throw new ApiError(await sentence(response), response.status);
}

export const getJson = async (path) =>
  (await send(path, { headers: { Accept: "application/json" } })).json();

async function sentence(response) {
  try {
    return (await response.json()).error;
  } catch {
    return `The answer has the status ${response.status}.`;
  }
}

/** The path of a call with its query, whose empty parameters are left out. */
export function withQuery(path, query) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value != null);
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

/** Send photos; return the answer's JSON and where the time went. */
export async function predict(call, signal) {
  const began = performance.now();
  const response = await send(withQuery(call.path, call.query), {
    method: "POST",
    body: bodyOf(call.photos),
    signal,
  });
  const answer = await response.json();
  return { answer, timing: timingOf(response, performance.now() - began) };
}

/** One photo is the body itself; several are a form. */
export function bodyOf(photos) {
  if (photos.length === 1) return photos[0].blob;
  const form = new FormData();
  photos.forEach((photo, index) => form.append("ab"[index], photo.blob, photo.name));
  return form;
}

function timingOf(response, total) {
  const header = response.headers.get("Server-Timing") ?? "";
  const stages = [...header.matchAll(/(\w+);dur=([\d.]+)/g)];
  return { total, stages: stages.map(([, name, duration]) => ({ name, ms: Number(duration) })) };
}
