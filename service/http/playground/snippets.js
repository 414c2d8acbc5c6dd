// The call that was just made, as commands to copy.

import { apiKey, withQuery } from "./api.js";
import { make } from "./dom.js";

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function curl({ path, query, photos }) {
  const url = new URL(withQuery(path, query), document.baseURI);
  const files = photos.length === 1
    ? [`--data-binary ${quoted(`@${photos[0].name}`)}`]
    : photos.map((photo, index) => `-F ${quoted(`${"ab"[index]}=@${photo.name}`)}`);
  const key = apiKey() ? ['-H "X-API-Key: $VT_API_KEY"'] : [];
  return ["curl", ...key, ...files, quoted(url.href)].join(" ");
}

export function python({ path, query, photos }) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value != null);
  const options = [
    `    ${JSON.stringify(new URL(path, document.baseURI).href)},`,
    `    params=${pythonDict(given)},`,
    photos.length === 1
      ? `    data=open(${JSON.stringify(photos[0].name)}, "rb"),`
      : `    files={${photos.map((photo, index) =>
        `"${"ab"[index]}": open(${JSON.stringify(photo.name)}, "rb")`).join(", ")}},`,
    ...(apiKey() ? ['    headers={"X-API-Key": os.environ["VT_API_KEY"]},'] : []),
  ];
  return [
    ...(apiKey() ? ["import os", ""] : []),
    "import requests",
    "",
    "answer = requests.post(",
    ...options,
    ")",
    "answer.raise_for_status()",
    "print(answer.json())",
  ].join("\n");
}

function pythonDict(entries) {
  const pairs = entries.map(([name, value]) => `"${name}": ${JSON.stringify(String(value))}`);
  return `{${pairs.join(", ")}}`;
}

export function showCode(container, call) {
  const examples = { curl: curl(call), Python: python(call) };
  const blocks = Object.entries(examples).map(([name, text]) => make("section", { class: "snippet" },
    make("header", {}, make("h3", {}, name), copyButton(name, text)),
    make("pre", { tabindex: 0, "aria-label": `${name} command` }, make("code", {}, text))));
  container.replaceChildren(...blocks);
  container.hidden = false;
}

function copyButton(name, text) {
  const button = make("button", {
    class: "button small", type: "button", "aria-label": `Copy the ${name} command`,
    click: async () => {
      if (!navigator.clipboard) { // without HTTPS, browsers offer none: select the text instead
        getSelection().selectAllChildren(button.closest(".snippet").querySelector("code"));
        return;
      }
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    },
  }, "Copy");
  return button;
}
