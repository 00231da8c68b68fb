// Which model answers, and how far it is with loading.

import { h, show } from "./dom.js";

const STATES = { ready: "loaded", loading: "loading", restarting: "restarting" };

export class Models {
  #agent = null;
  #timer = 0;
  #known = [];

  constructor({ select, strip, bar, text, busy, ready, onChoice }) {
    Object.assign(this, { select, strip, bar, text, busy, ready });
    select.addEventListener("change", () => onChoice(select.value));
  }

  get chosen() {
    return this.select.value || null;
  }

  /** The name of the model that will answer. */
  get name() {
    return this.chosen ?? this.#known.find((model) => model.selected)?.id ?? "the model";
  }

  async use(agent, wanted) {
    this.#agent = agent;
    await this.load(wanted ?? this.select.value);
  }

  choose(id) {
    if ([...this.select.options].some(({ value }) => value === id)) this.select.value = id;
  }

  async load(wanted = this.select.value) {
    const models = await this.#agent.models();
    this.#known = models.filter(({ capabilities, problem }) => capabilities.chat && !problem);
    const standard = this.#known.find((model) => model.selected);
    const first = h(
      "option",
      { value: "" },
      standard ? `${short(standard.id)} (default)` : "Default",
    );
    const groups = [
      ["Loaded", this.#known.filter(({ loaded }) => loaded)],
      ["Loads at first use", this.#known.filter(({ loaded }) => !loaded)],
    ].filter(([, rows]) => rows.length);
    this.select.replaceChildren(
      first,
      ...groups.map(([label, rows]) =>
        h("optgroup", { label }, ...rows.map((model) => option(model))),
      ),
    );
    this.choose(wanted);
    this.select.title = `Model: ${this.name}`;
  }

  /** A model's state changed. */
  changed({ model, state, progress }) {
    if (state === "loading" || state === "restarting") {
      // What the server loads for itself is of interest only while somebody waits.
      if (!this.busy() && !this.#known.some(({ id }) => id === model)) return;
      this.text.textContent = `Loading ${short(model)}${progress ? ` · ${Math.round(progress * 100)} %` : ""}`;
      if (progress) this.bar.value = progress;
      else this.bar.removeAttribute("value");
      this.strip.dataset.model = model;
      show(this.strip, true);
      return;
    }
    if (this.strip.dataset.model === model) show(this.strip, false);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.ready() && this.load().catch(() => {}), 200);
  }
}

const short = (id) => id.split("/").at(-1);

function option(model) {
  const facts = [model.quantization, size(model.size_bytes), STATES[model.state]].filter(Boolean);
  return h(
    "option",
    { value: model.id, title: model.id },
    `${short(model.id)} · ${facts.join(" · ")}`,
  );
}

function size(bytes) {
  if (!bytes) return "";
  return bytes >= 1e9
    ? `${(bytes / 1e9).toFixed(1)} GB`
    : `${Math.max(1, Math.round(bytes / 1e6))} MB`;
}
