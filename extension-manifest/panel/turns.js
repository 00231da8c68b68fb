// What was said, as it is seen: the person's words, and answers that grow.

import { announce, copyButton, h, icon, iconButton } from "./dom.js";
import { GrowingMarkdown, markdown } from "./markdown.js";

const LONG = 900; // characters of a question that is not shown whole

export function userTurn(text) {
  const className = text.length > LONG ? "said long" : "said";
  const said = h("div", { className, tabIndex: text.length > LONG ? 0 : -1 }, text);
  return h("article", { className: "turn user", "aria-label": "You" }, said);
}

/** An answer: its steps, its thoughts, its text, its sources, and how it ended. */
export class AnswerTurn {
  text = "";
  #sources = [];
  #growing;
  #frame = 0;
  #thoughts = null;

  /** `onCite(source, claim)` shows a source's passage, and tells whether it could. `claim` is the
   * sentence of the answer that cites it. */
  constructor({ onCite = async () => false } = {}) {
    this.onCite = onCite;
    this.body = h("div", { className: "body" });
    this.step = h("div", { className: "step", hidden: true }, h("span", { className: "spinner" }));
    this.stepText = h("span");
    this.step.append(this.stepText);
    this.after = h("div");
    this.foot = h("div", { className: "foot", hidden: true });
    this.element = h("article", { className: "turn answer", "aria-label": "TabAgent" });
    this.element.append(this.step, this.body, this.after, this.foot);
    this.#growing = new GrowingMarkdown(this.body, (number) => this.#mark(number));
  }

  /** What is being done, before there is any text. */
  say(step) {
    this.element.classList.add("writing");
    this.step.hidden = !step;
    this.stepText.textContent = step;
  }

