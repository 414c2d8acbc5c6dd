// Small helpers for building the page.

/** Create an element; attributes that are functions are event handlers. */
export function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export const find = (selector) => document.querySelector(selector);

export const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;

/** A bar whose length is a share of its row; the text beside it says the number. */
export function bar(share, color) {
  const filled = make("span", { class: "filled" });
  filled.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  if (color) filled.style.background = color;
  return make("span", { class: "bar", "aria-hidden": "true" }, filled);
}

/** Let arrow keys move within a group of buttons, which is then one stop of the tab key. */
export function roving(group, selector) {
  const buttons = () => [...group.querySelectorAll(selector)].filter((each) => !each.hidden);
  const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  group.addEventListener("keydown", (event) => {
    const all = buttons();
    const step = steps[event.key];
    if (!step || !all.includes(event.target)) return;
    event.preventDefault();
    all.at((all.indexOf(event.target) + step) % all.length).focus();
  });
  group.addEventListener("focusin", (event) => {
    for (const each of buttons()) each.tabIndex = each === event.target ? 0 : -1;
  });
  buttons().forEach((each, index) => { each.tabIndex = index ? -1 : 0; });
}
