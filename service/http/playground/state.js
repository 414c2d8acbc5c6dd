// What is chosen on the page, and what the service offers.

export const state = {
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

/** Whether the service lists an endpoint with this path. */
export const serves = (path) => state.endpoints.some((each) => each.endsWith(`/${path}`));