  think(text) {
    if (!this.#thoughts) {
      this.#thoughts = h("div");
      const summary = h("summary", {}, "Thinking");
      this.step.after(h("details", { className: "thinking" }, summary, this.#thoughts));
    }
    this.#thoughts.append(text);
    this.say("");
  }

  add(text) {
    if (!text) return;
    this.text += text;
    this.step.hidden = true;
    // Drawn once a frame, however fast it comes; a page that is not seen draws at the end.
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  sources(found) {
    this.#sources = found;
  }

  /** It is whole. `again` answers anew; `meta` is a short line about it. */
  finish({ meta = "", again = null, note = "", quiet = false } = {}) {
    this.#end();
    if (this.text) this.#growing.finish();
    this.after.replaceChildren();
    if (note) this.after.append(h("p", { className: "note" }, note));
    if (this.#sources.length) this.after.append(this.#list());
    this.foot.replaceChildren();
    if (this.text) this.foot.append(copyButton(() => this.text, "Copy the answer"));
    if (again) this.foot.append(iconButton("again", "Answer again", again, { className: "again" }));
    if (meta) this.foot.append(h("span", { className: "meta" }, meta));
    this.foot.hidden = !this.foot.childNodes.length;
    if (!quiet) announce(this.text ? `Answer: ${this.text}` : note || "No answer");
  }

  /** It failed. What there is of it stays. */
  fail(error, again) {
    this.finish({ quiet: true });
    const problem = error.problem ?? {};
    const title = problem.title ?? "Something went wrong";
    const card = h(
      "div",
      { className: "card bad", role: "alert" },
      h("h3", {}, icon("warning"), title),
      h("p", {}, error.message && error.message !== title ? error.message : ""),
    );
    if (problem.instance)
      card.append(h("p", { className: "note" }, `${error.code} · ${problem.instance}`));
    if (again) {
      const button = h(
        "button",
        { type: "button", className: "plain again", onclick: again },
        "Try again",
      );
      card.append(h("div", { className: "buttons" }, button));
    }
    this.after.append(card);
  }

  /** From the history. */
  restore(message, found) {
    this.text = typeof message.content === "string" ? message.content : partsText(message.content);
    if (message.reasoning_content) this.think(message.reasoning_content);
    this.#sources = found?.sources ?? [];
    this.element.classList.toggle("unended", message.status === "pending");
    this.body.replaceChildren(markdown(this.text, (number) => this.#mark(number)));
    this.#growing.update(this.text);
    this.finish({
      meta: message.model?.split("/").at(-1) ?? "",
      note: STATES[message.status] ?? "",
      quiet: true,
    });
  }

  #draw() {
    this.#frame = 0;
    this.#growing.update(this.text);
    this.element.dispatchEvent(new CustomEvent("grown", { bubbles: true }));
  }

  #end() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.element.classList.remove("writing");
    this.step.hidden = true;
    this.#growing.update(this.text);
    const thinking = this.element.querySelector(".thinking summary");
    if (thinking) thinking.textContent = "Thoughts";
  }

  #mark(number) {
    const source = this.#sources.find((one) => one.number === number);
    if (!source) return null;
    const label = `Source ${number}: show it in the page`;
    return h(
      "button",
      {
        type: "button",
        className: "cite",
        title: label,
        "aria-label": label,
        "aria-pressed": "false",
        "data-number": number,
        onclick: ({ currentTarget }) => this.#show(source, claimOf(currentTarget)),
      },
      String(number),
    );
  }

  #list() {
    const shown = new Set(
      [...this.body.querySelectorAll(".cite")].map((one) => Number(one.dataset.number)),
    );
    const cited = this.#sources.filter(({ number }) => shown.has(number));
    const rows = (cited.length ? cited : this.#sources.slice(0, 3)).map((source) =>
      h(
        "li",
        {},
        h(
          "button",
          {
            type: "button",
            "aria-pressed": "false",
            "data-number": source.number,
            onclick: () => this.#show(source),
          },
          h("b", {}, String(source.number)),
          h(
            "span",
            { className: "where" },
            source.headings?.at(-1) || source.title || source.source,
          ),
          h("span", { className: "quote" }, plain(source.text)),
        ),
      ),
    );
    return h("ul", { className: "sources", "aria-label": "Sources" }, ...rows);
  }

  async #show(source, claim = "") {
    for (const one of document.querySelectorAll("[data-number][aria-pressed]")) {
      const mine = this.element.contains(one) && Number(one.dataset.number) === source.number;
      one.setAttribute("aria-pressed", String(mine));
    }
    const found = await this.onCite(source, claim).catch(() => false);
    announce(
      found
        ? `Source ${source.number} is marked in the page`
        : "The passage was not found in the page",
    );
    if (found) return;
    for (const one of this.element.querySelectorAll('[aria-pressed="true"]'))
      one.setAttribute("aria-pressed", "false");
    this.after.querySelector(".missing")?.remove();
    this.after.append(
      h(
        "p",
        { className: "note missing" },
        "This passage is not to be found in the page as it is now.",
      ),
    );
  }
}

/** What stands before a mark, as far as its sentence goes. */
function claimOf(mark) {
  const block = mark.closest("p, li, td, th, h3, h4, h5, h6") ?? mark.parentElement;
  const range = document.createRange();
  range.setStart(block, 0);
  range.setEndBefore(mark);
  const said = range.toString().replace(/[\s\d]+$/, "");
  return said.split(/(?<=[.!?。！？])\s+/).at(-1);
}

const STATES = {
  pending: "This answer is still being written.",
  partial: "This answer was cut off.",
  failed: "No answer came.",
};

function partsText(content) {
  return Array.isArray(content) ? content.map((part) => part.text ?? "[image]").join("\n") : "";
}

const plain = (text) =>
  text
    .replace(/\]\([^)\s]*\)/g, "]")
    .replace(/[#*_`|>[\]]+/g, " ")
    .replace(/\s+/g, " ")
    .trim();

export const textOfMessage = (message) =>
  typeof message.content === "string" ? message.content : partsText(message.content);
