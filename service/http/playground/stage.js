// The photo, what is drawn over it, and the pixel under the pointer.

import { find } from "./dom.js";

const MAX_SIDE = 2048; // of the canvas; the screen shows no more

export class Stage {
  constructor(figure) {
    this.figure = figure;
    this.frame = figure.querySelector(".frame");
    this.photo = figure.querySelector(".photo");
    this.overlay = figure.querySelector(".overlay");
    this.tip = figure.querySelector(".tip");
    this.badge = figure.querySelector(".badge");
    this.onPoint = null; // called with x and y as shares of the photo, or null; returns the tip
    this.frame.addEventListener("pointermove", (event) => this.#point(event));
    this.frame.addEventListener("pointerdown", (event) => this.#point(event));
    this.frame.addEventListener("pointerleave", () => this.#leave());
  }

  /** Show a photo, without an overlay; an answer may know the size of one that has no bitmap. */
  show(photo, answer = {}) {
    const width = photo.width ?? answer.width ?? 4;
    const height = photo.height ?? answer.height ?? 3;
    const scale = Math.min(1, MAX_SIDE / Math.max(width, height));
    this.photo.width = Math.round(width * scale);
    this.photo.height = Math.round(height * scale);
    this.frame.style.setProperty("--ratio", width / height);
    const context = this.photo.getContext("2d");
    if (photo.bitmap) context.drawImage(photo.bitmap, 0, 0, this.photo.width, this.photo.height);
    this.photo.setAttribute("aria-label", photo.name);
    find("#stage .empty").hidden = Boolean(photo.bitmap);
    find("#stage .empty").textContent = "This browser cannot show this format.";
    this.figure.classList.add("filled");
    this.clear();
  }

  clear() {
    this.overlay.width = this.photo.width;
    this.overlay.height = this.photo.height;
    this.overlay.style.opacity = 1;
    this.onPoint = null;
    this.#leave();
  }

  /** Put a small text into the corner; none hides it. */
  note(text) {
    this.badge.hidden = !text;
    this.badge.textContent = text ?? "";
  }

  #point(event) {
    if (!this.onPoint) return;
    const box = this.photo.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width;
    const y = (event.clientY - box.top) / box.height;
    if (x < 0 || y < 0 || x >= 1 || y >= 1) return;
    const text = this.onPoint(x, y);
    this.tip.hidden = !text;
    if (!text) return;
    this.tip.textContent = text;
    const figure = this.figure.getBoundingClientRect();
    this.tip.style.left = `${event.clientX - figure.left}px`;
    this.tip.style.top = `${event.clientY - figure.top}px`;
  }

  #leave() {
    this.tip.hidden = true;
    this.onPoint?.(null, null);
  }
}
