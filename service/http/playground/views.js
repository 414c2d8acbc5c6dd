// The views of the page: prediction, tokens, and the comparison of two photos.

import { showClasses } from "./classes.js";
import { showSimilarity, similarityOf } from "./compare.js";
import { percent } from "./dom.js";
import { showMask } from "./mask.js";
import { serves, state } from "./state.js";
import { showTokens } from "./tokens.js";

const segments = () => state.model.task === "segmentation";

// What each view asks of the service, and how it shows the answer.
export const VIEWS = {
  predict: {
    photos: () => [state.photo],
    call: () => (segments()
      ? { path: "v1/segment", query: { mask: "rle" } }
      : { path: "v1/classify", query: { top_k: 5 } }),
    show: (container, stage, answer, call) => (segments()
      ? showMask(container, stage, answer, { model: state.model, call, opacity: state.opacity })
      : showClasses(container, answer)),
    summary: (answer) => answer.predictions[0].classes.slice(0, 3)
      .map((each) => `${each.label} ${percent(each.score ?? each.fraction)}`).join(", "),
    offered: () => true,
  },
  tokens: {
    photos: () => [state.photo],
    call: () => ({ path: "v1/explain", query: {} }),
    show: (container, stage, answer) => showTokens(container, stage, answer, state.photo),
    summary: (answer) => `${answer.predictions[0].modules.length} modules with tokens`,
    offered: (outputs) => serves("v1/explain") && outputs.some((name) => name.startsWith("token_attention")),
  },
  compare: {
    photos: () => state.pair,
    call: () => ({ path: "v1/embed", query: { normalize: true } }),
    show: (container, stage, answer) => showSimilarity(container, answer),
    summary: (answer) => `Similarity ${similarityOf(answer).toFixed(3)}`,
    offered: (outputs) => serves("v1/embed") && outputs.includes("tokens"),
  },
};
